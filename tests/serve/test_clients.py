"""Clients that others wrote, unchanged: NVIDIA's tritonclient over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from atpatch_onnx.inference.sessions import session

from .conftest import Served
from .load import DEMO

triton: Any = pytest.importorskip("tritonclient.http")


@pytest.fixture
def client(ab: Served) -> Iterator[Any]:
    client = triton.InferenceServerClient(f"127.0.0.1:{ab.port}")
    yield client
    client.close()


@pytest.fixture
def images(digits: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([digits["clean"][:2], digits["triggered"][:2]]).astype(np.float32)


def given(images: np.ndarray, raw: bool) -> list[Any]:
    tensor = triton.InferInput("pixel_values", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images, binary_data=raw)
    return [tensor]


def test_health_and_metadata(client: Any) -> None:
    assert (
        client.is_server_live()
        and client.is_server_ready()
        and client.is_model_ready("model")
        and client.is_model_ready("model", "2")
    )
    assert not client.is_model_ready("model", "3")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert client.get_model_metadata("model", "1")["inputs"] == [
        {"name": "pixel_values", "datatype": "FP32", "shape": [-1, 1, 8, 8]}
    ]


@pytest.mark.parametrize("raw_out", [None, True, False])
@pytest.mark.parametrize("raw_in", [True, False])
def test_infer_equals_onnxruntime(client: Any, images: np.ndarray, raw_in: bool, raw_out: bool | None) -> None:
    direct = session(DEMO / "model.onnx", threads=1).run(["logits"], {"pixel_values": images})[0]
    outputs = None if raw_out is None else [triton.InferRequestedOutput("logits", binary_data=raw_out)]
    result = client.infer("model", given(images, raw_in), model_version="1", outputs=outputs, request_id="t1")
    assert np.array_equal(result.as_numpy("logits").astype(np.float32), direct)
    assert result.get_response()["id"] == "t1" and result.get_response()["model_version"] == "1"


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed(client: Any, images: np.ndarray, algorithm: str) -> None:
    result = client.infer("model", given(images, True), model_version="2", request_compression_algorithm=algorithm)
    assert result.get_response()["parameters"]["flagged"] is True


def test_unit_header_and_parameter_stick(client: Any, images: np.ndarray) -> None:
    for unit in ("a", "b", "c", "d"):
        by_header = client.infer("model", given(images, True), headers={"X-Atpatch-Unit": unit})
        by_parameter = client.infer("model", given(images, True), parameters={"unit": unit})
        arms = [result.get_response()["parameters"]["arm"] for result in (by_header, by_parameter)]
        assert arms[0] == arms[1]


def test_async_infer(client: Any, images: np.ndarray) -> None:
    pending = [client.async_infer("model", given(images, True)) for _ in range(8)]
    assert all(one.get_result().as_numpy("logits").shape == (4, 10) for one in pending)


def test_errors_reach_the_client(client: Any, images: np.ndarray) -> None:
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match="has shape"):
        client.infer("model", given(images[:, :, :4], True))
    with pytest.raises(InferenceServerException, match="there is no model 'other'"):
        client.infer("other", given(images, True))
