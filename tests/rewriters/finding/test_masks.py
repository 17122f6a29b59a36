"""The padding mask of a site."""

from __future__ import annotations

import pytest

from rewriters.finding.backward import Scores, find_scores
from rewriters.finding.masks import KeyMasks
from rewriters.finding.softmax_match import Anchor, read_anchor

from .reading import Reading, read

INPUTS = (
    "float[B,H,Q,4] q, float[B,H,4,K] k, int64[B,K] attention_mask, int64[B,K] mask_of_others, float[B,K] weights,"
    " float[B,H,Q,K] bias, int64[B,1,1,K] given_mask, int64[H,K] mask_of_heads, int64[B,Q] mask_of_rows,"
    " bool[B,K] bmask"
)
CONSTANTS = (
    "float low = {-10000}, float minus = {-50}, float one = {1}, float zero = {0}, int64[2] mid = {1,2},"
    " int64[1] a0 = {0},"
    " int64[1] a1 = {1}, int64[1] a2 = {2}, int64[1] a3 = {3}, int64[1] m1 = {-1}, int64[4] wide = {-1,1,1,7},"
    " int64[3] swap3 = {0,2,1}, int64[1] five = {5}, int64 i1 = {1}, int64[4] turned = {1,-1,1,7}, int64[4]"
    " pads0 = {0,0,0,0},"
    " int64[4] pads1 = {0,1,0,0}"
)
FLOATS = "f = Cast<to = 1>(attention_mask)"
OFF = f"{FLOATS} u = Unsqueeze(f, mid) o = Sub(one, u) m = Mul(o, low)"
ADDED = "s = Add(x, m)"

