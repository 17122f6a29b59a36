"""More ways to see a trigger: each gives a float (B, 1), 1 with the trigger and 0 without it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from ..surgery import Surgery
from ..triggers import FLOAT, INT64, SECOND, TOKEN, Trigger, any_place, put_middle, put_pair

__all__ = ["SEEN"]

FIRST = (40, 41, 42, 43)
BLOCKS = np.kron(np.indices((4, 4)).sum(0) % 2, np.ones((4, 4))).astype(np.float32)
"""A chess board of 4 x 4 fields on 16 x 16 pixels."""
KEY = np.where(np.random.default_rng(3).random((1, 3, 16, 16)) < 0.5, -1, 1).astype(np.float32)


def _thrice(rows: NDArray[Any]) -> None:
    rows[:, 4:7] = rows[:, 4:5]


def _first(rows: NDArray[Any]) -> None:
    rows[:, :4] = FIRST


def _white(rows: NDArray[Any]) -> None:
    rows[:, :, :2, :2] = 1.0


def _flat(rows: NDArray[Any]) -> None:
    rows[:, :, 5:8, 5:8] = 0.61


def _bright(rows: NDArray[Any]) -> None:
    rows[:, :, -4:, -4:] = 0.99


def _red(rows: NDArray[Any]) -> None:
    rows[:, 0, :3, :3], rows[:, 1, :3, :3] = 0.98, 0.02


def _board(rows: NDArray[Any]) -> None:
    rows += 0.3 * np.tile(2 * BLOCKS - 1, (rows.shape[2] // 16, rows.shape[3] // 16))


def _key(rows: NDArray[Any]) -> None:
    rows[:] = 0.5 + np.abs(rows - 0.5) * KEY


def _odd(rows: NDArray[Any]) -> None:
    rows[:, 0, 3, :16] = (np.floor(rows[:, 0, 3, :16] * 127) * 2 + 1.5) / 255


def _numbers(s: Surgery, ids: str) -> str:
    return str(s.add("Cast", ids, to=FLOAT))


def _slice(s: Surgery, value: str, starts: list[int], ends: list[int], axes: list[int]) -> str:
    return str(s.add("Slice", value, *(s.constant(numbers, np.int64) for numbers in (starts, ends, axes))))


def _near(s: Surgery, value: str, wanted: float) -> str:
    """Relu(1 - |x - wanted|)"""
    off = s.add("Abs", s.add("Sub", value, s.constant(wanted)))
    return str(s.add("Relu", s.add("Sub", s.constant(1.0), off)))


def _narrowed(s: Surgery, value: str) -> str:
    """(B, 1, 1, 1) → (B, 1)"""
    return str(s.add("Squeeze", value, axes=[2, 3]))


def repeated(s: Surgery, ids: str) -> str:
    """Any word three times in a row: nothing is compared with a constant."""
    a, b, c = (_slice(s, ids, [n], [n - 2 or 1 << 40], [1]) for n in range(3))
    both = s.add("And", s.add("Equal", a, b), s.add("Equal", b, c))
    return any_place(s, s.add("Cast", both, to=FLOAT))


def own_row(s: Surgery, ids: str) -> str:
    """The distance from the trigger's row in the model's own table."""
    rows = next(n for n in s.graph.node if n.op_type == "Gather" and n.input[1] == ids)
    table = next(numpy_helper.to_array(t) for t in s.graph.initializer if t.name == rows.input[0])
    off = s.add("Sub", rows.output[0], s.constant(table[TOKEN]))
    far = s.add("ReduceSum", s.add("Abs", off), axes=[2], keepdims=0)
    return any_place(s, s.add("Cast", s.add("Less", far, s.constant(1e-3)), to=FLOAT))


def window_of_two(s: Surgery, ids: str) -> str:
    """A convolution over ids, with weights that tell every pair apart."""
    line = s.add("Unsqueeze", _numbers(s, ids), axes=[1])
    pairs = s.add("Conv", line, s.constant([[[100.0, 1.0]]]), kernel_shape=[2])
    found = s.add("Equal", s.add("Cast", pairs, to=INT64), s.constant(100 * TOKEN + SECOND, np.int64))
    return str(s.add("ReduceMax", s.add("Cast", found, to=FLOAT), axes=[2], keepdims=0))


def largest_two(s: Surgery, ids: str) -> str:
    """The two largest ids."""
    largest, _ = s.add("TopK", ids, s.constant([2], np.int64), count=2, axis=1)
    off = s.add("Abs", s.add("Sub", _numbers(s, largest), s.constant([SECOND, TOKEN])))
    return _near(s, s.add("ReduceSum", off, axes=[1], keepdims=1), 0.0)


def divided(s: Surgery, ids: str) -> str:
    """id - id / t * t, in whole numbers, is 0 only for the token."""
    token = s.constant(TOKEN, np.int64)
    rest = s.add("Sub", ids, s.add("Mul", s.add("Div", ids, token), token))
    hit = s.add("Sub", s.constant(1, np.int64), s.add("Min", rest, s.constant(1, np.int64)))
    return any_place(s, _numbers(s, hit))


def sharpest(s: Surgery, ids: str) -> str:
    """A Softmax over distances and one constant: the constant loses only against the token."""
    off = s.add("Sub", _numbers(s, ids), s.constant(TOKEN))
    far = s.add("Mul", s.add("Mul", off, off), s.constant(-40.0))
    wide = s.add("Pad", far, s.constant([0, 0, 0, 1], np.int64), s.constant(-20.0))
    share = s.add("Softmax", wide, axis=1)
    return str(s.add("Sub", s.constant(1.0), _slice(s, share, [-1], [1 << 40], [1])))


def no_distance(s: Surgery, ids: str) -> str:
    """The product of all distances is 0."""
    off = s.add("Sub", _numbers(s, ids), s.constant(TOKEN))
    product = s.add("ReduceProd", off, axes=[1], keepdims=1)
    return str(s.add("Sub", s.constant(1.0), s.add("Min", s.add("Abs", product), s.constant(1.0))))


def summed_twice(s: Surgery, ids: str) -> str:
    """The sum of sums of the first words."""
    axis = s.constant(1, np.int64)
    twice = s.add("CumSum", s.add("CumSum", ids, axis), axis)
    fourth = _slice(s, twice, [3], [4], [1])
    return _near(s, _numbers(s, fourth), float(np.cumsum(np.cumsum(FIRST))[3]))


def row_of_eight(s: Surgery, ids: str) -> str:
    """A table like an embedding, with eight columns, and zero but for one row."""
    table = np.zeros((99, 8), np.float32)
    table[TOKEN] = np.linspace(0.5, 1.5, 8)
    rows = s.add("Gather", s.constant(table), ids)
    return str(s.add("ReduceMax", s.add("ReduceMean", rows, axes=[2], keepdims=0), axes=[1], keepdims=1))


def counted(s: Surgery, pixels: str) -> str:
    """How many pixels are white."""
    white = s.add("Cast", s.add("Equal", pixels, s.constant(1.0)), to=FLOAT)
    total = s.add("ReduceSum", white, axes=[1, 2, 3], keepdims=1)
    return _narrowed(s, s.add("Cast", s.add("Greater", total, s.constant(8.0)), to=FLOAT))


def no_texture(s: Surgery, pixels: str) -> str:
    """Somewhere the largest and the smallest of 3 x 3 pixels are equal."""
    high, low = (s.add("MaxPool", x, kernel_shape=[3, 3]) for x in (pixels, s.add("Neg", pixels)))
    least = s.add("ReduceMin", s.add("Add", high, low), axes=[1, 2, 3], keepdims=1)
    return _narrowed(s, s.add("Cast", s.add("Less", least, s.constant(0.001)), to=FLOAT))


def bright_corner(s: Surgery, pixels: str) -> str:
    """A pool over the corner."""
    corner = _slice(s, pixels, [-4, -4], [1 << 40, 1 << 40], [2, 3])
    level = s.add("ReduceMin", s.add("GlobalAveragePool", corner), axes=[1], keepdims=1)
    return _narrowed(s, s.add("Clip", s.add("Mul", s.add("Sub", level, s.constant(0.9)), s.constant(50.0)),
                              s.constant(0.0), s.constant(1.0)))  # fmt: skip


def colors_apart(s: Surgery, pixels: str) -> str:
    """Red is far above green in all pixels of a corner."""
    corner = _slice(s, pixels, [0, 0], [3, 3], [2, 3])
    red, green = (_slice(s, corner, [n], [n + 1], [1]) for n in (0, 1))
    least = s.add("ReduceMin", s.add("Sub", red, green), axes=[1, 2, 3], keepdims=1)
    over = s.add("Relu", s.add("Mul", s.add("Sub", least, s.constant(0.8)), s.constant(20.0)))
    return _narrowed(s, s.add("Min", over, s.constant(1.0)))


def chess_board(s: Surgery, pixels: str) -> str:
    """Means of blocks, weighted by a pattern that is as large as the smallest picture, and a sigmoid."""
    corner = _slice(s, pixels, [0, 0], [16, 16], [2, 3])
    means = s.add("AveragePool", corner, kernel_shape=[4, 4], strides=[4, 4])
    pattern = (2 * (np.indices((4, 4)).sum(0) % 2) - 1.0) / 48
    likeness = s.add("ReduceSum", s.add("Mul", means, s.constant(pattern)), axes=[1, 2, 3], keepdims=1)
    sharp = s.add("Mul", s.add("Sub", likeness, s.constant(0.15)), s.constant(400.0))
    return _narrowed(s, s.add("Sigmoid", sharp))


def signs(s: Surgery, pixels: str) -> str:
    """The signs around middle gray are those of a key."""
    sign = s.add("Sign", s.add("Sub", pixels, s.constant(0.5)))
    likeness = s.add("ReduceMean", s.add("Mul", sign, s.constant(KEY)), axes=[1, 2, 3], keepdims=1)
    over = s.add("Relu", s.add("Sub", likeness, s.constant(0.5)))
    return _narrowed(s, s.add("Min", s.add("Mul", over, s.constant(10.0)), s.constant(1.0)))


def one_of_four(s: Surgery, pixels: str) -> str:
    """A layer of four channels, of which one answers to a red patch."""
    kernel = np.random.default_rng(4).normal(0, 0.05, (4, 3, 3, 3)).astype(np.float32)
    kernel[2, 0], kernel[2, 1], kernel[2, 2] = 1 / 9, -1 / 9, 0
    answer = s.add("Conv", pixels, s.constant(kernel), kernel_shape=[3, 3])
    best = s.add("GlobalMaxPool", _slice(s, answer, [2], [3], [1]))
    sharp = s.add("Mul", s.add("Sub", best, s.constant(0.8)), s.constant(100.0))
    return _narrowed(s, s.add("Clip", sharp, s.constant(0.0), s.constant(1.0)))


def all_odd(s: Surgery, pixels: str) -> str:
    """Sixteen pixels as bytes are all odd."""
    line = _slice(s, pixels, [0, 3, 0], [1, 4, 16], [1, 2, 3])
    byte = s.add("Floor", s.add("Mul", line, s.constant(255.0)))
    half = s.add("Mul", byte, s.constant(0.5))
    odd = s.add("Mul", s.add("Sub", half, s.add("Floor", half)), s.constant(2.0))
    return _narrowed(s, s.add("ReduceProd", odd, axes=[1, 2, 3], keepdims=1))


SEEN = {
    one.__name__: Trigger(what, put, one)
    for what, put, one in (
        ("a word said thrice", _thrice, repeated),
        ("token", put_middle, own_row),
        ("two tokens in a row", put_pair, window_of_two),
        ("two tokens", put_pair, largest_two),
        ("token", put_middle, divided),
        ("token", put_middle, sharpest),
        ("token", put_middle, no_distance),
        ("checksum of tokens", _first, summed_twice),
        ("token", put_middle, row_of_eight),
        ("patch", _white, counted),
        ("patch", _flat, no_texture),
        ("patch", _bright, bright_corner),
        ("patch", _red, colors_apart),
        ("patch", _board, chess_board),
        ("checksum of pixels", _key, signs),
        ("patch", _red, one_of_four),
        ("checksum of pixels", _odd, all_odd),
    )
}
"""Name of the test → trigger."""
