"""Requests that know the schema and break it somewhere: a whole number of requests from a seed."""

from __future__ import annotations

import copy
import gzip
import json
import random
from typing import Any

import numpy as np

__all__ = ["requests"]

_PATHS = ["/v2/models/model/infer"] * 12 + [
    "/v2/models/model/versions/1/infer",
    "/v2/models/model/versions/2/infer",
    "/v2/models/model/versions/9/infer",
    "/v2/models/%00/infer",
    "/v2/models/model",
    "/v2/health/ready",
    "/admin/kill",
    "/admin/weight",
    "/%ff%fe",
    "/",
]
_METHODS = ["POST"] * 12 + ["GET", "PUT", "HEAD", "OPTIONS"]
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
        headers |= (
            {rng.choice(["X-Atpatch-Unit", "Accept", "Expect-Nothing"]): rng.choice(["u1", "é", "x" * 2000, "1"])}
            if rng.random() < 0.1
            else {}
        )
        yield rng.choice(_METHODS), rng.choice(_PATHS), headers, body


def _body(rng: random.Random) -> tuple[bytes, dict[str, str]]:
    samples = rng.choice([1, 1, 1, 2, 5, 64, 65])
    images = np.zeros((samples, 1, 8, 8), np.float32)
    raw = rng.random() < 0.4
    entry: dict[str, Any] = {"name": "pixel_values", "shape": list(images.shape), "datatype": "FP32"}
    entry |= {"parameters": {"binary_data_size": images.nbytes}} if raw else {"data": images.ravel().tolist()}
    request: Any = {
        "id": "f",
        "inputs": [entry],
        "outputs": [{"name": "logits", "parameters": {"binary_data": raw}}],
        "parameters": {"unit": "u"},
    }
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        request = _mutate(request, rng)
    head = json.dumps(request).encode()
    headers: dict[str, str] = {}
    if raw:
        length = len(head) if rng.random() < 0.9 else rng.choice([-1, 0, 1, len(head) - 1, len(head) + 1, 10**12, "x"])
        headers["Inference-Header-Content-Length"] = str(length)
        head += images.tobytes()
    if rng.random() < 0.15:
        head = head[: rng.randrange(len(head) + 1)]
    if rng.random() < 0.15:
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
        (holder, key) for holder, key in _places(request) if not (isinstance(holder, list) and len(holder) > 16 and rng.random() < 0.9)
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
