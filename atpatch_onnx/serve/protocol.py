"""The Open Inference Protocol v2 over REST, with the binary tensor extension, as pure functions: bytes ⇄ arrays.

Sources: the protocol's specification (open-inference-protocol, "inference_rest"), and Triton's "Binary Tensor Data
Extension": a header `Inference-Header-Content-Length: N` says that the body is N bytes of JSON, then raw little-endian
tensors in the order of the inputs that have a `binary_data_size`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .bounds import require_few_values
from .limits import Limits, Refusal
from .tensor_data import from_bytes, from_json, raw_bytes, require_finite
from .tensors import Arrays, TensorSpec

__all__ = [
    "HEADER_LENGTH",
    "InferRequest",
    "Wanted",
    "count_as_json",
    "parse_request",
    "read_unit",
    "render_response",
    "understand",
]

HEADER_LENGTH = "Inference-Header-Content-Length"
_LONGEST_ID = 1024
_MOST_AS_JSON = 2**20
_UNSUPPORTED = ("shared_memory_region", "classification")


@dataclass(frozen=True)
class Wanted:
    """An output that the client asked for, and whether raw."""

    name: str
    binary: bool


@dataclass(frozen=True, eq=False)
class InferRequest:
    """A request understood.

    Attributes:
        id: None where the client gave none.
        feeds: one array an input, dtypes and shapes as the graph has them.
        samples: first dimension of the inputs, 1 where that does not count samples.
        wanted: outputs in the order of the answer.
        parameters: of the request.
    """

    id: str | None
    feeds: Arrays
    samples: int
    wanted: tuple[Wanted, ...]
    parameters: Mapping[str, Any]


def parse_request(
    body: bytes,
    header_length: str | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    limits: Limits,
    *,
    batchable: bool,
) -> InferRequest:
    """Read a body.

    Args:
        body: decompressed.
        header_length: value of `Inference-Header-Content-Length`, None: all of the body is JSON.
        inputs, outputs: of the model.
        batchable: the first dimension of all of them counts samples.

    Raises:
        Refusal: 400, or 413 beyond the limits.
    """
    split = _split_at(header_length, len(body))
    if split > limits.json:
        raise Refusal(413, f"the JSON has {split} bytes, {limits.json} are allowed; send large tensors raw")
    text = body[:split]
    require_few_values(text, inputs, limits)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError too
        raise Refusal(400, f"the request is not JSON: {_brief(error)}") from None
    if not isinstance(header, dict):
        raise Refusal(400, "the request must be a JSON object")
    return understand(header, memoryview(body)[split:], inputs, outputs, limits, batchable=batchable)


def understand(
    header: Mapping[str, Any],
    raw: memoryview,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    limits: Limits,
    *,
    batchable: bool,
) -> InferRequest:
    """A request whose JSON has been read; `raw` are the tensors behind it. Raises: as `parse_request`."""
    identity = header.get("id")
    if identity is not None and (not isinstance(identity, str) or len(identity) > _LONGEST_ID):
        raise Refusal(400, f"'id' must be a string of at most {_LONGEST_ID} characters")
    parameters = _parameters(header, "the request")
    feeds = _feeds(header, raw, {spec.name: spec for spec in inputs}, limits)
    samples = 1
    if batchable:
        counts = {array.shape[0] for array in feeds.values()}
        if len(counts) != 1:
            raise Refusal(400, f"the inputs disagree on the number of samples: {', '.join(map(str, sorted(counts)))}")
        samples = counts.pop()
    return InferRequest(identity or None, feeds, samples, _wanted(header, parameters, outputs), parameters)


def render_response(
    head: Mapping[str, Any], outputs: Arrays, specs: Mapping[str, TensorSpec], wanted: Sequence[Wanted]
) -> tuple[bytes, int | None]:
    """A body, and the length of its JSON part where raw tensors follow it.

    Raises: Refusal 400 where the JSON would hold more than `_MOST_AS_JSON` values.

    NaN and infinities are written as `NaN` and `Infinity`, as Triton does; strict readers of JSON ask for raw outputs.
    """
    numbers = count_as_json(outputs, wanted)
    if numbers > _MOST_AS_JSON:
        raise Refusal(
            400, f"the answer has {numbers} values, {_MOST_AS_JSON} are allowed as JSON; ask for 'binary_data'"
        )
    described, raw = [], []
    for want in wanted:
        array, spec = outputs[want.name], specs[want.name]
        entry: dict[str, Any] = {"name": want.name, "datatype": spec.datatype, "shape": list(array.shape)}
        if want.binary:
            data = raw_bytes(array, spec.datatype)
            entry["parameters"] = {"binary_data_size": len(data)}
            raw.append(data)
        else:
            entry["data"] = array.ravel().tolist()
        described.append(entry)
    text = json.dumps({**head, "outputs": described}, separators=(",", ":")).encode()
    return (b"".join([text, *raw]), len(text)) if raw else (text, None)


def count_as_json(outputs: Arrays, wanted: Sequence[Wanted]) -> int:
    """Values of an answer that are not sent raw."""
    return sum(outputs[want.name].size for want in wanted if not want.binary)


def read_unit(given: Any) -> str | None:
    """The unit as text, None where none is given.

    Raises: Refusal 400 for what is neither text nor a whole number, or too long.
    """
    if given is None or given == "":
        return None
    if isinstance(given, bool) or not isinstance(given, (str, int)) or len(text := str(given)) > _LONGEST_ID:
        raise Refusal(400, f"the unit must be a string of at most {_LONGEST_ID} characters")
    return text


def _split_at(header_length: str | None, size: int) -> int:
    if header_length is None:
        return size
    if (
        not (header_length.isascii() and header_length.isdigit())
        or len(header_length) > 15
        or int(header_length) > size
    ):
        raise Refusal(400, f"{HEADER_LENGTH} must be a number of bytes of the body, which has {size}")
    return int(header_length)


def _brief(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__


def _parameters(holder: Mapping[str, Any], whose: str) -> dict[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise Refusal(400, f"the parameters of {whose} must be an object")
    for name in _UNSUPPORTED:
        if name in parameters:
            raise Refusal(400, f"the parameter {name!r} of {whose} is not supported")
    return parameters


def _entries(header: Mapping[str, Any], key: str, known: Mapping[str, TensorSpec]) -> list[dict[str, Any]]:
    """The objects under `key`, each with a known name, none twice."""
    entries = header.get(key)
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries
    ):
        raise Refusal(400, f"{key!r} must be a list of objects with a name")
    seen: set[str] = set()
    for entry in entries:
        if entry["name"] not in known:
            raise Refusal(400, f"the model has no {key[:-1]} {entry['name'][:100]!r}; it has {', '.join(known)}")
        if entry["name"] in seen:
            raise Refusal(400, f"{key[:-1]} {entry['name']!r} is given twice")
        seen.add(entry["name"])
    return entries


def _wanted(
    header: Mapping[str, Any], parameters: Mapping[str, Any], outputs: Sequence[TensorSpec]
) -> tuple[Wanted, ...]:
    default = _flag(parameters, "binary_data_output", False)
    if not header.get("outputs"):
        return tuple(Wanted(spec.name, default) for spec in outputs)
    entries = _entries(header, "outputs", {spec.name: spec for spec in outputs})
    return tuple(
        Wanted(entry["name"], _flag(_parameters(entry, f"output {entry['name']}"), "binary_data", default))
        for entry in entries
    )


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise Refusal(400, f"the parameter {name!r} must be true or false")
    return value


def _feeds(header: Mapping[str, Any], raw: memoryview, known: Mapping[str, TensorSpec], limits: Limits) -> Arrays:
    entries = _entries(header, "inputs", known)
    lacking = [name for name in known if name not in {entry["name"] for entry in entries}]
    if lacking:
        raise Refusal(400, f"input {', '.join(lacking)} is missing")
    feeds, position = {}, 0
    for entry in entries:
        spec = known[entry["name"]]
        shape = _shape(entry, spec, limits)
        if entry.get("datatype") != spec.datatype:
            raise Refusal(400, f"input {spec.name} is {spec.datatype}, not {str(entry.get('datatype'))[:20]}")
        size = _parameters(entry, f"input {spec.name}").get("binary_data_size")
        if size is None:
            feeds[spec.name] = require_finite(from_json(entry.get("data"), spec, shape), spec, limits)
            continue
        if type(size) is not int or not 0 <= size <= len(raw) - position:
            raise Refusal(
                400,
                f"input {spec.name}: 'binary_data_size' must be a number of bytes, {len(raw) - position} are left in"
                " the body",
            )
        if "data" in entry:
            raise Refusal(400, f"input {spec.name} has both 'data' and 'binary_data_size'")
        feeds[spec.name] = require_finite(
            from_bytes(raw[position : position + size], spec, shape, limits), spec, limits
        )
        position += size
    if position != len(raw):
        raise Refusal(400, f"{len(raw) - position} bytes of the body belong to no input")
    return feeds


def _shape(entry: Mapping[str, Any], spec: TensorSpec, limits: Limits) -> tuple[int, ...]:
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(dim) is int and dim > 0 for dim in shape):
        raise Refusal(400, f"input {spec.name}: 'shape' must be a list of positive whole numbers")
    if len(shape) != len(spec.shape) or any(
        mine not in (-1, theirs) for mine, theirs in zip(spec.shape, shape, strict=True)
    ):
        raise Refusal(400, f"input {spec.name} has shape {list(spec.shape)}, not {str(shape)[:100]}")
    for axis, (mine, theirs) in enumerate(zip(spec.shape, shape, strict=True)):
        bound = limits.batch if axis == 0 else limits.sequence
        if mine == -1 and theirs > bound:
            raise Refusal(413, f"input {spec.name}: {theirs} along axis {axis}, {bound} are allowed")
    return tuple(shape)
