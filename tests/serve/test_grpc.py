"""gRPC: messages as published, and tritonclient's own client, unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from atpatch_onnx.inference.sessions import session

from .asking import until
from .conftest import Served
from .load import DEMO

triton: Any = pytest.importorskip("tritonclient.grpc")


@pytest.fixture(scope="module")
def served(start: Callable[..., Served]) -> Served:
    return start("--mode", "ab", "--weight", "patched=0.5", "--grpc-port", "0")


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    client = triton.InferenceServerClient(f"127.0.0.1:{served.described['grpc_port']}")
    yield client
    client.close()


@pytest.fixture
def images(digits: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([digits["clean"][:2], digits["triggered"][:2]]).astype(np.float32)


def given(images: np.ndarray) -> list[Any]:
    tensor = triton.InferInput("pixel_values", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images)
    return [tensor]


def test_messages_are_the_published_ones() -> None:
    from tritonclient.grpc import service_pb2

    from atpatch_onnx.serve.grpc_messages import METHODS, SERVICE, message_class

    service = service_pb2.DESCRIPTOR.services_by_name[SERVICE.rpartition(".")[2]]
    for method in METHODS:
        theirs = service.methods_by_name[method]
        for kind, message in (("Request", theirs.input_type), ("Response", theirs.output_type)):
            assert message.name == method + kind
            _compare(message_class(method + kind).DESCRIPTOR, message, set())


def _compare(ours: Any, theirs: Any, seen: set[str]) -> None:
    if ours.full_name in seen:
        return
    seen.add(ours.full_name)
    published = {field.number: field for field in theirs.fields}
    for field in ours.fields:
        other = published[field.number]
        assert (field.name, field.type, field.is_repeated) == (other.name, other.type, other.is_repeated), (
            ours.name,
            field.name,
        )
        if field.message_type is not None:
            _compare(field.message_type, other.message_type, seen)


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("model", "2")
    assert client.get_server_metadata().name == "atpatch-onnx"
    model = client.get_model_metadata("model")
    assert (
        list(model.versions) == ["1", "2"]
        and list(model.inputs[0].shape) == [-1, 1, 8, 8]
        and model.outputs[0].datatype == "FP32"
    )


def test_infer_equals_onnxruntime(client: Any, images: np.ndarray) -> None:
    direct = session(DEMO / "model.onnx", threads=1).run(["logits"], {"pixel_values": images})[0]
    for outputs in (None, [triton.InferRequestedOutput("logits")]):
        result = client.infer("model", given(images), model_version="1", outputs=outputs, request_id="g1")
        assert np.array_equal(result.as_numpy("logits"), direct)
        assert result.get_response().id == "g1" and result.get_response().model_version == "1"


def test_parameters_and_unit(client: Any, served: Served, images: np.ndarray) -> None:
    flagged = client.infer("model", given(images), model_version="2").get_response().parameters
    assert (
        flagged["flagged"].bool_param is True
        and flagged["arm"].string_param == "patched"
        and flagged["revision"].int64_param == 1
    )
    for unit in ("a", "b", "c", "d"):
        by_header = (
            client.infer("model", given(images), headers={"x-atpatch-unit": unit})
            .get_response()
            .parameters["arm"]
            .string_param
        )
        by_parameter = (
            client.infer("model", given(images), parameters={"unit": unit})
            .get_response()
            .parameters["arm"]
            .string_param
        )
        by_http = served.infer(images[:1], headers={"X_Atpatch_Unit": unit})["parameters"]["arm"]
        assert by_header == by_parameter == by_http


def test_typed_contents(client: Any, images: np.ndarray) -> None:
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name="model", model_version="1")
    tensor = request.inputs.add(name="pixel_values", datatype="FP32", shape=images.shape)
    tensor.contents.fp32_contents.extend(images.ravel().tolist())
    answer = client._client_stub.ModelInfer(request)
    direct = session(DEMO / "model.onnx", threads=1).run(["logits"], {"pixel_values": images})[0]
    assert np.array_equal(np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(direct.shape), direct)


def test_errors(client: Any, images: np.ndarray) -> None:
    from tritonclient.grpc import service_pb2
    from tritonclient.utils import InferenceServerException

    def fails(words: str, status: str, call: Callable[[], Any]) -> None:
        with pytest.raises(InferenceServerException, match=words) as error:
            call()
        assert error.value.status() == f"StatusCode.{status}"

    fails("has shape", "INVALID_ARGUMENT", lambda: client.infer("model", given(images[:, :, :4])))
    fails("there is no model 'other'", "NOT_FOUND", lambda: client.infer("other", given(images)))
    fails("there is no version '9'", "NOT_FOUND", lambda: client.get_model_metadata("model", "9"))
    fails("64 are allowed", "RESOURCE_EXHAUSTED", lambda: client.infer("model", given(np.repeat(images, 20, 0))))
    for change in ({"raw_input_contents": [b"1", b"2"]}, {"raw_input_contents": [b"123"]}, {"id": "x" * 2000}):
        request = service_pb2.ModelInferRequest(model_name="model", **change)
        request.inputs.add(name="pixel_values", datatype="FP32", shape=[1, 1, 8, 8])
        with pytest.raises(Exception, match="INVALID_ARGUMENT"):
            client._client_stub.ModelInfer(request)


def test_stops_with_the_rest(start: Callable[..., Served], images: np.ndarray) -> None:
    served = start("--mode", "original", "--grpc-port", "0")
    client = triton.InferenceServerClient(f"127.0.0.1:{served.described['grpc_port']}")
    client.infer("model", given(images))
    served.process.terminate()
    until(lambda: served.process.poll() is not None)
    assert served.process.returncode == 0 and not served.rows()[0]["fallback"]
