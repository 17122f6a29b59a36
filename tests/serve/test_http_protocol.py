"""Bounds of a connection, which hold for every route."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest

from .asking import INFER
from .conftest import TOKEN, Served

SECONDS = 1.5
GET = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def served(start: Callable[..., Served]) -> Served:
    return start("--mode", "patched", "--client-timeout", str(SECONDS))


def connect(served: Served) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", served.port))
    client.settimeout(10)
    return client


def exchange(served: Served, data: bytes) -> list[bytes]:
    """Status lines of all answers until the connection is closed."""
    found = b""
    with connect(served) as client, suppress(ConnectionError):
        client.sendall(data)
        while more := client.recv(2**16):
            found += more
    return [
        line for line in found.replace(b"HTTP/1.1 ", b"\r\nHTTP/1.1 ").split(b"\r\n") if line.startswith(b"HTTP/1.1 ")
    ]


def last(data: bytes) -> bytes:
    return data + b"Connection: close\r\n\r\n"


def test_as_many_headers_as_allowed_and_one_more(served: Served) -> None:
    before = (
        served.metric("atpatch_refused_total") if b"atpatch_refused_total{" in served.ask("GET", "/metrics")[2] else 0
    )
    assert exchange(served, last(GET + b"".join(b"x-%d: y\r\n" % number for number in range(98)))) == [
        b"HTTP/1.1 200 OK"
    ]
    assert exchange(served, last(GET + b"".join(b"x-%d: y\r\n" % number for number in range(99)))) == [
        b"HTTP/1.1 431 Request Header Fields Too Large"
    ]
    assert served.metric("atpatch_refused_total") == before + 1


@pytest.mark.parametrize("begin", [GET + b"x: ", b"GET /", GET + b"x"])
def test_as_many_bytes_as_allowed_and_more(served: Served, begin: bytes) -> None:
    end = (
        b" HTTP/1.1\r\nHost: localhost\r\n" if begin == b"GET /" else b": y\r\n" if begin.endswith(b"\nx") else b"\r\n"
    )
    assert exchange(served, last(begin + b"y" * 60_000 + end))[0] in (b"HTTP/1.1 200 OK", b"HTTP/1.1 404 Not Found")
    for size in (66_000, 300_000):
        assert exchange(served, last(begin + b"y" * size + end)) == [b"HTTP/1.1 431 Request Header Fields Too Large"]


def test_not_http_is_a_400_in_json(served: Served) -> None:
    for data in (b"\0\1\2\r\n\r\n", b"GET /\xff\xfe HTTP/9.9\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\n\r\n"):
        with connect(served) as client:
            client.sendall(data)
            head, _, body = client.recv(2**16).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request") and set(json.loads(body)) == {"error"}


def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    paths = [b"/v2", b"/nothing", b"/v2/health/ready", b"/nowhere", b"/v2"]
    data = b"".join(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n" for path in paths) + last(GET)
    assert [line.split()[1] for line in exchange(served, data)] == [b"200", b"404", b"200", b"404", b"200", b"200"]


def test_too_many_pipelined_requests_close_the_connection(served: Served) -> None:
    assert len(exchange(served, (GET + b"\r\n") * 5000)) < 20


def test_websockets_are_not_offered(served: Served) -> None:
    upgrade = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key:"
        b" dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert exchange(served, GET + upgrade) == [b"HTTP/1.1 200 OK"]


@pytest.mark.parametrize(
    ("begin", "drip", "ends"),
    [
        (b"", b"", []),
        (b"", b"\r\n", []),
        (b"GET /v", b"2", []),
        (GET, b"x: y\r\n", []),
        (GET + b"\r\n", b"\r\n", [b"HTTP/1.1 200 OK"]),  # a dribble behind an answer keeps nothing open
        (
            b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n",
            b"x",
            [b"HTTP/1.1 404 Not Found"],
        ),
        (
            b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1\r\nx\r\n",
            [b"HTTP/1.1 404 Not Found"],
        ),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n", b"x", [b"HTTP/1.1 200 OK"]),
        (
            f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n".encode(),
            b"x",
            [b"HTTP/1.1 408 Request Timeout"],
        ),
        (
            f"POST /admin/kill HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length:"
            " 100\r\n\r\n".encode(),
            b"x",
            [b"HTTP/1.1 408 Request Timeout"],
        ),
        (
            b"POST /admin/kill HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n",
            b"x",
            [b"HTTP/1.1 403 Forbidden"],
        ),
    ],
)
def test_dribbling_clients_are_closed(served: Served, begin: bytes, drip: bytes, ends: list[bytes]) -> None:
    started, found = time.monotonic(), b""
    with connect(served) as client:
        client.sendall(begin)
        client.settimeout(0.1)
        while time.monotonic() - started < 10:
            try:
                client.sendall(drip)
                if not (more := client.recv(2**16)):
                    break
                found += more
            except TimeoutError:
                continue
            except OSError:
                break
    assert SECONDS - 0.2 < time.monotonic() - started < SECONDS + 2.5
    assert [line for line in found.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")] == ends
    assert "Traceback" not in served.errors.read_text()


def too_large(path: str = INFER, size: int = 40 * 2**20) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("begin", "rest", "status"),
    [(too_large(), 40 * 2**20, b"413"), (GET + b"x: " + b"y" * 70_000, 8 * 2**20, b"431"), (b"\0\r\n", 2**20, b"400")],
    ids=["a body", "a header", "what is not HTTP"],
)
def test_the_answer_reaches_a_client_that_sends_everything_before_it_reads(
    served: Served, begin: bytes, rest: int, status: bytes
) -> None:
    """The server answers at the beginning; to close there and then would reset the connection."""
    with connect(served) as client:
        client.sendall(begin)
        time.sleep(0.2)
        client.sendall(b"x" * rest)
        answer = b""
        while more := client.recv(2**16):
            answer += more
    assert answer.split()[1] == status and set(json.loads(answer.partition(b"\r\n\r\n")[2])) == {"error"}


def test_a_client_that_goes_on_sending_behind_its_answer_is_closed(served: Served) -> None:
    started = time.monotonic()
    with connect(served) as client, suppress(OSError):
        client.sendall(too_large())
        while time.monotonic() - started < 10:
            client.sendall(b"x")
            time.sleep(0.02)
    assert time.monotonic() - started < SECONDS + 1


def test_a_client_that_sends_nothing_behind_its_answer_is_closed(original: Served) -> None:
    """In far less time than it had for its body."""
    with connect(original) as client:
        client.sendall(too_large())
        time.sleep(3.0)
        with pytest.raises(OSError):
            for _ in range(5):
                client.sendall(b"x")
                time.sleep(0.1)


def test_an_idle_connection_is_kept_as_long_as_a_client_has_for_its_headers(original: Served) -> None:
    """Longer than uvicorn would keep it by itself; proxies keep theirs for a minute."""
    connection = http.client.HTTPConnection("127.0.0.1", original.port, timeout=20)
    for pause in (5.5, 0.0):
        connection.request("GET", "/v2/health/live")
        assert connection.getresponse().read() == b'{"live":true}'
        kept = connection.sock
        time.sleep(pause)
    assert kept is not None and connection.sock is kept


def test_clients_that_leave_mid_body_leave_no_traceback(served: Served, digits: dict[str, np.ndarray]) -> None:
    for path in (INFER, "/admin/kill", "/nothing"):
        for _ in range(5):
            with connect(served) as client:
                client.sendall(
                    f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length:"
                    " 100\r\n\r\n{".encode()
                )
    assert served.infer(digits["clean"][:1])["outputs"]
    assert "Traceback" not in served.errors.read_text() and "rror" not in served.errors.read_text()


def test_token_is_looked_at_before_the_body(served: Served) -> None:
    with connect(served) as client:
        client.sendall(
            b"POST /admin/kill HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\nContent-Length: 100\r\n\r\n"
        )
        assert client.recv(100).startswith(b"HTTP/1.1 403")
