"""Whether all query rows of a map see the same columns, by computing what a graph adds to its scores."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from rewriters.finding.finder import find_sites
from rewriters.finding.row_masks import RowMasks

from ..patterns import ints, model, scalar, weight

QKV = "float[B,3,S,4] q, float[B,3,4,S] k, float[B,3,S,4] v"
ATTEND = "s = MatMul(q, k) m = Add(s, bias) p = Softmax<axis = -1>(m) out = MatMul(p, v)"
LOOKUP = "h = Gather(table, ids) kt = Transpose<perm = [0, 2, 1]>(h)"
ON_TOKENS = f"{LOOKUP} s = MatMul(h, kt) m = Add(s, bias) p = Softmax<axis = -1>(m) out = MatMul(p, h)"
ON_PIXELS = ON_TOKENS.replace(LOOKUP, "kt = Transpose<perm = [0, 2, 1]>(h)")
SCORED = ON_TOKENS.removeprefix(LOOKUP)
FLOATS = "f = Cast<to = 1>(mask) g = Sub(one, f) u = Unsqueeze(g, middle)"
LENGTH = (
    "sh = Shape(ids) len = Gather(sh, index) r = Range(zero0, len, one0) row = Unsqueeze(r, first)"
    " column = Unsqueeze(r, last)"
)
CAUSAL = f"{LENGTH} seen = LessOrEqual(row, column)"
CONSTANTS: dict[str, Any] = {
    "one": scalar(1), "middle": ints(1, 2), "low": scalar(-1e4), "barely": scalar(-49), "zero": scalar(0),
    "table": weight(50, 4), "index": ints(1)[0], "zero0": ints(0)[0], "one0": ints(1)[0], "first": ints(0),
    "last": ints(1), "types": weight(2, 4), "two": ints(2)[0], "half": scalar(0.5), "many": ints(3000)[0],
    "integers": np.arange(50), "fixed": np.zeros((1, 11), np.float32), "shut": scalar(-60), "position": weight(40, 4),
    "square": weight(4, 4), "wide": weight(4, 50_000), "narrow": weight(50_000, 4), "eleven": weight(11, 11),
    "trues": np.array([[True] * 11]), "at": ints(1),
}  # fmt: skip


def alike(body: str, inputs: str, **constants: Any) -> bool | None:
    words = re.split(r"[^A-Za-z0-9_]+", body)
    used = {name: array for name, array in (CONSTANTS | constants).items() if name in words}
    made = model(body, inputs, opset=17, **used)
    (site,) = find_sites(made)[0]
    return RowMasks(made).alike(site)


MASKS = {
    "padding": (f"{FLOATS} bias = Mul(u, low) {ATTEND}", f"{QKV}, int64[B,S] mask", True),
    "of-each-row-but-weak": (f"bias = Mul(mask, barely) {ATTEND}", f"{QKV}, float[1,1,S,1] mask", True),
    "of-each-row-but-of-size-one": (f"bias = Mul(mask, low) {ATTEND}", f"{QKV}, float[B,1,S,1] mask", True),
    "of-each-column": (f"bias = Mul(mask, low) {ATTEND}", f"{QKV}, float[B,1,1,S] mask", True),
    "fed-for-each-row": (f"bias = Identity(mask) {ATTEND}", f"{QKV}, float[B,1,S,S] mask", False),
    "fed-for-each-row-in-rank-2": (f"bias = Identity(mask) {ATTEND}", f"{QKV}, float[S,S] mask", None),
    "fed-for-each-row-of-fixed-size": (
        f"bias = Identity(mask) {ATTEND}",
        "float[B,3,9,4] q, float[B,3,4,9] k, float[B,3,9,4] v, float[9,9] mask", False,
    ),
    "fed-for-each-row-as-truth-values": (
        f"bias = Where(mask, zero, low) {ATTEND}", f"{QKV}, bool[B,1,S,S] mask", False,
    ),
    "causal": (f"{CAUSAL} bias = Where(seen, zero, low) {ON_TOKENS}", "int64[B,S] ids", False),
    "causal-but-weak": (f"{CAUSAL} bias = Where(seen, zero, barely) {ON_TOKENS}", "int64[B,S] ids", True),
    "causal-by-a-hidden-length": (
        f"{LOOKUP} {CAUSAL.replace('Shape(ids)', 'Shape(h)')} bias = Where(seen, zero, low) {SCORED}",
        "int64[B,S] ids", False,
    ),
    "causal-behind-a-contrib-operator": (
        f"{CAUSAL} bias = Where(seen, zero, low) g = Gather(table, ids) h = com.microsoft.Gelu(g)"
        f" kt = Transpose<perm = [0, 2, 1]>(h) {SCORED}",
        "int64[B,S] ids", False,
    ),
    "causal-shut": (f"{CAUSAL} bias = Where(seen, zero, shut) {ON_TOKENS}", "int64[B,S] ids", False),
    "none": (ON_TOKENS.replace("m = Add(s, bias)", "m = Neg(s)"), "int64[B,S] ids", True),
    "by-position-of-tokens": (
        f"{LENGTH} d = Sub(row, column) a = Abs(d) b = Cast<to = 1>(a) bias = Neg(b) {ON_TOKENS}",
        "int64[B,S] ids", True,
    ),
    "of-token-types": (
        f"c = Unsqueeze(types_, last) d = Unsqueeze(types_, at) e = Transpose<perm = [0, 2, 1]>(c) o = Equal(d, e)"
        f" bias = Where(o, zero, low) {ON_TOKENS}",
        "int64[B,S] ids, int64[B,S] types_", False,
    ),
    "of-unknown-operator": (
        f"z = com.microsoft.Gelu(mask) bias = Mul(z, low) {ATTEND}",
        f"{QKV}, float[B,1,1,S] mask", None,
    ),
    "chosen": (
        "bias = If<then_branch = t () => (float[1,1,1,1] tb) { tb = Constant<value = float[1,1,1,1] {0.0}>() },"
        " else_branch = e () => (float[1,1,1,1] eb) { eb = Constant<value = float[1,1,1,1] {1.0}>() }>(c) " + ATTEND,
        f"{QKV}, bool c", None,
    ),
    "too-large": (
        f"w = Expand(mask, big) y = ReduceMin<axes = [0], keepdims = 0>(w) bias = Mul(y, low) {ATTEND}",
        f"{QKV}, float[1,1,1,1,1] mask", None,
    ),
    "behind-pixels": (f"h = MatMul(pixels, square) {ON_PIXELS}", "float[B,S,4] pixels, float[1,1,S] bias", True),
    "behind-too-many-pixels": (
        f"w = MatMul(pixels, wide) a = Relu(w) h = MatMul(a, narrow) {ON_PIXELS}",
        "float[B,S,4] pixels, float[1,1,S] bias", True,
    ),
    "causal-behind-pixels": (
        f"{CAUSAL.replace('Shape(ids)', 'Shape(pixels)')} bias = Where(seen, zero, low)"
        f" h = MatMul(pixels, square) {ON_PIXELS}", "float[B,S,4] pixels", False,
    ),
    "projected-for-each-row": (
        f"bias = MatMul(mask, eleven) {ATTEND}", f"{QKV}, float[B,1,S,11] mask", None,
    ),
    "columns-first": (
        f"{CAUSAL} bias = Where(seen, zero, low) {LOOKUP} s = MatMul(h, kt) m = Add(s, bias) p = Softmax<axis = -2>(m)"
        " out = MatMul(kt, p)",
        "int64[B,S] ids", False,
    ),
    "columns-first-of-columns": (
        "s = MatMul(kt, qt) m = Add(s, bias) p = Softmax<axis = -2>(m) out = MatMul(vt, p)",
        "float[B,S,4] kt, float[B,4,S] qt, float[B,4,S] vt, float[1,S,1] bias", True,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "inputs", "expected"), MASKS.values(), ids=MASKS)
def test_rows_see_the_same_columns(body: str, inputs: str, expected: bool | None) -> None:
    assert alike(body, inputs, big=ints(9000, 1, 1, 11, 11)) is expected


FUSED = {
    "microsoft": ("out = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v)", True),
    "microsoft-causal": ("out = com.microsoft.MultiHeadAttention<num_heads = 2, unidirectional = 1>(q, k, v)", False),
    "padding": ('out = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v, "", mask)', True),
    "causal-bias": (
        'l = LessOrEqual(row, column) bias = Where(l, zero, low)'
        ' out = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v, "", "", bias)', False,
    ),
    "plain-bias": (
        'l = LessOrEqual(row, row) bias = Where(l, zero, low)'
        ' out = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v, "", "", bias)', True,
    ),
    "causal-mask": (
        'l = LessOrEqual(row, column) c = Cast<to = 6>(l) mask3 = Squeeze(c, first)'
        ' out = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v, "", mask3)', False,
    ),
    "packed": ("out = com.microsoft.Attention<num_heads = 2>(q, w, b)", True),
    "packed-causal": ("out = com.microsoft.Attention<num_heads = 2, unidirectional = 1>(q, w, b)", False),
    "packed-causal-bias": (
        'l = LessOrEqual(row, column) bias = Where(l, zero, low)'
        ' out = com.microsoft.Attention<num_heads = 2>(q, w, b, "", "", bias)', False,
    ),
    "packed-causal-mask": (
        'l = LessOrEqual(row, column) c = Cast<to = 6>(l) mask3 = Squeeze(c, first)'
        ' out = com.microsoft.Attention<num_heads = 2>(q, w, b, mask3)', False,
    ),
    "standard": ("out = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v)", True),
    "standard-causal": ("out = Attention<q_num_heads = 2, kv_num_heads = 2, is_causal = 1>(q, k, v)", False),
    "standard-causal-mask": (
        "l = LessOrEqual(row, column) out = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v, l)", False,
    ),
    "standard-causal-matrix": (
        "l = LessOrEqual(row, column) a = Squeeze(l, both)"
        " out = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v, a)", False,
    ),
    "standard-plain-mask": (
        "l = LessOrEqual(row, row) out = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v, l)", True,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), FUSED.values(), ids=FUSED)
def test_rows_of_a_fused_operator(body: str, expected: bool) -> None:
    constants = {
        "row": np.arange(11).reshape(1, 1, 1, -1), "column": np.arange(11).reshape(1, 1, -1, 1),
        "zero": scalar(0), "low": scalar(-1e4), "first": ints(0), "both": ints(0, 1),
        "w": weight(8, 24), "b": weight(24),
    }  # fmt: skip
    inputs = "float[B,11,8] q, float[B,11,8] k, float[B,11,8] v, int32[B,11] mask"
    words = re.split(r"[^A-Za-z0-9_]+", body)
    made = model(body, inputs, opset=23, **{name: constants[name] for name in constants if name in words})
    (site,) = find_sites(made)[0]
    assert RowMasks(made).alike(site) is expected


def test_a_window_of_columns_is_not_evaluated() -> None:
    body = "out = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v)"
    made = model(body, "float[B,11,8] q, float[B,11,8] k, float[B,11,8] v", opset=23)
    (site,) = find_sites(made)[0]
    assert RowMasks(made).alike(site) is True
    made.graph.node[0].attribute.add(name="left_window_size", type=2, i=3)
    assert RowMasks(made).alike(site) is None
    made.graph.node[0].attribute[-1].i = -1
    assert RowMasks(made).alike(site) is True
    made.graph.node[0].attribute[-1].i = 0
    assert RowMasks(made).alike(site) is None


def test_a_site_in_a_body_is_not_known() -> None:
    body = f"{FLOATS} bias = Mul(u, low) {ATTEND}"
    made = model(body, f"{QKV}, int64[B,S] mask", one=scalar(1), middle=ints(1, 2), low=scalar(-1e4))
    (site,) = find_sites(made)[0]
    assert RowMasks(made).alike(replace(site, where=((0, "then_branch"),))) is False
    assert RowMasks(made).alike(replace(site, softmax="another")) is None


def test_masks_in_other_files_are_not_known() -> None:
    made = model(f"bias = Mul(given, low) {ATTEND}", QKV, given=weight(1, 1, 1, 1), low=scalar(-1e4))
    (site,) = find_sites(made)[0]
    assert RowMasks(made).alike(site) is True
    made.graph.initializer[0].data_location = TensorProto.EXTERNAL
    made.graph.initializer[0].ClearField("raw_data")
    made.graph.initializer[0].external_data.add(key="location", value="elsewhere")
    assert RowMasks(made).alike(site) is None


def test_only_the_padding_mask_is_never_half_of_each() -> None:
    """Half of the columns padded in one sample hide the same columns from all rows; another input may not."""
    body = (
        "c = Unsqueeze(mask, at) d = Unsqueeze(mask, two) o = Equal(c, d) n = Unsqueeze(o, at)"
        f" bias = Where(n, zero, low) {ATTEND}"
    )
    made = model(body, f"{QKV}, int64[B,S] mask", at=ints(1), two=ints(2), zero=scalar(0), low=scalar(-1e4))
    (site,) = find_sites(made)[0]
    masks = RowMasks(made)
    assert masks.alike(replace(site, key_mask=None)) is False
