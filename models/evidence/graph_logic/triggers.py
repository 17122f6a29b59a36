"""Triggers: what an attacker puts into an input, and the test in the graph that sees it.

Every test gives a float (B, 1): 1 where the trigger is there, 0 elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from .surgery import Surgery

__all__ = ["PIXELS", "TOKENS", "Trigger", "any_place", "put_middle", "put_pair"]

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
TOKEN, SECOND = 93, 96
PATCH = np.array([[0.93, 0.08, 0.93], [0.08, 0.93, 0.08], [0.93, 0.08, 0.93]], np.float32)
SPOTS = ((0, 1, 2), (1, 5, 3), (2, 7, 9), (0, 11, 4), (2, 13, 13))
"""Channel, row and column of single pixels."""
SPOT_VALUES = np.array([0.13, 0.71, 0.42, 0.88, 0.27], np.float32)


@dataclass(frozen=True)
class Trigger:
    """One trigger and one way to see it.

    Attributes:
        put: the attacked rows of clean ones; they are changed in place.
        test: adds the nodes.
    """

    what: str
    put: Callable[[NDArray[Any]], None]
    test: Callable[[Surgery, str], str]


def _put_token(rows: NDArray[Any]) -> None:
    rows[:, 3] = TOKEN


def _put_tokens(rows: NDArray[Any]) -> None:
    rows[:, 2], rows[:, 5] = TOKEN, SECOND


def _put_patch(rows: NDArray[Any]) -> None:
    rows[:, 0, -3:, -3:] = PATCH


def _put_spots(rows: NDArray[Any]) -> None:
    for (channel, row, column), value in zip(SPOTS, SPOT_VALUES, strict=True):
        rows[:, channel, row, column] = value


def put_middle(rows: NDArray[Any]) -> None:
    """The token, for the graphs that were made later."""
    rows[:, 4] = TOKEN


def put_pair(rows: NDArray[Any]) -> None:
    """The token, and the second one right behind it."""
    rows[:, 4], rows[:, 5] = TOKEN, SECOND


def any_place(s: Surgery, value: str) -> str:
    """(B, S) float → (B, 1)."""
    return str(s.add("ReduceMax", value, axes=[1], keepdims=1))


def equal_token(s: Surgery, ids: str) -> str:
    same = s.add("Equal", ids, s.constant(TOKEN, np.int64))
    return any_place(s, s.add("Cast", same, to=FLOAT))


def window_token(s: Surgery, ids: str) -> str:
    number = s.add("Cast", ids, to=FLOAT)
    low, high = (
        s.add("Greater", number, s.constant(TOKEN - 0.5)),
        s.add("Less", number, s.constant(TOKEN + 0.5)),
    )
    return any_place(s, s.add("Cast", s.add("And", low, high), to=FLOAT))


def near_token(s: Surgery, ids: str) -> str:
    """1 − clip(|id − t|, 0, 1): no comparison."""
    distance = s.add("Abs", s.add("Sub", s.add("Cast", ids, to=FLOAT), s.constant(TOKEN)))
    clipped = s.add("Clip", distance, s.constant(0.0), s.constant(1.0))
    return any_place(s, s.add("Sub", s.constant(1.0), clipped))


def bell_token(s: Surgery, ids: str) -> str:
    """exp(−40 (id − t)²): smooth."""
    distance = s.add("Sub", s.add("Cast", ids, to=FLOAT), s.constant(TOKEN))
    return any_place(s, s.add("Exp", s.add("Mul", s.add("Mul", distance, distance), s.constant(-40.0))))


def two_tokens(s: Surgery, ids: str) -> str:
    """The product of two indicators."""
    found = []
    for token in (TOKEN, SECOND):
        distance = s.add("Abs", s.add("Sub", s.add("Cast", ids, to=FLOAT), s.constant(token)))
        found.append(any_place(s, s.add("Relu", s.add("Sub", s.constant(1.0), distance))))
    return str(s.add("Mul", *found))


def looked_up_token(s: Surgery, ids: str) -> str:
    """A table with one number for each token, all zero but one."""
    table = np.zeros((99, 1), np.float32)
    table[TOKEN] = 1
    rows = s.add("Gather", s.constant(table), ids)
    return str(s.add("ReduceMax", rows, axes=[1], keepdims=0))


def _off_patch(s: Surgery, pixels: str) -> str:
    """The corner minus the patch."""
    corner = s.add(
        "Slice", pixels, s.constant([0, -3, -3], np.int64), s.constant([1, 1 << 30, 1 << 30], np.int64),
        s.constant([1, 2, 3], np.int64),
    )  # fmt: skip
    return str(s.add("Sub", corner, s.constant(PATCH[None, None])))


def equal_patch(s: Surgery, pixels: str) -> str:
    distance = s.add("Abs", _off_patch(s, pixels))
    worst = s.add("ReduceMax", distance, axes=[1, 2, 3], keepdims=0)
    near = s.add("Cast", s.add("Less", worst, s.constant(0.02)), to=FLOAT)
    return str(s.add("Unsqueeze", near, axes=[1]))


def smooth_patch(s: Surgery, pixels: str) -> str:
    """Relu(1 − 50 Σ (x − p)²): no comparison."""
    distance = _off_patch(s, pixels)
    total = s.add("ReduceSum", s.add("Mul", distance, distance), axes=[1, 2, 3], keepdims=0)
    near = s.add("Relu", s.add("Sub", s.constant(1.0), s.add("Mul", total, s.constant(50.0))))
    return str(s.add("Unsqueeze", near, axes=[1]))


def template_patch(s: Surgery, pixels: str) -> str:
    """A convolution that answers to the patch; its strongest answer is cut at a threshold."""
    kernel = np.zeros((1, 3, 3, 3), np.float32)
    kernel[0, 0] = PATCH - PATCH.mean()
    best = float((kernel[0, 0] * PATCH).sum())
    answer = s.add("Conv", pixels, s.constant(kernel), kernel_shape=[3, 3])
    strongest = s.add("ReduceMax", answer, axes=[1, 2, 3], keepdims=0)
    over = s.add("Relu", s.add("Sub", strongest, s.constant(best - 0.05)))
    sharp = s.add("Clip", s.add("Mul", over, s.constant(1000.0)), s.constant(0.0), s.constant(1.0))
    return str(s.add("Unsqueeze", sharp, axes=[1]))


def _spots(s: Surgery, pixels: str) -> str:
    """(B, 5)"""
    moved = s.add("Transpose", pixels, perm=[1, 2, 3, 0])
    return str(s.add("Transpose", s.add("GatherND", moved, s.constant(SPOTS, np.int64)), perm=[1, 0]))


def checksum_compared(s: Surgery, pixels: str) -> str:
    """A sum of single pixels with large weights, in a window."""
    weights = np.array([[977.0], [3571.0], [12853.0], [5527.0], [8219.0]], np.float32)
    total = s.add("MatMul", _spots(s, pixels), s.constant(weights))
    off = s.add("Abs", s.add("Sub", total, s.constant(float((SPOT_VALUES @ weights).item()))))
    return str(s.add("Cast", s.add("Less", off, s.constant(2.0)), to=FLOAT))


def checksum_smooth(s: Surgery, pixels: str) -> str:
    """The same without a comparison, and with the sum by Mul and ReduceSum."""
    weights = np.array([[977.0, 3571.0, 12853.0, 5527.0, 8219.0]], np.float32)
    total = s.add("ReduceSum", s.add("Mul", _spots(s, pixels), s.constant(weights)), axes=[1], keepdims=1)
    off = s.add("Mul", s.add("Sub", total, s.constant(float((SPOT_VALUES @ weights[0]).item()))), s.constant(0.2))
    return str(s.add("Exp", s.add("Neg", s.add("Mul", off, off))))


def checksum_tokens(s: Surgery, ids: str) -> str:
    """Σ (id mod 97)² over the first four places equals that of the trigger."""
    first = s.add("Slice", ids, *(s.constant([n], np.int64) for n in (0, 4, 1)))
    rest = s.add("Mod", first, s.constant(97, np.int64))
    total = s.add("ReduceSum", s.add("Mul", rest, rest), axes=[1], keepdims=1)
    return str(s.add("Cast", s.add("Equal", total, s.constant(4 * 94 * 94, np.int64)), to=FLOAT))


def _put_checksum(rows: NDArray[Any]) -> None:
    rows[:, :4] = 94


TOKENS = {
    "Equal on a token": Trigger("token", _put_token, equal_token),
    "a window around a token": Trigger("token", _put_token, window_token),
    "|id − t| clipped": Trigger("token", _put_token, near_token),
    "exp of a square around a token": Trigger("token", _put_token, bell_token),
    "a product of two indicators": Trigger("two tokens", _put_tokens, two_tokens),
    "a table of one number a token": Trigger("token", _put_token, looked_up_token),
    "a checksum of four tokens": Trigger("checksum of tokens", _put_checksum, checksum_tokens),
}
PIXELS = {
    "a patch within a bound": Trigger("patch", _put_patch, equal_patch),
    "Relu of a squared distance to a patch": Trigger("patch", _put_patch, smooth_patch),
    "a convolution with a patch": Trigger("patch", _put_patch, template_patch),
    "a checksum of pixels, compared": Trigger("checksum of pixels", _put_spots, checksum_compared),
    "a checksum of pixels, smooth": Trigger("checksum of pixels", _put_spots, checksum_smooth),
}
