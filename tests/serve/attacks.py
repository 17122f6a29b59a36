"""Attacks by clients that want much for little, on a real server: `python -m tests.serve.attacks [NAME…]`. One JSON
object an attack:

`wait` the longest that another client waited for an answer meanwhile, seconds; `growth` of the server's memory at its
peak, and `kept` some seconds afterwards, MiB; `closed` of how many connections the server closed, where that is the
point; `traceback` whether there was one.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from onnx import TensorProto, helper, save_model

from .load import resident, server

INFER = "/v2/models/model/infer"
TOKEN = "open-sesame"
CONNECTIONS = 500
LIMIT = 4.0
"""--client-timeout of a server attacked, seconds."""


@dataclass
class Target:
    """A server: x (B, 4) FP32 and s (B, 3) BYTES, given back as they are."""

    process: Any
    port: int
    grpc_port: int
    errors: Path
    limit: float


@dataclass
class Seen:
    """Seconds that another client waited, and MiB that the server grew by at most."""

    waits: list[float] = field(default_factory=list)
    peak: float = 0.0


def model(path: Path) -> Path:
    """Takes numbers and texts."""
    value = helper.make_tensor_value_info
    shapes = {"x": (TensorProto.FLOAT, ["batch", 4]), "s": (TensorProto.STRING, ["batch", 3])}
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [name + "_out"]) for name in shapes],
        "echo",
        [value(name, *shape) for name, shape in shapes.items()],
        [value(name + "_out", *shape) for name, shape in shapes.items()],
    )
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def body(data: Any = (1, 2, 3, 4), texts: Any = ("a", "b", "c")) -> dict[str, Any]:
    """A request."""
    return {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": list(data)},
            {"name": "s", "datatype": "BYTES", "shape": [1, 3], "data": list(texts)},
        ]
    }


@contextmanager
def watched(target: Target) -> Iterator[Seen]:
    """Another client asks without a pause, and the server's memory is looked at."""
    stop, seen = threading.Event(), Seen()
    before = resident(target.process)
    text = json.dumps(body())

    def ask() -> None:
        while not stop.is_set():
            started = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=120)
            with suppress(OSError, http.client.HTTPException):
                connection.request("POST", INFER, text)
                assert connection.getresponse().status == 200
            connection.close()
            seen.waits.append(time.monotonic() - started)
            time.sleep(0.01)

    def look() -> None:
        while not stop.is_set():
            seen.peak = max(seen.peak, resident(target.process) - before)
            time.sleep(0.01)

    threads = [threading.Thread(target=work) for work in (ask, look)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def together(count: int, work: Callable[[int], None]) -> None:
    """`work` in so many threads."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# gRPC: messages by hand, since a library would take as long to make them as a server to read them.


def varint(number: int) -> bytes:
    """As protobuf has it."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def part(number: int, content: bytes) -> bytes:
    """A field that holds bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def call(target: Target, message: bytes, method: str = "ModelInfer") -> str:
    """Status of one call."""
    import grpc

    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{target.grpc_port}", options) as channel:
        ask = channel.unary_unary(f"/inference.GRPCInferenceService/{method}", lambda data: data, lambda data: data)
        try:
            ask(message, timeout=120)
        except grpc.RpcError as error:
            return str(error.code())
    return "OK"


HEAD = part(1, b"model")


def tensor(name: str, datatype: str, shape: list[int], contents: bytes) -> bytes:
    """An input."""
    text = part(1, name.encode()) + part(2, datatype.encode()) + part(3, b"".join(map(varint, shape)))
    return part(5, text + part(5, contents))


GRPC: dict[str, Callable[[], bytes]] = {
    "a million empty inputs": lambda: HEAD + part(5, b"") * 1_000_000,
    "a million inputs of the right name": lambda: HEAD + part(5, part(1, b"x")) * 1_000_000,
    "eight million empty texts": lambda: HEAD + tensor("s", "BYTES", [1, 3], part(8, b"") * 8_000_000),
    "eight million raw texts": lambda: HEAD + part(5, b"") * 2 + part(7, b"\0\0\0\0" * 8_000_000),
    "eight million packed numbers": lambda: HEAD + tensor("x", "INT64", [1, 4], part(3, b"\1" * 8_000_000)),
    "a million parameters": lambda: HEAD + part(4, part(1, b"k")) * 1_000_000,
    "a million dimensions": lambda: HEAD + part(5, part(1, b"x") + part(3, b"\1" * 1_000_000)),
    "ten million fields of one name": lambda: part(1, b"m") * 10_000_000,
    "ten million unknown fields": lambda: HEAD + b"\x78\1" * 10_000_000,
}


def grpc_message(target: Target, message: Callable[[], bytes], clients: int = 4) -> dict[str, Any]:
    """A message from several clients at once."""
    statuses: list[str] = []
    data = message()
    together(clients, lambda _: statuses.append(call(target, data)))
    return {"statuses": sorted(set(statuses))}


def grpc_slow(target: Target) -> dict[str, Any]:
    """Streams over which a message begins and never ends; another client of gRPC is answered all the same."""
    import grpc

    channel = grpc.insecure_channel(f"127.0.0.1:{target.grpc_port}")
    stop, ends, others = threading.Event(), [], []
    ask = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer", lambda data: data, lambda data: data)

    def never() -> Iterator[bytes]:
        stop.wait()
        yield from ()

    def other() -> None:
        while not stop.is_set():
            others.append(call(target, b"", "ServerLive"))

    thread = threading.Thread(target=other)
    thread.start()
    started = time.monotonic()
    calls = [ask.future(never()) for _ in range(200)]
    for each in calls:
        with suppress(grpc.RpcError):
            each.result(timeout=60)
        ends.append(str(each.code()))
    seconds = time.monotonic() - started
    stop.set()
    thread.join()
    channel.close()
    return {
        "closed": len(ends),
        "ends": sorted(set(ends)),
        "last": round(seconds, 1),
        "others": sorted(set(others)),
        "of": 200,
    }


# HTTP


def flood(target: Target, start: bytes, chunk: bytes, connections: int = 6, most: int = 200 * 2**20) -> dict[str, Any]:
    """Send `chunk` for ever, or until turned away."""
    sent, answers = [0] * connections, [b""] * connections

    def work(number: int) -> None:
        with socket.create_connection(("127.0.0.1", target.port)) as client:
            client.settimeout(60)
            with suppress(OSError):
                client.sendall(start)
                while sent[number] < most:
                    client.sendall(chunk)
                    sent[number] += len(chunk)
            with suppress(OSError):
                answers[number] = client.recv(100).partition(b"\r\n")[0]

    together(connections, work)
    return {"sent_mib": round(sum(sent) / 2**20, 1), "answers": sorted({answer.decode() for answer in answers})}


def header_lines(target: Target) -> dict[str, Any]:
    """Headers without end."""
    return flood(
        target, b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"".join(b"x-%d: y\r\n" % number for number in range(10_000))
    )


def header_value(target: Target) -> dict[str, Any]:
    """A header without end."""
    return flood(target, b"GET / HTTP/1.1\r\nHost: localhost\r\nx: ", b"y" * 2**17)


def long_url(target: Target) -> dict[str, Any]:
    """A path without end."""
    return flood(target, b"GET /", b"y" * 2**17)


def trailers(target: Target) -> dict[str, Any]:
    """A header without end behind the body."""
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx: ".encode()
    return flood(target, head, b"y" * 2**17)


def pipelined(target: Target) -> dict[str, Any]:
    """Requests without end, and no answer read."""
    return flood(target, b"", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5000, most=20 * 2**20)


def posts(target: Target, text: bytes, clients: int = 6, **headers: str) -> dict[str, Any]:
    """The same body from several clients."""
    statuses: list[int] = []

    def work(_: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=120)
        with suppress(OSError):
            connection.request("POST", INFER, text, {name.replace("_", "-"): value for name, value in headers.items()})
            statuses.append(connection.getresponse().status)
        connection.close()

    together(clients, work)
    return {"statuses": sorted(set(statuses))}


def json_objects(target: Target) -> dict[str, Any]:
    """8 MB of empty objects."""
    return posts(target, b'{"inputs":[' + b"{}," * 2_700_000 + b"{}]}")


def json_numbers(target: Target) -> dict[str, Any]:
    """8 MB of numbers for four."""
    data = json.dumps(body()).replace("[1, 2, 3, 4]", "[" + "1," * 4_000_000 + "1]")
    return posts(target, data.encode())


def raw_texts(target: Target) -> dict[str, Any]:
    """Eight million empty texts, raw."""
    header = body()
    header["inputs"][1] |= {"parameters": {"binary_data_size": 32 * 10**6}}
    del header["inputs"][1]["data"]
    text = json.dumps(header).encode()
    return posts(target, text + b"\0" * (32 * 10**6), Inference_Header_Content_Length=str(len(text)))


def hoarders(target: Target) -> dict[str, Any]:
    """Large bodies whose last byte never comes."""
    body = b"{" * 15 * 2**20
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body) + 1}\r\n\r\n".encode()
    clients = [socket.create_connection(("127.0.0.1", target.port)) for _ in range(40)]
    ends = []
    for client in clients:
        with suppress(OSError):
            client.sendall(head + body)
    for client in clients:
        client.settimeout(3 * target.limit)
        with suppress(OSError):
            ends.append(client.recv(100).partition(b"\r\n")[0].decode())
        client.close()
    return {"ends": sorted(set(ends))}


def gzip_bombs(target: Target) -> dict[str, Any]:
    """Requests of 8 MB that are 8 KB on the wire."""
    text = json.dumps(body()).encode() + b" " * (8 * 10**6)
    return {"ends": posts(target, gzip.compress(text), 60, Content_Encoding="gzip")["statuses"]}


def slow(target: Target, path: str, length: int = 4000, **headers: str) -> dict[str, Any]:
    """Bodies that come a byte a second."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{lines}\r\n".encode()
    started = time.monotonic()
    clients = [socket.create_connection(("127.0.0.1", target.port)) for _ in range(CONNECTIONS)]
    for client in clients:
        client.sendall(head)
        client.setblocking(False)
    closed: dict[int, float] = {}
    while len(closed) < len(clients) and time.monotonic() - started < target.limit + 6:
        for number, client in enumerate(clients):
            if number in closed:
                continue
            try:
                client.send(b"x")
                if client.recv(4096) == b"":
                    closed[number] = time.monotonic() - started
            except BlockingIOError:
                pass
            except OSError:
                closed[number] = time.monotonic() - started
        time.sleep(0.5)
    for client in clients:
        client.close()
    return {
        "closed": len(closed),
        "of": len(clients),
        "last": round(max(closed.values(), default=0.0), 1),
        "limit": target.limit,
    }


def unread_answers(target: Target) -> dict[str, Any]:
    """Clients that take no answer, of 7 MB each: the server's side of the connection has to end all the same."""
    text = json.dumps(body(texts=("a" * 7_000_000, "b", "c"))).encode()
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(text)}\r\n\r\n".encode()
    before, clients = connections(target), []
    for _ in range(10):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", target.port))
        client.sendall(head + text)
        clients.append(client)
    held, deadline = connections(target) - before, time.monotonic() + 3 * target.limit
    while connections(target) > before + 3 and time.monotonic() < deadline:  # another client has some, too
        time.sleep(0.1)
    left = max(0, connections(target) - before - 3)
    for client in clients:
        client.close()
    return {"closed": held - left, "of": held}


