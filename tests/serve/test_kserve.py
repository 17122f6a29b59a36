"""KServe's client over HTTP and gRPC: what it makes of the server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atpatch_onnx.inference.sessions import session

from .conftest import Served
from .load import DEMO, ROOT

pytestmark = pytest.mark.skipif(not find_spec("kserve"), reason="needs kserve")


@pytest.fixture(scope="module")
def images(digits: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([digits["clean"][:2], digits["triggered"][:2]]).astype(np.float32)


@pytest.fixture(scope="module")
def found(start: Callable[..., Served], images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    served = start("--mode", "original", "--grpc-port", "0")
    file: Path = tmp_path_factory.mktemp("kserve") / "images.npy"
    np.save(file, images)
    command = [
        sys.executable,
        "-m",
        "tests.serve.kserve_client",
        str(served.port),
        str(served.described["grpc_port"]),
        str(file),
    ]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_health(found: dict[str, Any], protocol: str) -> None:
    assert (
        found[protocol]["live"] is True and found[protocol]["ready"] is True and found[protocol]["model ready"] is True
    )
    assert found[protocol].get("other ready", False) is False


@pytest.mark.parametrize("form", ["raw", "json"])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_infer_equals_onnxruntime(found: dict[str, Any], images: np.ndarray, protocol: str, form: str) -> None:
    answer = found[protocol][form]
    direct = session(DEMO / "model.onnx", threads=1).run(["logits"], {"pixel_values": images})[0]
    assert (answer["id"], answer["model"], answer["name"]) == ("k1", "model", "logits")
    assert np.array_equal(np.asarray(answer["scores"], np.float32), direct)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_errors_reach_the_client(found: dict[str, Any], protocol: str) -> None:
    assert "has shape" in found[protocol]["wrong shape"]
    assert "there is no model 'other'" in found[protocol]["wrong model"]
