"""The Ray Serve configuration; and, where an interpreter with Ray is named, two replicas of it at work.

Ray is large and starts slowly, so the second part runs on request: ATPATCH_RAY_PYTHON=/path/to/python pytest
tests/deploy/test_ray.py
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import yaml

import atpatch_onnx
from atpatch_onnx.ab import analyze_log
from atpatch_onnx.deploy.ray import deploy_ray
from atpatch_onnx.deploy.ray_app import Replica
from atpatch_onnx.errors import AtpatchError

MODEL = Path(__file__).parents[2] / "atpatch_onnx" / "demo" / "digits" / "model.onnx"
PYTHON = os.environ.get("ATPATCH_RAY_PYTHON")
UNITS = [f"unit {number}" for number in range(60)]


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("digits")
    shutil.copy(MODEL, folder / "model.onnx")
    return folder / "model.onnx", Path(atpatch_onnx.patch_model(folder / "model.onnx", detector="statistic").output)


def test_the_configuration(digits, tmp_path):
    done = deploy_ray(*digits, tmp_path / "r", mode="ab", weight=0.25, replicas=3)
    (app,) = yaml.safe_load((done.folder / "serve.yaml").read_text())["applications"]
    assert app["import_path"] == "atpatch_onnx.deploy.ray_app:application"
    (deployment,) = app["deployments"]
    assert deployment["num_replicas"] == 3
    assert deployment["user_config"] == {"revision": 1, "weight": 0.25, "killed": False}
    assert Path(app["args"]["original"]).read_bytes() == digits[0].read_bytes()
    assert Path(app["args"]["patched"]).read_bytes() == digits[1].read_bytes()
    # What runs there makes logs and the kill file later; neither stops a second run.
    (done.folder / "logs").mkdir()
    (done.folder / "patch-off").touch()
    deploy_ray(*digits, tmp_path / "r")
    assert (done.folder / "patch-off").exists()


def test_impossible_settings(digits, tmp_path, atpatch):
    for options in ({"mode": "both"}, {"weight": 1.5}, {"replicas": 0}, {"port": 0}):
        with pytest.raises(AtpatchError):
            deploy_ray(*digits, tmp_path / "r", **options)
    assert atpatch("deploy", "ray", *digits, tmp_path / "r", "--mode", "ab").code == 0


def test_a_replica_takes_over_what_ray_tells_it(digits, tmp_path, monkeypatch):
    """Without Ray: the class as Ray calls it."""
    monkeypatch.setenv("ATPATCH_ADMIN_TOKEN", "secret")
    arguments = {
        "original": str(digits[0]),
        "patched": str(digits[1]),
        "mode": "ab",
        "name": "digits",
        "kill_file": str(tmp_path / "off"),
    }
    replica = Replica(arguments)
    assert "ATPATCH_ADMIN_TOKEN" not in os.environ
    replica.reconfigure({"revision": 4, "weight": 0.7, "killed": False})
    assert (replica.engine.revision, replica.engine.split.weight, replica.engine.killed()) == (4, 0.7, False)
    replica.reconfigure({"revision": 4, "weight": 0.7, "killed": True})
    assert (replica.engine.revision, replica.engine.killed()) == (4, True)
    replica.reconfigure({"revision": 5, "weight": 0.7, "killed": False})
    assert (replica.engine.revision, replica.engine.killed()) == (5, False)
    (tmp_path / "off").touch()
    assert replica.engine.killed()
    assert not [route for route in replica.__serve_build_asgi_app__().routes if route.path.startswith("/admin")]


# At work


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str, unit: str, image: np.ndarray) -> dict[str, Any]:
    tensor = {"name": "pixel_values", "datatype": "FP32", "shape": [1, *image.shape], "data": image.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    request = urllib.request.Request(f"{url}/v2/models/digits/infer", body, {"X-Atpatch-Unit": unit})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def running(digits, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    if PYTHON is None:
        pytest.skip("ATPATCH_RAY_PYTHON names no interpreter with ray[serve]")
    folder = tmp_path_factory.mktemp("ray")
    port = free_port()
    deploy_ray(*digits, folder / "r", name="digits", mode="ab", weight=0.5, replicas=2, port=port)
    environment = os.environ | {
        "PYTHONPATH": str(MODEL.parents[2]),
        "ATPATCH_SALT": "salt",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_ADDRESS": "local",  # a cluster of its own, whatever else runs here
    }
    command = [PYTHON, "-m", "ray.serve.scripts", "run", str(folder / "r" / "serve.yaml")]
    with (folder / "ray.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    url = f"http://127.0.0.1:{port}"
    try:
        for second in range(121):
            try:
                urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5).read()
                break
            except OSError:
                assert second < 120 and process.poll() is None, (folder / "ray.log").read_text()[-2000:]
                time.sleep(1)
        yield url, folder / "r"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@dataclass(frozen=True)
class Asked:
    """Four rounds of questions about one image, and what each log and both together say of them."""

    image: np.ndarray
    rounds: list[dict[str, Any]]
    counts: list[int]
    revisions: tuple[Any, ...]


@pytest.fixture(scope="module")
def asked(running) -> Asked:
    """The first questions of all: their rows are all that the logs hold."""
    url, folder = running
    image = np.random.default_rng(0).random((1, 8, 8)).astype(np.float32)
    rounds = [{unit: ask(url, unit, image) for unit in UNITS} for _ in range(4)]
    time.sleep(1)  # rows are written by a thread of their own
    logs = sorted((folder / "logs").glob("*.jsonl"))
    counts = [analyze_log(log).revisions[0].requests for log in logs]
    return Asked(image, rounds, counts, tuple(analyze_log(logs).revisions))


@pytest.mark.slow
def test_two_replicas_answer_as_one(asked, digits):
    arms = [{unit: answer["parameters"]["arm"] for unit, answer in answers.items()} for answers in asked.rounds]
    assert set(arms[0].values()) == {"original", "patched"}
    # Both replicas took part, and each assigns a unit as the other does.
    assert all(again == arms[0] for again in arms)
    for name, path in zip(("original", "patched"), digits, strict=True):
        (expected,) = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(
            ["logits"], {"pixel_values": asked.image[None]}
        )
        answer = next(answer for answer in asked.rounds[0].values() if answer["parameters"]["arm"] == name)
        assert np.array_equal(np.array(answer["outputs"][0]["data"], np.float32), expected.ravel())
    assert len(asked.counts) == 2
    assert min(asked.counts) > 0
    assert sum(asked.counts) == 4 * len(UNITS)
    (found,) = asked.revisions
    assert found.live.crossed == 0
    assert found.live.srm.patched + found.live.srm.original == len(UNITS)


@pytest.mark.slow
def test_the_kill_file_reaches_both_replicas_at_once(running, asked):
    url, folder = running
    image = np.zeros((1, 8, 8), np.float32)
    (folder / "patch-off").touch()
    try:
        assert {ask(url, unit, image)["parameters"]["arm"] for unit in UNITS} == {"original"}
    finally:
        (folder / "patch-off").unlink()
    assert "patched" in {ask(url, unit, image)["parameters"]["arm"] for unit in UNITS}
