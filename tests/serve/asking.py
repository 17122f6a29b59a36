"""Requests to a running server, and waiting for it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

INFER = "/v2/models/model/infer"


def binary(images: np.ndarray, **more: Any) -> tuple[bytes, dict[str, str]]:
    raw = images.astype(np.float32).tobytes()
    entry = {
        "name": "pixel_values",
        "shape": list(images.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}, **more}).encode()
    return head + raw, {"Inference_Header_Content_Length": str(len(head))}


def scores_of(answer: tuple[int, dict[str, str], bytes]) -> np.ndarray:
    status, headers, body = answer
    assert status == 200, body
    length = int(headers["inference-header-content-length"])
    (output,) = json.loads(body[:length])["outputs"]
    return np.frombuffer(body[length:], np.float32).reshape(output["shape"])


def children(process: subprocess.Popen[bytes]) -> list[int]:
    """Ids of the processes that a server has started and that run."""
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)