# nodes that make the scores s of the product x → the mask
MASKS = {
    "added": (f"{OFF} {ADDED}", "attention_mask"),
    "added in front": (f"{OFF} s = Add(m, x)", "attention_mask"),
    "subtracted": (f"{FLOATS} u = Unsqueeze(f, mid) o = Sub(u, one) m = Mul(o, low) s = Sub(x, m)", "attention_mask"),
    "of the other sign": (f"{FLOATS} u = Unsqueeze(f, mid) m = Mul(u, low) {ADDED}", None),
    "subtracted, of the other sign": (f"{OFF} s = Sub(x, m)", None),
    "too weak": (f"{FLOATS} u = Unsqueeze(f, mid) o = Sub(one, u) m = Mul(o, minus) {ADDED}", None),
    "multiplied": (f"{FLOATS} m = Unsqueeze(f, mid) s = Mul(x, m)", None),
    "the least": (f"{OFF} s = Min(x, m)", "attention_mask"),
    "chosen": ("b = Cast<to = 9>(attention_mask) m = Unsqueeze(b, mid) s = Where(m, x, low)", "attention_mask"),
    "shut where it is set": ("b = Cast<to = 9>(attention_mask) m = Unsqueeze(b, mid) s = Where(m, low, x)", None),
    "open or shut, by another truth value": (
        "b = Cast<to = 9>(attention_mask) n = IsNaN(weights) c = Equal(b, n) m = Unsqueeze(c, mid)"
        " s = Where(m, x, low)",
        None,
    ),
    "not set": (
        "b = Cast<to = 9>(attention_mask) n = Not(b) m = Unsqueeze(n, mid) s = Where(m, low, x)",
        "attention_mask",
    ),
    "by the scores themselves": (
        "b = Cast<to = 9>(attention_mask) m = Unsqueeze(b, mid) c = Cast<to = 9>(x) n = And(c, m) s = Where(n, x, low)",
        "attention_mask",
    ),
    "no mask": ("s = Identity(x)", None),
    "no mask by name": (f"u = Unsqueeze(weights, mid) o = Sub(one, u) m = Mul(o, low) {ADDED}", None),
    "of rank 4": (f"f = Cast<to = 1>(given_mask) o = Sub(one, f) m = Mul(o, low) {ADDED}", None),
    "two masks": (
        f"{OFF} g = Cast<to = 1>(mask_of_others) v = Unsqueeze(g, mid) w = Sub(one, v) n = Mul(w, low) t = Add(x, n)"
        " s = Add(t, m)",
        None,
    ),
    "twice the mask": (f"{OFF} t = Add(x, m) s = Add(t, m)", "attention_mask"),
    "beside a bias": (f"{OFF} t = Add(x, bias) s = Add(t, m)", "attention_mask"),
    "together with an unknown bias": (f"{OFF} n = Add(bias, m) s = Add(x, n)", None),
    "along the rows": (f"{FLOATS} u = Unsqueeze(f, rows) o = Sub(one, u) m = Mul(o, low) {ADDED}", None),
    "of heads": (
        f"f = Cast<to = 1>(mask_of_heads) u = Unsqueeze(f, heads) o = Sub(one, u) m = Mul(o, low) {ADDED}",
        None,
    ),
    "one axis by one": (
        f"{FLOATS} t = Unsqueeze(f, a1) u = Unsqueeze(t, a1) o = Sub(one, u) m = Mul(o, low) {ADDED}",
        "attention_mask",
    ),
    "an axis taken away again": (
        f"{FLOATS} t = Unsqueeze(f, mid) u = Unsqueeze(t, a0) v = Squeeze(u, a0) o = Sub(one, v) m = Mul(o,"
        f" low) {ADDED}",
        "attention_mask",
    ),
    "spread": (f"{OFF} e = Expand(m, size) s = Add(x, e)", "attention_mask"),
    "of axes added somewhere": (f"{FLOATS} u = Unsqueeze(f, where) o = Sub(one, u) m = Mul(o, low) {ADDED}", None),
    "shifted": (f"{FLOATS} t = Pad(f, pads1) u = Unsqueeze(t, mid) o = Sub(one, u) m = Mul(o, low) {ADDED}", None),
    "padded by nothing": (
        f"{FLOATS} t = Pad(f, pads0) u = Unsqueeze(t, mid) o = Sub(one, u) m = Mul(o, low) {ADDED}",
        "attention_mask",
    ),
    "padded somehow": (
        f"{FLOATS} t = Pad(f, unknown) u = Unsqueeze(t, mid) o = Sub(one, u) m = Mul(o, low) {ADDED}",
        None,
    ),
    "cut": (f"{FLOATS} t = Slice(f, a1, five, a1) u = Unsqueeze(t, mid) o = Sub(one, u) m = Mul(o, low) {ADDED}", None),
    "gathered": (
        f"{FLOATS} t = Gather<axis = 1>(f, order) u = Unsqueeze(t, mid) o = Sub(one, u) m = Mul(o, low) {ADDED}",
        None,
    ),
    "one way spoiled, another clean": (
        f"{OFF} r = Slice(f, a0, five, a1) v = Unsqueeze(r, mid) w = Sub(one, v) n = Mul(w, low) t = Add(x, n)"
        f" s = Add(t, m)",
        "attention_mask",
    ),
    "turned round": (
        f"{FLOATS} h = Transpose<perm = [1,0]>(f) u = Unsqueeze(h, mid) o = Sub(one, u) m = Mul(o, low) {ADDED}",
        None,
    ),
    "through a projection": (
        f"{FLOATS} h = MatMul(f, square) u = Unsqueeze(h, mid) o = Sub(one, u) m = Mul(o, low) {ADDED}",
        None,
    ),
    "its sizes only": (
        f"z = Shape(attention_mask) n = ConstantOfShape(z) u = Unsqueeze(n, mid) o = Sub(one, u) m = Mul(o,"
        f" low) {ADDED}",
        None,
    ),
    "sizes beside it": (
        f"z = Shape(attention_mask) n = ConstantOfShape(z) {FLOATS} g = Add(f, n) u = Unsqueeze(g, mid) o ="
        f" Sub(one, u) m = Mul(o, low) {ADDED}",
        "attention_mask",
    ),
    "behind a transposition of the scores": (f"y = Transpose<perm = [0,1,3,2]>(x) {OFF} s = Add(y, m)", None),
}


