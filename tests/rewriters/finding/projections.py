"""Small attention graphs whose rows and columns are one token, or only seem so, with their results in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

Array = np.ndarray


B, N, C, H = 3, 6, 8, 2
"""Samples, tokens, width, heads."""


def weight(name: str, rows: int = C, columns: int = C) -> Array:
    return np.random.default_rng([*name.encode(), rows, columns]).normal(size=(rows, columns)).astype(np.float32)


X, Y = (np.random.default_rng(seed).normal(size=(B, N, C)).astype(np.float32) for seed in (1, 2))


MASK = (np.arange(N)[None] < np.array([[N], [N - 2], [N - 3]])).astype(np.int64)


HIDDEN = np.where(MASK[:, None, None] > 0, 0.0, -1e9)


def soft(scores: Array) -> Array:
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attend(queries: Array, keys: Array, hidden: Array | float = HIDDEN) -> tuple[Array, Array]:
    """Map (B, 1, Q, K) and values (B, 1, K, C) of one head over tokens (B, ·, C)."""
    q, k, v = (
        tokens.astype(np.float64) @ weight(name) for tokens, name in ((queries, "wq"), (keys, "wk"), (keys, "wv"))
    )
    return soft((q @ k.transpose(0, 2, 1))[:, None] * 0.1 + hidden), v[:, None]


@dataclass(frozen=True)
class Case:
    """`text`: nodes that make q, kt and v (rank 3) of x, y; `truth`: their map and values; `inputs`: shapes as onnx's
    parser reads them.
    """

    expected: bool
    text: str
    truth: Callable[[], tuple[Array, Array]]
    inputs: str = "float[B,S,8] x"
    masked: bool = True
    weights: tuple[tuple[str, int, int], ...] = (("wq", C, C), ("wk", C, C), ("wv", C, C))

    def model(self) -> onnx.ModelProto:
        mask = (
            "m0 = Unsqueeze(attention_mask, one) m1 = Cast<to = 1>(m0) m2 = Sub(unit, m1) m3 = Mul(m2, low) s ="
            " Add(scaled, m3)"
            if self.masked
            else "s = Identity(scaled)"
        )
        body = (
            f"{self.text} raw = MatMul(q, kt) scaled = Mul(raw, tenth) {mask} p = Softmax<axis = -1>(s) out ="
            " MatMul(p, v)"
        )
        inputs = self.inputs + (", int64[B,S] attention_mask" if self.masked else "")
        model = onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => (float[B,Q,D] out) {{ {body} }}'
        )
        constants: dict[str, Array] = {name: weight(name, rows, columns) for name, rows, columns in self.weights}
        constants |= {"unit": np.float32(1), "low": np.float32(-1e9), "tenth": np.float32(0.1), "one": np.array([1])}
        constants |= {name: np.array(shape) for name, shape in SHAPES.items()}
        read = {name for node in model.graph.node for name in node.input}
        model.graph.initializer.extend(
            onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items() if name in read
        )
        return model


SHAPES = {
    "zero": [0], "three": [3], "end": [2**31], "two": [2], "back": [5, 4, 3, 2, 1, 0], "rows": [-1, 8], "split": [0,
    -1, 2, 4],
    "folded": [0, -1, 4], "grid": [0, 8, 2, 3], "flat": [0, 8, -1],
}  # fmt: skip


KEYS = "k = MatMul({0}, wk) kt = Transpose<perm = [0, 2, 1]>(k) v = MatMul({0}, wv)"


STATIC = "float[B,6,8] x"


def picked(tokens: Array, *, hidden: Array | float = 0.0) -> tuple[Array, Array]:
    return attend(X, tokens, hidden)


def folded() -> tuple[Array, Array]:
    """Multi-query attention: both heads of a token side by side as rows, one set of keys."""
    q = (X.astype(np.float64) @ weight("wq")).reshape(B, N * H, C // H)
    k, v = (X.astype(np.float64) @ weight(name, C, C // H) for name in ("wk", "wv"))
    return soft((q @ k.transpose(0, 2, 1))[:, None] * 0.1 + HIDDEN), v[:, None]


def channels() -> tuple[Array, Array]:
    """Cross-covariance attention: rows and columns are features."""
    q, k, v = ((X.astype(np.float64) @ weight(name)).transpose(0, 2, 1) for name in ("wq", "wk", "wv"))
    return soft((q @ k.transpose(0, 2, 1))[:, None] * 0.1), v[:, None]


MULTI_QUERY = (("wq", C, C), ("wk", C, C // H), ("wv", C, C // H))


FOLDED = "q0 = MatMul(x, wq) q1 = Reshape(q0, split) q = Reshape(q1, folded) " + KEYS.format("x")


GRID = "g0 = Transpose<perm = [0, 2, 1]>(x) image = Reshape(g0, grid) "


ROWS_FIRST = "f0 = Reshape(image, flat) rf = Transpose<perm = [0, 2, 1]>(f0) "


COLUMNS_FIRST = (
    "f1 = Transpose<perm = [0, 1, 3, 2]>(image) f2 = Reshape(f1, flat) cf = Transpose<perm = [0, 2, 1]>(f2) "
)


TURNED = X.reshape(B, 2, 3, C).transpose(0, 2, 1, 3).reshape(B, N, C)


CASES = {
    "plain": Case(True, "q = MatMul(x, wq) " + KEYS.format("x"), lambda: attend(X, X)),
    "samples-and-tokens-in-one-axis": Case(
        True,
        "f = Reshape(x, rows) qf = Gemm(f, wq) kf = Gemm(f, wk) vf = Gemm(f, wv) shape = Shape(x) "
        "q = Reshape(qf, shape) k = Reshape(kf, shape) v = Reshape(vf, shape) kt = Transpose<perm = [0, 2, 1]>(k)",
        lambda: attend(X, X),
    ),
    "tokens-over-two-axes": Case(
        True,
        GRID + ROWS_FIRST + "q = MatMul(rf, wq) " + KEYS.format("rf"),
        lambda: attend(X, X, 0.0),
        STATIC,
        masked=False,
    ),
    "both-pick-alike": Case(
        True,
        "a = Slice(x, zero, three, one) b = Slice(x, zero, three, one) q = MatMul(a, wq) " + KEYS.format("b"),
        lambda: attend(X[:, :3], X[:, :3], 0.0),
        masked=False,
    ),
    "heads-folded-into-rows": Case(False, FOLDED, folded, weights=MULTI_QUERY),
    "heads-folded-into-rows-of-known-length": Case(False, FOLDED, folded, STATIC, weights=MULTI_QUERY),
    "other-tokens-of-equal-length": Case(
        False, "q = MatMul(x, wq) " + KEYS.format("y"), lambda: attend(X, Y), STATIC + ", float[B,6,8] y"
    ),
    "other-tokens-of-a-length-named-alike": Case(
        False, "q = MatMul(x, wq) " + KEYS.format("y"), lambda: attend(X, Y), "float[B,S,8] x, float[B,S,8] y"
    ),
    "queries-of-another-length": Case(
        False, "a = Slice(x, zero, three, one) q = MatMul(a, wq) " + KEYS.format("x"), lambda: attend(X[:, :3], X)
    ),
    "two-halves": Case(
        False,
        "a = Slice(x, zero, three, one) b = Slice(x, three, end, one) q = MatMul(a, wq) " + KEYS.format("b"),
        lambda: attend(X[:, :3], X[:, 3:], 0.0),
        STATIC,
        masked=False,
    ),
    "two-outputs-of-a-split": Case(
        False,
        "a, b = Split<axis = 1>(x) q = MatMul(a, wq) " + KEYS.format("b"),
        lambda: attend(X[:, :3], X[:, 3:], 0.0),
        STATIC,
        masked=False,
    ),
    "keys-in-reverse": Case(
        False,
        "b = Gather<axis = 1>(x, back) q = MatMul(x, wq) " + KEYS.format("b"),
        lambda: picked(X[:, ::-1]),
        STATIC,
        masked=False,
    ),
    "keys-behind-others": Case(
        False,
        "a = Concat<axis = 1>(x, y) b = Concat<axis = 1>(y, x) q = MatMul(a, wq) " + KEYS.format("b"),
        lambda: attend(np.concatenate([X, Y], 1), np.concatenate([Y, X], 1), 0.0),
        STATIC + ", float[B,6,8] y",
        masked=False,
    ),
    "keys-column-by-column": Case(
        False,
        GRID + ROWS_FIRST + COLUMNS_FIRST + "q = MatMul(rf, wq) " + KEYS.format("cf"),
        lambda: picked(TURNED),
        STATIC,
        masked=False,
    ),
    "rows-are-features": Case(
        False,
        "q0 = MatMul(x, wq) q = Transpose<perm = [0, 2, 1]>(q0) kt = MatMul(x, wk) v0 = MatMul(x, wv) v ="
        " Transpose<perm = [0, 2, 1]>(v0)",
        channels,
        masked=False,
    ),
}
