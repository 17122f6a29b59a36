"""Requests that know the schema and break it somewhere: a whole number of requests from a seed. Most of them parse, so
that it is the checks behind the parser that are tried.
"""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from .attacks import part, varint

__all__ = ["messages", "requests"]

_PATHS = (
    ["/v2/models/model/infer"] * 40
    + ["/v2/models/model/versions/1/infer", "/v2/models/model/versions/2/infer"] * 5
    + [
        "/v2/models/model/versions/9/infer",
        "/v2/models/%00/infer",
        "/v2/models/model",
        "/v2/health/ready",
        "/admin/kill",
        "/admin/weight",
        "/%ff%fe",
        "/",
    ]
)
_METHODS = ["POST"] * 60 + ["GET", "PUT", "HEAD", "OPTIONS"]
_OTHER_METHODS = ["ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "None"]
_ODD_DIMENSIONS = [0, 1, 7, 2**31, 2**63, 2**64 - 1]
_ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    2**64,
    10**30,
    1.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    "\0",
    [],
    {},
    [[]],
]
_ODD += [
    [1, [2]],
    {"a": 1},
    "pixel_values",
    "FP32",
    "BYTES",
    "INT64",
    [1, 1, 8, 8],
    [2, 1, 8, 8],
    [-1, 1, 8, 8],
    [2**40, 1, 8, 8],
    [1] * 70,
]
_KEYS = [
    "id",
    "inputs",
    "outputs",
    "parameters",
    "name",
    "shape",
    "datatype",
    "data",
    "binary_data_size",
    "binary_data",
    "unit",
    "classification",
]


def requests(count: int, seed: int) -> Any:
    """Yields (method, path, headers, body)."""
    rng = random.Random(seed)
    for _ in range(count):
        body, headers = _body(rng)
        if rng.random() < 0.1:
            headers[rng.choice(["X-Atpatch-Unit", "Accept", "Expect", "Origin", "Host"])] = rng.choice(
                ["u1", "é", "x" * 2000, "1"]
            )
        yield rng.choice(_METHODS), rng.choice(_PATHS), headers, body


def _body(rng: random.Random) -> tuple[bytes, dict[str, str]]:
    samples = rng.choice([1, 1, 1, 2, 5, 64, 65])
    images = np.random.default_rng(rng.randrange(2**32)).random((samples, 1, 8, 8), np.float32)
    if rng.random() < 0.2:
        images[rng.randrange(samples), 0, rng.randrange(8), rng.randrange(8)] = rng.choice(
            [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45]
        )
    raw = rng.random() < 0.4
    entry: dict[str, Any] = {"name": "pixel_values", "shape": list(images.shape), "datatype": "FP32"}
    entry |= {"parameters": {"binary_data_size": images.nbytes}} if raw else {"data": images.ravel().tolist()}
    request: Any = {
        "id": "f",
        "inputs": [entry],
        "outputs": [{"name": "logits", "parameters": {"binary_data": raw}}],
        "parameters": {"unit": "u"},
    }
    for _ in range(rng.choice([0, 0, 0, 1, 1, 1, 2, 3])):
        request = _mutate(request, rng)
    head = json.dumps(request).encode()
    headers: dict[str, str] = {}
    if raw:
        length = len(head) if rng.random() < 0.9 else rng.choice([-1, 0, 1, len(head) - 1, len(head) + 1, 10**12, "x"])
        headers["Inference-Header-Content-Length"] = str(length)
        head += images.tobytes()
    if rng.random() < 0.05:
        head = head[: rng.randrange(len(head) + 1)]
    if rng.random() < 0.1:
        flipped = bytearray(head)
        for _ in range(rng.randrange(1, 4)):
            if flipped:
                flipped[rng.randrange(len(flipped))] = rng.randrange(256)
        head = bytes(flipped)
    if rng.random() < 0.05:
        headers["Content-Encoding"] = rng.choice(["gzip", "deflate", "br", ""])
        head = gzip.compress(head) if rng.random() < 0.5 else head
    return head, headers