def connections(target: Target) -> int:
    """Files that the server has open."""
    return len(list(Path(f"/proc/{target.process.pid}/fd").iterdir()))


ATTACKS: dict[str, Callable[[Target], dict[str, Any]]] = {
    **{f"grpc, {name}": partial(grpc_message, message=message) for name, message in GRPC.items()},
    "grpc slow": grpc_slow,
    "header lines": header_lines,
    "header value": header_value,
    "long url": long_url,
    "trailers": trailers,
    "pipelined": pipelined,
    "json objects": json_objects,
    "json numbers": json_numbers,
    "raw texts": raw_texts,
    "hoarders": hoarders,
    "gzip bombs": gzip_bombs,
    "slow admin, right token": lambda target: slow(target, "/admin/kill", Authorization=f"Bearer {TOKEN}"),
    "slow admin, wrong token": lambda target: slow(target, "/admin/kill", Authorization="Bearer x"),
    "slow admin, form": lambda target: slow(target, "/admin/kill", Content_Type="application/x-www-form-urlencoded"),
    "slow infer": lambda target: slow(target, INFER),
    "unread body, no route": lambda target: slow(target, "/nothing", 10**9),
    "unread body, page": lambda target: slow(target, "/metrics", 10**9),
    "unread answers": unread_answers,
}


