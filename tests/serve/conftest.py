"""Servers in processes of their own, and a client that knows nothing of them."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atpatch_onnx import patch_model

from .load import DEMO, server

TOKEN = "open-sesame"


@dataclass(frozen=True)
class Served:
    """A running server."""

    process: subprocess.Popen[bytes]
    described: dict[str, Any]
    log: Path
    errors: Path = Path(os.devnull)

    @property
    def port(self) -> int:
        return self.described["port"]

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """One request over a connection of its own; `body` is bytes, or what becomes JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        return json.loads(self.ask(method, path, body, **headers)[2])

    def admin(self, action: str, body: Any = None) -> tuple[int, Any]:
        status, _, text = self.ask("POST", f"/admin/{action}", body or {}, Authorization=f"Bearer {TOKEN}")
        return status, json.loads(text)

    def infer(self, images: np.ndarray, path: str = "/v2/models/model/infer", **more: Any) -> Any:
        headers = more.pop("headers", {})
        entry = {
            "name": "pixel_values",
            "shape": list(images.shape),
            "datatype": "FP32",
            "data": images.ravel().tolist(),
        }
        return self.json("POST", path, {"inputs": [entry], **more}, **headers)

    def rows(self, event: str = "decision") -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [row for row in rows if row["event"] == event]

    def metric(self, name: str) -> float:
        """Sum over labels."""
        lines = [
            line
            for line in self.ask("GET", "/metrics")[2].decode().splitlines()
            if line.startswith((name + " ", name + "{"))
        ]
        assert lines, f"no metric {name}"
        return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.fixture(scope="session")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with its hotfix."""
    path = tmp_path_factory.mktemp("patched") / "model.onnx"
    patch_model(DEMO / "model.onnx", path, hotfix=DEMO / "model.hotfix")
    return path


@pytest.fixture(scope="session")
def digits() -> dict[str, np.ndarray]:
    """Images (N, 1, 8, 8): "clean" and "triggered"."""
    return {name: np.load(DEMO / f"{name}.npz")["pixel_values"].reshape(-1, 1, 8, 8) for name in ("clean", "triggered")}


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory, patched: Path) -> Iterator[Callable[..., Served]]:
    """Starts servers with arguments of the command line; they end with the session."""
    with ExitStack() as stack:

        def start(*arguments: str, patched: Path | None = patched, **more: Any) -> Served:
            log = tmp_path_factory.mktemp("serve") / "log.jsonl"
            errors = log.with_name("stderr")
            more.setdefault("ATPATCH_ADMIN_TOKEN", TOKEN)
            arguments = ("--log", str(log), "--drain", "0.3", *arguments)
            process, described = stack.enter_context(server(patched, *arguments, errors=errors, **more))
            stack.callback(process.kill)  # how a server ends is a test of its own
            return Served(process, described, log, errors)

        yield start


@pytest.fixture(scope="session")
def original(start: Callable[..., Served]) -> Served:
    return start("--mode", "original")


@pytest.fixture(scope="session")
def shadow(start: Callable[..., Served]) -> Served:
    return start("--mode", "shadow", "--hot-threshold", "--watch-class", "0")


@pytest.fixture(scope="session")
def ab(start: Callable[..., Served]) -> Served:
    return start("--mode", "ab", "--weight", "patched=0.5")