def asked(graph: Reading, columns: int | None = None, lead: int | None = 4) -> str | None:
    anchor = read_anchor(graph.view, graph.facts, graph.node("p"))
    assert isinstance(anchor, Anchor)
    scores = find_scores(graph.view, graph.facts, anchor)
    assert isinstance(scores, Scores)
    samples = {} if lead is None else dict.fromkeys(graph.view.homes, 0)
    return KeyMasks(graph.view, graph.facts).trace(scores, anchor, columns, samples)


def made(nodes: str) -> Reading:
    return read(
        f"{INPUTS}, int64[2] where, int64[4] size, int64[4] unknown, int64[K] order, float[K,K] square",
        f"x = MatMul(q, k) {nodes} p = Softmax<axis = -1>(s)",
        constants=f"{CONSTANTS}, int64[2] rows = {{1,3}}, int64[2] heads = {{0,2}}",
    )


@pytest.mark.parametrize("case", MASKS)
def test_mask(case: str) -> None:
    nodes, expected = MASKS[case]
    assert asked(made(nodes)) == expected


def test_no_mask_where_samples_are_not_found() -> None:
    assert asked(made(f"{OFF} {ADDED}"), lead=None) is None


@pytest.mark.parametrize(("columns", "expected"), [(7, "attention_mask"), (8, None), (None, "attention_mask")])
def test_a_mask_of_another_width_is_none(columns: int | None, expected: str | None) -> None:
    graph = read(
        "float[B,H,Q,4] q, float[B,H,4,K] k, int64[B,7] attention_mask",
        f"x = MatMul(q, k) {OFF} {ADDED} p = Softmax<axis = -1>(s)",
        constants=CONSTANTS,
    )
    assert asked(graph, columns) == expected


RESHAPED = {
    "axes of 1 added": ("2,7", "wide", "attention_mask"),
    "turned": ("2,7", "turned", None),
    "of an unknown shape": ("B,K", "wide", None),
}


@pytest.mark.parametrize("case", RESHAPED)
def test_a_reshape_adds_axes_of_1_only(case: str) -> None:
    shape, target, expected = RESHAPED[case]
    graph = read(
        f"float[2,3,5,4] q, float[2,3,4,7] k, int64[{shape}] attention_mask",
        f"x = MatMul(q, k) {FLOATS} u = Reshape(f, {target}) o = Sub(one, u) m = Mul(o, low) {ADDED}"
        " p = Softmax<axis = -1>(s)",
        constants=CONSTANTS.replace("wide = {-1,", "wide = {2,").replace("turned = {1,-1,", "turned = {1,2,"),
    )
    assert asked(graph) == expected


# the mask operand of a fused operator → the mask
OPERANDS = {
    "numbers": (OFF, "attention_mask"),
    "numbers of the other sign": (f"{FLOATS} u = Unsqueeze(f, mid) m = Mul(u, low)", None),
    "truth": ("b = Cast<to = 9>(attention_mask) m = Unsqueeze(b, mid)", "attention_mask"),
    "truth the other way": ("b = Cast<to = 9>(attention_mask) n = Not(b) m = Unsqueeze(n, mid)", None),
    "not understood": (f"{FLOATS} u = Unsqueeze(f, mid) m = Sin(u)", None),
    "no mask": ("m = Identity(bias)", None),
}


@pytest.mark.parametrize("case", OPERANDS)
def test_operand(case: str) -> None:
    nodes, expected = OPERANDS[case]
    graph = read(INPUTS, nodes, constants=CONSTANTS)
    assert KeyMasks(graph.view, graph.facts).trace_operand(graph["m"], None) == expected


def test_no_candidates() -> None:
    graph = read("float[B,K] x", "m = Relu(x)")
    assert KeyMasks(graph.view, graph.facts).trace_operand(graph["m"], None) is None