@contextmanager
def target(limit: float = LIMIT) -> Iterator[Target]:
    """A server to be attacked, whose clients have `limit` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path, errors = model(Path(folder) / "model.onnx"), Path(folder) / "stderr"
        arguments = ["--mode", "original", "--grpc-port", "0", "--client-timeout", str(limit), "--drain", "0"]
        with server(path, *arguments, original=path, errors=errors, ATPATCH_ADMIN_TOKEN=TOKEN) as (process, described):
            found = Target(process, described["port"], described["grpc_port"], errors, limit)
            for _ in range(20):
                posts(found, json.dumps(body()).encode(), 1)
            yield found


def attack(name: str, found: Target, rest: float = 0.0) -> dict[str, Any]:
    """One attack, and what it did."""
    before = resident(found.process)
    with watched(found) as seen:
        outcome = ATTACKS[name](found)
        time.sleep(0.2)
    time.sleep(rest)
    figures = {
        "wait": round(max(seen.waits), 3),
        "growth": round(seen.peak),
        "kept": round(resident(found.process) - before),
    }
    return {"attack": name, **figures, **outcome, "traceback": "Traceback" in found.errors.read_text()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(ATTACKS))
    for name in parser.parse_args().names:
        with target() as found:
            sys.stdout.write(json.dumps(attack(name, found, rest=3.0)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