def _mutate(request: Any, rng: random.Random) -> Any:
    """One node of the tree replaced, removed, or added to."""
    request = copy.deepcopy(request)
    places = [
        (holder, key)
        for holder, key in _places(request)
        if not (isinstance(holder, list) and len(holder) > 16 and rng.random() < 0.9)
    ]
    if not places:
        return rng.choice(_ODD)
    holder, key = rng.choice(places)
    what = rng.random()
    if what < 0.2:
        del holder[key]
    elif what < 0.35 and isinstance(holder, dict):
        holder[rng.choice(_KEYS)] = rng.choice(_ODD)
    else:
        holder[key] = rng.choice(_ODD)
    return request


def _places(tree: Any) -> list[tuple[Any, Any]]:
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    found = [(tree, key) for key, _ in items]
    for _, value in items[:16]:
        found += _places(value)
    return found


def messages(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yields (method of gRPC, message on the wire)."""
    rng = random.Random(seed)
    for _ in range(count):
        if rng.random() < 0.05:
            yield rng.choice(_OTHER_METHODS), _name(rng) + _name(rng)
        else:
            yield "ModelInfer", _flip(_message(rng), rng)


def _message(rng: random.Random) -> bytes:
    """Fields of a request, each now and then missing, doubled, odd or in another place."""
    samples = rng.choice([1, 1, 1, 2, 5, 64, 65])
    images = np.random.default_rng(rng.randrange(2**32)).random((samples, 1, 8, 8), np.float32)
    if rng.random() < 0.2:
        images[rng.randrange(samples), 0, 0, 0] = rng.choice([np.nan, np.inf, 3e38])
    shape = [samples, 1, 8, 8]
    if rng.random() < 0.1:
        shape = [rng.choice(_ODD_DIMENSIONS) for _ in range(rng.choice([0, 3, 4, 5]))]
    tensor = [
        part(1, b"pixel_values"),
        part(2, rng.choice([b"FP32"] * 12 + [b"FP64", b"BYTES", b"\xff"])),
        _numbers(shape, 3, rng),
    ]
    typed = rng.random() < 0.5
    if typed:
        kind = rng.choice([6] * 12 + [1, 3, 7, 8, 9])
        tensor.append(part(5, part(kind, images.tobytes())))
    fields = [part(1, b"model"), part(5, _shuffled(tensor, rng))]
    if not typed or rng.random() < 0.05:
        fields.append(part(7, images.tobytes()))
    if rng.random() < 0.5:
        fields.append(part(3, rng.choice([b"id", b"x" * 2000, b"\xff"])))
        fields.append(part(4, part(1, rng.choice([b"unit", b"classification"])) + part(2, _value(rng))))
    if rng.random() < 0.5:
        fields.append(part(6, part(1, rng.choice([b"logits"] * 8 + [b"other"]))))
    if rng.random() < 0.3:
        fields.append(part(2, rng.choice([b"1", b"2", b"", b"9"])))
    return _shuffled(fields, rng)


def _name(rng: random.Random) -> bytes:
    return part(rng.choice([1, 2, 3]), rng.choice([b"model", b"1", b"2", b"", b"\xff", b"x" * 70_000]))


def _numbers(values: list[int], number: int, rng: random.Random) -> bytes:
    if rng.random() < 0.8:
        return part(number, b"".join(map(varint, values)))
    return b"".join(varint(number << 3) + varint(value) for value in values)


def _value(rng: random.Random) -> bytes:
    return rng.choice(
        [b"\x08\1", b"\x10" + varint(2**64 - 1), part(3, b"text"), part(3, b"\xff"), b"\x21" + b"\xff" * 8, b""]
    )


def _shuffled(fields: list[bytes], rng: random.Random) -> bytes:
    fields = list(fields)
    if rng.random() < 0.1:
        rng.shuffle(fields)
    if rng.random() < 0.05:
        del fields[rng.randrange(len(fields))]
    if rng.random() < 0.05:
        fields += [rng.choice(fields)] * rng.choice([1, 2, 70]) if fields else []
    return b"".join(fields)


def _flip(message: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.05:
        return message[: rng.randrange(len(message) + 1)]
    if rng.random() < 0.1:
        flipped = bytearray(message)
        for _ in range(rng.randrange(1, 4)):
            if flipped:
                flipped[rng.randrange(len(flipped))] = rng.randrange(256)
        return bytes(flipped)
    return message
