"""What a server survives: broken files, broken requests, slow clients, its own end."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .asking import INFER, binary, until
from .conftest import Served
from .graphs import save
from .load import server

SLOW = 1000


class Crowd:
    """Clients that ask without a pause until told to stop, each over one connection as long as the server lets it."""

    def __init__(self, port: int, images: np.ndarray, clients: int = 6) -> None:
        self.outcomes: Counter[str] = Counter()
        self.arms: Counter[str] = Counter()
        self._port, self._images = port, images
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(clients)]

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, client: int) -> None:
        body, headers = binary(self._images[client : client + 1])
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection, fresh = None, False
        while not self._stop.is_set():
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
                    connection.connect()
                    fresh = True
            except ConnectionRefusedError:
                self.outcomes["refused"] += 1
                return
            try:
                connection.request("POST", INFER, body, headers)
                answer = connection.getresponse()
                text = answer.read()
            except OSError as error:
                # The kernel completes handshakes that nobody accepts any more; those are reset when the listener
                # closes.
                self.outcomes[
                    "never accepted"
                    if fresh and isinstance(error, ConnectionError)
                    else f"lost: {type(error).__name__}"
                ] += 1
                connection = None
                continue
            fresh = False
            self.outcomes[str(answer.status)] += 1
            if answer.status == 200:
                self.arms[
                    json.loads(text[: int(answer.getheader("inference-header-content-length"))])["parameters"]["arm"]
                ] += 1
            if answer.getheader("connection") == "close":
                connection.close()
                connection = None


def test_stop_under_load_loses_nothing(start: Callable[..., Served], digits: dict[str, np.ndarray]) -> None:
    served = start("--mode", "shadow")
    with Crowd(served.port, digits["clean"]) as crowd:
        until(lambda: crowd.outcomes["200"] > 100)
        served.process.send_signal(signal.SIGTERM)
        until(lambda: crowd.outcomes["refused"] == 6)
    assert served.process.wait(15) == 0
    assert set(crowd.outcomes) <= {"200", "refused", "never accepted"}, crowd.outcomes
    rows = served.rows()
    # Whatever the server read it answered: a request that it lost would be a row without an answer.
    assert len(rows) == crowd.outcomes["200"] and {row["shadow"] for row in rows} <= {"compared", "dropped"}


def test_not_ready_while_draining(start: Callable[..., Served]) -> None:
    served = start("--mode", "original", "--drain", "2")
    served.process.send_signal(signal.SIGTERM)
    until(lambda: served.ask("GET", "/v2/health/ready")[0] == 503)
    status, headers, _ = served.ask("GET", "/v2/health/live")
    assert status == 200 and headers["connection"] == "close"


def test_reload_under_load_fails_no_request(
    start: Callable[..., Served], tmp_path: Path, patched: Path, digits: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "patched.onnx"
    path.write_bytes(patched.read_bytes())
    served = start("--mode", "ab", "--weight", "patched=0.5", patched=path)
    with Crowd(served.port, digits["clean"]) as crowd:
        for _ in range(3):
            assert served.admin("reload", {"arm": "patched"})[0] == 200
            assert served.admin("reload", {"arm": "original"})[0] == 200
            path.write_bytes(b"garbage" * 1000)
            status, answer = served.admin("reload", {"arm": "patched"})
            assert status == 409 and "ATP001" in answer["error"]
            path.write_bytes(patched.read_bytes()[:-1000])
            assert served.admin("reload", {"arm": "patched"})[0] == 409
            path.write_bytes(patched.read_bytes())
        served.process.send_signal(signal.SIGHUP)
        until(lambda: served.metric("atpatch_revision") == 9)
        until(lambda: crowd.outcomes["200"] > 200)
    assert set(crowd.outcomes) == {"200"} and set(crowd.arms) == {"original", "patched"}
    assert served.metric("atpatch_fallbacks_total") == 0


def test_huge_bodies(original: Served, digits: dict[str, np.ndarray]) -> None:
    before = _resident(original)
    with socket.create_connection(("127.0.0.1", original.port)) as client:
        client.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {2**30}\r\n\r\n".encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 413")
    with socket.create_connection(("127.0.0.1", original.port)) as client:
        client.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        sent, chunk = 0, b"100000\r\n" + b"x" * 2**20 + b"\r\n"
        try:
            while sent < 2**30:
                client.sendall(chunk)
                sent += 2**20
        except OSError:
            pass
        assert sent < 2**27  # turned away long before the end
    assert _resident(original) - before < 150
    assert original.infer(digits["clean"][:1])["outputs"]


def test_a_thousand_slow_connections_stop_nobody(start: Callable[..., Served], digits: dict[str, np.ndarray]) -> None:
    served = start("--mode", "original", "--client-timeout", "4")
    begun = [
        b"",
        b"POST /v2/mod",
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{".encode(),
        f"POST {INFER} HTTP/1.1\r\n".encode(),
    ]
    slow = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(SLOW)]
    try:
        for number, client in enumerate(slow):
            client.sendall(begun[number % len(begun)])
        started = time.monotonic()
        for _ in range(20):
            assert served.infer(digits["clean"][:1])["outputs"]
        assert time.monotonic() - started < 3
        for client in slow:
            client.settimeout(15)
        ends = Counter(client.recv(100).partition(b"\r\n")[0] for client in slow)
        assert ends == {b"": SLOW * 3 // 4, b"HTTP/1.1 408 Request Timeout": SLOW // 4}
    finally:
        for client in slow:
            client.close()


def test_too_many_in_flight_are_told_to_come_back(tmp_path: Path) -> None:
    paths = save("hanging", tmp_path / "a.onnx"), save("sound", tmp_path / "b.onnx")
    entry: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [100, 0, 0, 0]}
    with server(paths[1], "--mode", "original", "--max-in-flight", "2", "--drain", "0", original=paths[0]) as (
        process,
        described,
    ):
        served = Served(process, described, tmp_path)
        hanging = [
            threading.Thread(
                target=lambda: _swallow(lambda: served.ask("POST", "/v2/models/a/infer", {"inputs": [entry]}))
            )
            for _ in range(2)
        ]
        for thread in hanging:
            thread.start()
        until(lambda: served.metric("nv_inference_pending_request_count") == 2)
        status, headers, body = served.ask("POST", "/v2/models/a/infer", {"inputs": [entry]})
        assert status == 503 and headers["retry-after"] == "1" and "error" in json.loads(body)
        assert served.json("GET", "/v2/health/live") == {"live": True}
        process.kill()
        for thread in hanging:
            thread.join()


def test_taken_port_is_a_refusal(original: Served, atpatch: Any, patched: Path) -> None:
    from .load import DEMO

    run = atpatch("serve", DEMO / "model.onnx", patched, "--port", original.port)
    assert run.code == 2 and "ATP074" in run.err


@pytest.mark.parametrize("weight", ["x", "patched=2", "original=0.5", "patched="])
def test_wrong_weight_is_a_usage_error(atpatch: Any, weight: str) -> None:
    run = atpatch("serve", "a.onnx", "b.onnx", "--weight", weight)
    assert run.code == 2 and "share" in run.err


def _resident(served: Served) -> float:
    return int(Path(f"/proc/{served.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _swallow(call: Callable[[], Any]) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        call()
