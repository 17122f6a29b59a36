"""Fuzzed requests over HTTP and gRPC. ATPATCH_FUZZ sets how many over HTTP; a fifth of that over gRPC."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from .conftest import Served
from .fuzz import messages, requests

FUZZED = int(os.environ.get("ATPATCH_FUZZ", "1500"))
IDLE = 10.0
"""Seconds. A server closes connections that are idle for long, and on a busy machine this client may be held up."""
NOT_PARSED = (
    "not JSON",
    "not HTTP",
    "no protobuf",
    "is no Model",
    "cut off",
    "nothing at",
    "not allowed here",
    "there is no",
)


@pytest.fixture(scope="module")
def served(start: Callable[..., Served]) -> Served:
    return start("--mode", "patched", "--grpc-port", "0")


def parsed(status: Any, words: str) -> bool:
    """Answered, or refused by a check behind the parser."""
    return status in (200, "OK") or not any(odd in words for odd in NOT_PARSED)


def test_http(served: Served, digits: dict[str, np.ndarray]) -> None:
    statuses: Counter[int] = Counter()
    good, answered = 0, time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    for number, (method, path, headers, body) in enumerate(requests(FUZZED, seed=0)):
        if time.monotonic() - answered > IDLE:
            connection.close()  # the next request opens a new one
        try:
            connection.request(method, path, body, {name: value.encode() for name, value in headers.items()})
            answer = connection.getresponse()
            text = answer.read()
        except (http.client.HTTPException, OSError) as error:
            pytest.fail(f"request {number}: {error!r}")
        answered = time.monotonic()
        statuses[answer.status] += 1
        assert answer.status < 500 or answer.status == 503, (number, text)
        assert b"Traceback" not in text and b'File "' not in text
        if 400 <= answer.status < 500 and method != "HEAD":
            assert set(json.loads(text)) == {"error"}, (number, text)
        good += parsed(answer.status, text.decode() if answer.status >= 400 else "") and method == "POST"
    assert good > 0.5 * FUZZED and statuses[200] > 0.15 * FUZZED and statuses[400] > 0.15 * FUZZED, (good, statuses)
    assert "Traceback" not in served.errors.read_text()
    assert served.infer(digits["clean"][:1])["outputs"]


def test_grpc(served: Served, digits: dict[str, np.ndarray]) -> None:
    grpc: Any = pytest.importorskip("grpc")
    statuses: Counter[str] = Counter()
    good, count = 0, FUZZED // 5
    with grpc.insecure_channel(f"127.0.0.1:{served.described['grpc_port']}") as channel:
        for number, (method, message) in enumerate(messages(count, seed=0)):
            status, words = "OK", ""
            try:
                channel.unary_unary(f"/inference.GRPCInferenceService/{method}", lambda data: data, lambda data: data)(
                    message, timeout=20
                )
            except grpc.RpcError as error:
                status, words = error.code().name, error.details()
            statuses[status] += 1
            good += method == "ModelInfer" and parsed(status, words)
            assert status in ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"), (
                number,
                status,
                words,
            )
            assert "Traceback" not in words and 'File "' not in words and "nternal" not in words, (number, words)
    assert good > 0.5 * count and statuses["OK"] > 0.15 * count and statuses["INVALID_ARGUMENT"] > 0.15 * count, (
        good,
        statuses,
    )
    assert "Traceback" not in served.errors.read_text()
    assert served.infer(digits["clean"][:1])["outputs"]
