"""The Open Inference Protocol v2 over gRPC, on the event loop of the HTTP server (extra `grpc`).

A request is converted to the form of the JSON request, so that both have the same rules. Answers carry raw tensors.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from google.protobuf.message import DecodeError

from ..errors import ADDRESS_UNUSABLE, EXTRA_MISSING
from .arms import Arm, ArmName
from .bounds import largest_message, require_small_message
from .engine import Engine
from .grpc_messages import METHODS, SERVICE, message_class
from .limits import Buffer, Refusal
from .protocol import InferRequest, read_unit, understand
from .tensor_data import raw_bytes
from .versions import SERVER

__all__ = ["GrpcServer"]

_MOST_BYTES = 2**16
"""Most bytes of a message without tensors."""
_AT_ONCE = 0.25
"""Seconds after which a message counts as slow."""
_MOST_STREAMS = 256
"""Calls at a time per connection; more wait."""
_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_logger = logging.getLogger(__name__)


class GrpcServer:
    """A gRPC server around an engine.

    Raises:
        AtpatchError: ATP051 without grpcio.
    """

    def __init__(self, engine: Engine, host: str) -> None:
        try:
            import grpc
        except ImportError as error:
            raise EXTRA_MISSING("gRPC needs grpcio", "pip install 'atpatch-onnx[grpc]'") from error
        self._grpc = grpc
        self._engine = engine
        self._host = f"[{host}]" if ":" in host else host
        self._server: Any = None
        self._largest = largest_message(engine.original.inputs, engine.settings.limits)
        self.ready = True
        """What `ServerReady` says."""
        codes = grpc.StatusCode
        self._codes = {
            403: codes.PERMISSION_DENIED,
            404: codes.NOT_FOUND,
            408: codes.DEADLINE_EXCEEDED,
            413: codes.RESOURCE_EXHAUSTED,
            422: codes.FAILED_PRECONDITION,
            503: codes.UNAVAILABLE,
        }

    async def start(self) -> int:
        """Begin to serve; returns the port.

        Raises:
            AtpatchError: ATP074.
        """
        grpc, settings = self._grpc, self._engine.settings
        handlers = {name: self._handler(name) for name in METHODS}
        options = [
            ("grpc.max_receive_message_length", self._largest),
            ("grpc.max_concurrent_streams", _MOST_STREAMS),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        try:
            port: int = self._server.add_insecure_port(f"{self._host}:{settings.grpc_port}")
        except RuntimeError as error:
            raise ADDRESS_UNUSABLE(f"{self._host}:{settings.grpc_port} cannot be used for gRPC") from error
        await self._server.start()
        return port

    async def stop(self, grace: float) -> None:
        """Accept no more calls, and end the running ones."""
        await self._server.stop(grace)

    def _handler(self, name: str) -> Any:
        answer: Callable[[bytes, Any], Awaitable[dict[str, Any]]] = getattr(self, f"_{name}")
        response = message_class(f"{name}Response")

        async def call(_: Any, context: Any) -> Any:
            # Not `context.abort`: its exception would keep the message in memory until the next garbage collection.
            try:
                with self._engine.gate.buffer() as held:
                    data = await self._receive(context, held)
                    return response(**await answer(data, context))
            except Refusal as refusal:
                self._engine.metrics.refused(refusal.status)
                context.set_code(self._codes.get(refusal.status, self._grpc.StatusCode.INVALID_ARGUMENT))
                context.set_details(refusal.message)
                if refusal.code:
                    context.set_trailing_metadata((("atpatch-code", refusal.code),))
            except Exception:  # a bug of this server: no traceback goes to a client
                _logger.exception("a gRPC call failed")
                context.set_code(self._grpc.StatusCode.INTERNAL)
                context.set_details("internal error; see the server's own log")
            return response()

        # Served as a stream of one message, which looks the same on the wire: so it comes as bytes, and within a time.
        return self._grpc.stream_unary_rpc_method_handler(call, None, response.SerializeToString)

    async def _receive(self, context: Any, held: Buffer) -> bytes:
        gate = self._engine.gate
        reading = asyncio.ensure_future(context.read())
        try:
            async with gate.sending(held, gate.limits.body_seconds):
                await asyncio.wait((reading,), timeout=_AT_ONCE)
                if not reading.done():
                    held.hold(self._largest)  # grpc does not say how much of a message it has so far
                data = await reading
        finally:
            reading.cancel()
        if not isinstance(data, bytes):
            data = b""  # the client left
        held.hold(len(data))
        return data

    async def _ServerLive(self, data: bytes, context: Any) -> dict[str, Any]:  # noqa: N802  the protocol's name, as those below
        return {"live": True}

    async def _ServerReady(self, data: bytes, context: Any) -> dict[str, Any]:  # noqa: N802
        return {"ready": self.ready}

    async def _ServerMetadata(self, data: bytes, context: Any) -> dict[str, Any]:  # noqa: N802
        return dict(SERVER)

    async def _ModelReady(self, data: bytes, context: Any) -> dict[str, Any]:  # noqa: N802
        self._find(data)
        return {"ready": True}

    async def _ModelMetadata(self, data: bytes, context: Any) -> dict[str, Any]:  # noqa: N802
        self._find(data)
        return self._engine.metadata()

    def _find(self, data: bytes) -> None:
        if len(data) > _MOST_BYTES:
            raise Refusal(413, f"the message has {len(data)} bytes, {_MOST_BYTES} are allowed")
        request = _parse("ModelReadyRequest", data)
        self._engine.find(request.name, request.version)

    async def _ModelInfer(self, data: bytes, context: Any) -> dict[str, Any]:  # noqa: N802
        arrived = time.perf_counter()
        engine, arm = self._engine, self._engine.original
        version, parsed = await engine.gate.aside(len(data), lambda: self._understand(data, arm))
        metadata = dict(context.invocation_metadata() or ())
        unit = read_unit(parsed.parameters.get("unit", metadata.get(engine.settings.unit_header.lower())))
        with engine.gate.compute():
            answer = await engine.infer(parsed, unit, version, arrived)
        specs = engine.outputs
        outputs = [(want.name, specs[want.name].datatype, answer.outputs[want.name]) for want in parsed.wanted]
        return {
            "model_name": engine.settings.name,
            "model_version": answer.version,
            "id": answer.id,
            "parameters": [_parameter(key, value) for key, value in answer.parameters.items()],
            "outputs": [
                {"name": name, "datatype": datatype, "shape": array.shape} for name, datatype, array in outputs
            ],
            "raw_output_contents": [raw_bytes(array, datatype) for _, datatype, array in outputs],
        }

    def _understand(self, data: bytes, arm: Arm) -> tuple[ArmName | None, InferRequest]:
        """The arm that a ModelInferRequest names, and its request. Raises: Refusal."""
        limits = self._engine.settings.limits
        require_small_message(data, arm.inputs, arm.outputs, limits)
        request = _parse("ModelInferRequest", data)
        version = self._engine.find(request.model_name, request.model_version)
        raw = memoryview(b"".join(request.raw_input_contents))
        return version, understand(_header(request), raw, arm.inputs, arm.outputs, limits, batchable=arm.batchable)


def _parse(name: str, data: bytes) -> Any:
    try:
        return message_class(name).FromString(data)
    except DecodeError:
        raise Refusal(400, f"the message is no {name}") from None


def _header(request: Any) -> dict[str, Any]:
    """This request in the form of the JSON request. Raises: Refusal 400."""
    raw = list(request.raw_input_contents)
    if raw and (len(raw) != len(request.inputs) or any(tensor.HasField("contents") for tensor in request.inputs)):
        raise Refusal(400, "raw contents must be given for every input or for none, and then no others")
    inputs = []
    for number, tensor in enumerate(request.inputs):
        entry = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "parameters": _parameters(tensor.parameters),
        }
        if raw:
            entry["parameters"]["binary_data_size"] = len(raw[number])
        else:
            entry["data"] = _data(tensor)
        inputs.append(entry)
    outputs = [{"name": wanted.name, "parameters": _parameters(wanted.parameters)} for wanted in request.outputs]
    return {"id": request.id, "inputs": inputs, "outputs": outputs, "parameters": _parameters(request.parameters)}


def _data(tensor: Any) -> list[Any]:
    field = _FIELDS.get(tensor.datatype)
    values = list(getattr(tensor.contents, field)) if field else []
    try:
        return [value.decode() for value in values] if tensor.datatype == "BYTES" else values
    except UnicodeDecodeError:
        raise Refusal(400, f"input {tensor.name[:100]} holds bytes that are no UTF-8") from None


def _parameters(entries: Iterable[Any]) -> dict[str, Any]:
    """Of what the protocol carries as a map; clients that set raw output by a parameter get it anyway."""
    found = {}
    for entry in entries:
        choice = entry.value.WhichOneof("choice")
        if choice is not None:
            found[entry.key] = getattr(entry.value, choice)
    return found


def _parameter(key: str, value: Any) -> dict[str, Any]:
    kind = "bool_param" if isinstance(value, bool) else "int64_param" if isinstance(value, int) else "string_param"
    return {"key": key, "value": {kind: value}}
