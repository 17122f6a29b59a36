"""Maps whose rows are not made to sum to 1: which tokens their keys are, and whether the values are theirs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rewriters.finding.products import Ended
from rewriters.finding.tokens import Tokens
from rewriters.finding.unnormalized import key_tokens, weighing

from ..patterns import weight
from .graph_text import read
from .reading import Reading

X = "float[B,S,4] queries, float[B,T,4] keys, float[B,4,T] turned, float[B,T,4] others"
HIDDEN = "x = Tanh(queries) y = Tanh(keys) cache = Tanh(others)"
CONSTANTS = {
    "w": weight(4, 4),
    "w1": weight(4, 4, seed=1),
    "w2": weight(4, 4, seed=2),
    "many": weight(9, 4),
    "c": weight(4, 7),
}
QUERIES = "q = MatMul(x, w)"
KEYS = "k = MatMul(y, w1) t = Transpose<perm = [0, 2, 1]>(k)"
VALUES = "v = MatMul(y, w2)"
PRODUCT = f"{QUERIES} {KEYS} {VALUES} s = MatMul(q, t) p = Relu(s)"
EINSUM = f'{QUERIES} {KEYS} {VALUES} s = Einsum<equation = "bqd,bkd->bqk">(q, k) p = Relu(s)'


def found(body: str, axis: int = -1) -> tuple[Reading, Tokens | None]:
    reading = read(f"{HIDDEN} {body}", X, **CONSTANTS)
    anchor, _, scores = reading.walks(axis=axis)
    return reading, key_tokens(reading.view, reading.facts, anchor, scores)


KEY_TOKENS = {
    "columns": (f"{PRODUCT} out = MatMul(p, v)", -1, {("y", -2)}),
    "rows": (f"{PRODUCT} out = com.microsoft.FusedMatMul<transA = 1>(p, x)", -2, {("x", -2)}),
    "einsum": (f"{EINSUM} out = MatMul(p, v)", -1, {("y", -2)}),
    "einsum-rows": (f"{EINSUM} out = com.microsoft.FusedMatMul<transA = 1>(p, x)", -2, {("x", -2)}),
    "einsum-with-dots": (
        EINSUM.replace("bqd,bkd->bqk", "...qd, ...kd -> ...qk") + " out = MatMul(p, v)",
        -1, {("y", -2)},
    ),
    "transposed-factor": (
        f"{QUERIES} {KEYS} {VALUES} s = com.microsoft.FusedMatMul<transB = 1>(q, k) p = Relu(s) out = MatMul(p, v)",
        -1, {("y", -2)},
    ),
    "transposed-first-factor": (
        "q = MatMul(x, w) qt = Transpose<perm = [0, 2, 1]>(q) k = MatMul(y, w1) t = Transpose<perm = [0, 2, 1]>(k)"
        " v = MatMul(y, w2) s = com.microsoft.FusedMatMul<transA = 1>(qt, t) p = Relu(s) out = MatMul(p, v)",
        -1, {("y", -2)},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "axis", "origins"), KEY_TOKENS.values(), ids=KEY_TOKENS)
def test_the_keys_are_tokens_of(body: str, axis: int, origins: set[tuple[str, int]]) -> None:
    _, tokens = found(body, axis)
    assert tokens is not None
    assert not tokens.unknown and {(value.name, along) for value, along in tokens.origins} == origins


@pytest.mark.parametrize("axis", [-1, -2])
def test_axes_that_count_features_are_no_tokens(axis: int) -> None:
    """Queries or keys that are features make it a layer, whichever axis is taken for the keys'."""
    body = "at = Transpose<perm = [0, 2, 1]>(q) s = MatMul(at, x) p = Relu(s) xt = Transpose<perm = [0, 2, 1]>(x)"
    if axis == -1:
        body += " out = MatMul(p, xt)"
    else:
        body += " out = com.microsoft.FusedMatMul<transA = 1>(p, xt)"
    assert found(f"{QUERIES} {body}", axis)[1] is None


def test_an_axis_that_both_factors_share_shows_no_tokens() -> None:
    reading = read(f"{HIDDEN} {PRODUCT} out = MatMul(p, v)", X, **CONSTANTS)
    anchor, _, scores = reading.walks()
    tokens = key_tokens(reading.view, reading.facts, replace(anchor, axis=-3), scores)
    assert tokens == Tokens(set(), unknown=True)


def test_keys_made_of_constants_are_no_tokens() -> None:
    reading = read(f"{HIDDEN} {PRODUCT} out = MatMul(p, v)", X, **CONSTANTS)
    anchor, _, scores = reading.walks()
    for changed in ({"learned": True}, {"additive": True}, {"matrix": False}):
        assert key_tokens(reading.view, reading.facts, anchor, replace(scores, **changed)) is None
    assert key_tokens(reading.view, reading.facts, anchor, scores) is not None
    for missing in ({"first": None}, {"second": None}):
        without = replace(scores, operands=replace(scores.operands, **missing))
        assert key_tokens(reading.view, reading.facts, anchor, without) is None


def test_an_einsum_takes_each_letter_where_it_stands() -> None:
    """Here keys come first in memory, and rows of the scores last."""
    body = f'{QUERIES} k = MatMul(y, w1) {VALUES} s = Einsum<equation = "bkd,bqd->bkq">(k, q) p = Relu(s)'
    _, tokens = found(f"{body} out = com.microsoft.FusedMatMul<transA = 1>(p, v)", -2)
    assert tokens is not None and {value.name for value, _ in tokens.origins} == {"y"}


VALUES_OF = {
    "the-keys-tokens": (f"{PRODUCT} out = MatMul(p, v)", "proven"),
    "other-tokens": (f"{PRODUCT} u = MatMul(cache, w2) out = MatMul(p, u)", "unproven"),
    "the-queries-tokens": (f"{PRODUCT} u = MatMul(x, w2) out = MatMul(p, u)", "unproven"),
    "the-keys-features": (f"{PRODUCT} u = Transpose<perm = [0, 2, 1]>(y) out = MatMul(p, u)", "unproven"),
    "both-from-outside": ("s = MatMul(queries, turned) p = Relu(s) out = MatMul(p, others)", "assumed"),
    "einsum": (f'{PRODUCT} out = Einsum<equation = "bqk,bkd->bqd">(p, v)', "proven"),
    "einsum-of-turned-values": (
        f'{PRODUCT} u = Transpose<perm = [0, 2, 1]>(v) out = Einsum<equation = "bqk,bdk->bqd">(p, u)', "proven",
    ),
    "einsum-of-two-widths": (
        f'{PRODUCT} u = Reshape(v, wide) out = Einsum<equation = "bqk,bkhd->bqhd">(p, u)', "proven",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "verdict"), VALUES_OF.values(), ids=VALUES_OF)
def test_values_are_of_the_tokens_of_the_keys(body: str, verdict: str) -> None:
    reading = read(f"{HIDDEN} {body}", X, wide=[0, 0, 2, 2], **CONSTANTS)
    anchor, hit, scores = reading.walks()
    keys = key_tokens(reading.view, reading.facts, anchor, scores)
    assert keys is not None
    judged = weighing(reading.view, reading.facts, keys, hit)
    if verdict == "unproven":
        assert isinstance(judged, Ended) and judged.code == "unproven-tokens" and judged.node is hit.product.node
    else:
        assert judged == (replace(hit, assumed=True) if verdict == "assumed" else hit)
