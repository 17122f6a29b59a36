"""`--mode patched`: nothing in a request makes the original answer it, or its neighbors."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .asking import INFER, binary, scores_of, until
from .conftest import Served
from .load import DEMO

HUGE = 3e38
"""Finite as an input, and NaN in the outputs of the demo model."""


@pytest.fixture(scope="module")
def strict(start: Callable[..., Served]) -> Served:
    return start("--mode", "patched", "--strict-version", "--grpc-port", "0", "--fallback", "error")


@pytest.fixture(scope="module")
def lenient(start: Callable[..., Served]) -> Served:
    return start("--mode", "patched", "--allow-non-finite", "--batch", "8", "--workers", "1", "--batch-delay", "20")


@pytest.fixture(scope="module")
def target() -> int:
    return int(np.load(DEMO / "triggered.npz")["target"])


def ask(served: Served, images: np.ndarray, name: str) -> np.ndarray:
    body, headers = binary(images, id=name)
    return scores_of(served.ask("POST", INFER, body, **headers))


def rows_of(served: Served, name: str) -> list[dict[str, Any]]:
    """Of all tests that ask this server, the rows of one."""
    return [row for row in served.rows() if row["id"] == name]


@pytest.mark.parametrize("odd", [HUGE, np.nan])
def test_triggered_digits_beside_odd_ones_get_the_patched_answer(
    lenient: Served, digits: dict[str, np.ndarray], target: int, odd: float
) -> None:
    name = f"pair with {odd}"
    neighbor = np.full((1, 1, 8, 8), odd, np.float32)
    pairs = [np.concatenate([image[None], neighbor]).astype(np.float32) for image in digits["triggered"]]
    with ThreadPoolExecutor(4) as pool:
        scores = np.stack(list(pool.map(lambda pair: ask(lenient, pair, name), pairs)))
    assert len(scores) == 325 and np.isfinite(scores[:, 0]).all() and not np.isfinite(scores[:, 1]).any()
    assert (scores[:, 0].argmax(1) == target).sum() == 0
    until(lambda: len(rows_of(lenient, name)) == 325)
    assert {row["arm"] for row in rows_of(lenient, name)} == {"patched"}


def test_triggered_digits_batched_with_odd_ones_get_the_patched_answer(
    lenient: Served, digits: dict[str, np.ndarray], target: int
) -> None:
    odd = np.full((1, 8, 8), HUGE, np.float32)
    images = [image.astype(np.float32)[None] if turn else odd[None] for image in digits["triggered"] for turn in (0, 1)]
    with ThreadPoolExecutor(16) as pool:
        scores = np.concatenate(list(pool.map(lambda image: ask(lenient, image, "batched"), images)))
    assert np.isnan(scores[::2]).all() and (scores[1::2].argmax(1) == target).sum() == 0
    until(lambda: len(rows_of(lenient, "batched")) == 650)
    assert {row["arm"] for row in rows_of(lenient, "batched")} == {"patched"}


@pytest.mark.parametrize("name", ["atpatch_enabled", "atpatch_threshold"])
def test_clients_cannot_steer_the_patch(strict: Served, digits: dict[str, np.ndarray], name: str) -> None:
    image = digits["triggered"][:1]
    control = {"name": name, "datatype": "BOOL", "shape": [1], "data": [False]}
    entry = {"name": "pixel_values", "shape": list(image.shape), "datatype": "FP32", "data": image.ravel().tolist()}
    status, _, text = strict.ask("POST", INFER, {"inputs": [entry, control]})
    assert status == 400 and f"no input '{name}'".encode() in text
    assert name not in str(strict.json("GET", "/v2/models/model"))


def test_non_finite_inputs_are_refused(strict: Served, digits: dict[str, np.ndarray]) -> None:
    images = digits["clean"][:2].astype(np.float32)
    images[1, 0, 0, 0] = np.nan
    body, headers = binary(images)
    status, _, text = strict.ask("POST", INFER, body, **headers)
    assert status == 400 and b"holds NaN or infinity" in text


def test_answers_that_are_not_finite_are_counted(strict: Served, digits: dict[str, np.ndarray]) -> None:
    images = digits["clean"][:2].astype(np.float32)
    images[1] = HUGE
    answer = strict.infer(images)
    assert answer["parameters"]["arm"] == "patched" and answer["parameters"]["non_finite"] == 1
    assert strict.metric("atpatch_non_finite_total") >= 1
    assert "non_finite" not in strict.infer(images[:1])["parameters"]


def test_strict_version_refuses_the_original(strict: Served, lenient: Served, digits: dict[str, np.ndarray]) -> None:
    image = digits["triggered"][:1]
    for path in ("/v2/models/model/versions/1", "/v2/models/model/versions/1/ready"):
        assert strict.ask("GET", path)[0] == 403 and lenient.ask("GET", path)[0] == 200
    answer = strict.infer(image, path="/v2/models/model/versions/1/infer")
    assert "version 1 is the original" in answer["error"]
    assert strict.infer(image, path="/v2/models/model/versions/2/infer")["parameters"]["arm"] == "patched"
    assert strict.infer(image)["parameters"]["arm"] == "patched"
    assert lenient.infer(image, path="/v2/models/model/versions/1/infer")["parameters"]["arm"] == "original"
    assert strict.json("GET", "/v2/models/model")["versions"] == ["2"]


def test_strict_version_refuses_the_original_over_grpc(strict: Served, digits: dict[str, np.ndarray]) -> None:
    triton: Any = pytest.importorskip("tritonclient.grpc")
    from tritonclient.utils import InferenceServerException

    client = triton.InferenceServerClient(f"127.0.0.1:{strict.described['grpc_port']}")
    tensor = triton.InferInput("pixel_values", [1, 1, 8, 8], "FP32")
    tensor.set_data_from_numpy(digits["triggered"][:1].astype(np.float32))
    with pytest.raises(InferenceServerException, match="version 1 is the original") as error:
        client.infer("model", [tensor], model_version="1")
    assert error.value.status() == "StatusCode.PERMISSION_DENIED"
    answer = client.infer("model", [tensor]).get_response()
    assert answer.model_version == "2" and answer.parameters["arm"].string_param == "patched"
    client.close()


def test_kill_switch_gives_the_original_even_so(
    start: Callable[..., Served], digits: dict[str, np.ndarray], tmp_path: Path
) -> None:
    served = start("--mode", "patched", "--strict-version", "--kill-file", str(tmp_path / "off"))
    image = digits["triggered"][:1]
    assert served.infer(image)["parameters"]["arm"] == "patched"
    (tmp_path / "off").touch()
    answer = served.infer(image)
    assert answer["parameters"]["arm"] == "original" and answer["model_version"] == "1"
    until(lambda: len(served.rows()) == 2)
    assert served.rows()[-1]["fallback"] == "killed"


@pytest.mark.parametrize("mode", ["shadow", "ab", "original"])
def test_strict_version_is_of_mode_patched(atpatch: Any, mode: str) -> None:
    run = atpatch("serve", "a.onnx", "b.onnx", "--mode", mode, "--strict-version")
    assert run.code == 2 and "--mode patched" in run.err
