"""Fused attention of onnx itself, and which operators are asked."""

from __future__ import annotations

import pytest

from rewriters.finding.fused import read_fused
from rewriters.finding.fused_read import CANONICAL, FusedRead
from rewriters.finding.refusals import Refused
from rewriters.sites import Layout

from .reading import read

BESIDE = Layout(4, values=(0, 2, 1, 3), output=(0, 2, 1, 3))
INPUTS = (
    "float[B,2,Q,8] q, float[B,2,7,8] k, float[B,2,7,6] v, float[B,Q,16] q3, float[B,7,16] k3, float[B,7,12] v3,"
    " float[B,1,Q,7] mask, float[B,2,3,8] past, float[] u, float[2,3] q2"
)
TAKEN = "y, pk, pv = Attention(q, k, v, mask, past, past)"


def asked(node: str) -> FusedRead | Refused | None:
    graph = read(INPUTS, f"{node}", opset=23)
    return read_fused(graph.view, graph.facts, graph.node("y"))


def test_heads_on_an_axis() -> None:
    graph = read(INPUTS, "y = Attention(q, k, v, mask)", opset=23)
    assert read_fused(graph.view, graph.facts, graph.node("y")) == FusedRead(
        "Attention", graph["v"], 2, 6, False, None, graph["mask"], 7, CANONICAL
    )


def test_heads_side_by_side() -> None:
    graph = read(INPUTS, "y = Attention<q_num_heads = 4, kv_num_heads = 2>(q3, k3, v3)", opset=23)
    assert read_fused(graph.view, graph.facts, graph.node("y")) == FusedRead(
        "Attention", graph["v3"], 4, 6, False, None, None, 7, BESIDE
    )


def test_numbers_of_heads_change_nothing_for_heads_on_an_axis() -> None:
    graph = read(INPUTS, "y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v)", opset=23)
    assert read_fused(graph.view, graph.facts, graph.node("y")) == FusedRead(
        "Attention", graph["v"], 2, 6, False, None, None, 7, CANONICAL
    )


def test_a_cache_has_other_columns() -> None:
    found = asked(TAKEN)
    assert isinstance(found, FusedRead) and found.columns is None and not found.self_attention


def test_one_source_attends_to_itself() -> None:
    nodes = "a = Relu(x) k = Transpose<perm = [0,2,1,3]>(a) y{} = Attention(k, k, k{})"
    graph = read("float[B,T,2,8] x", nodes.format("", ""), opset=23)
    found = read_fused(graph.view, graph.facts, graph.node("y"))
    assert isinstance(found, FusedRead) and found.self_attention
    graph = read("float[B,T,2,8] x", nodes.format(", u, w", ", , k, k"), opset=23)
    found = read_fused(graph.view, graph.facts, graph.node("y"))
    assert isinstance(found, FusedRead) and not found.self_attention


def test_width_and_heads_may_be_unknown() -> None:
    graph = read("float[B,H,Q,8] q, float[B,H,K,D] k", "y = Attention(q, k, k)", opset=23)
    found = read_fused(graph.view, graph.facts, graph.node("y"))
    assert isinstance(found, FusedRead)
    assert found.heads is found.head_dim is found.columns is None
    graph = read("float[B,Q,C] q", "y = Attention<q_num_heads = 4, kv_num_heads = 2>(q, q, q)", opset=23)
    found = read_fused(graph.view, graph.facts, graph.node("y"))
    assert isinstance(found, FusedRead) and found.head_dim is None and found.heads == 4


def test_heads_of_a_projection_are_taken() -> None:
    graph = read(
        "float[B,T,6] x",
        "p = MatMul(x, w) s = Reshape(p, split) v = Transpose<perm = [0,2,1,3]>(s) y = Attention(v, v, v)",
        constants=f"float[6,6] w = {{{','.join('1' * 36)}}}, int64[4] split = {{0,0,2,3}}",
        opset=23,
    )
    found = read_fused(graph.view, graph.facts, graph.node("y"))
    assert isinstance(found, FusedRead) and found.self_attention and (found.heads, found.head_dim) == (2, 3)


def test_an_axis_of_tokens_is_refused() -> None:
    graph = read(
        "float[B,9,T,5] x",
        "p = MatMul(x, w) y = Attention(p, p, p)",
        constants=f"float[5,5] w = {{{','.join('1' * 25)}}}",
        opset=23,
    )
    found = read_fused(graph.view, graph.facts, graph.node("y"))
    assert isinstance(found, Refused) and found.code == "token-axis"


# node → what it is not, or the reason
OTHERS = {
    "another operator": ("y = Relu(q)", None),
    "another domain": ("y = local.Attention(q, k, v)", None),
    "no map": ("y = com.microsoft.LinearAttention(q, k, v)", ("no-map", "LinearAttention")),
    "an unknown one": ("y = com.microsoft.NewAttention(q, k, v)", ("fused", "NewAttention")),
    "one of another suffix": ("y = com.microsoft.Attention_TRT(q, k, v)", ("fused", "Attention_TRT")),
    "one with a way out": ("y = com.microsoft.FlexAttention(q, k, v)", ("fused", "with its function body inlined")),
    "one with a reason": ("y = com.microsoft.SparseAttention<num_heads = 2>(q, k, v)", ("fused", "leaves out blocks")),
    "no number of heads": ("y = com.microsoft.MultiHeadAttention(q3, k3, v3)", ("fused", "malformed")),
    "no heads": ("y = com.microsoft.MultiHeadAttention<num_heads = 0>(q3, k3, v3)", ("fused", "malformed")),
    "fewer than no heads": ("y = com.microsoft.MultiHeadAttention<num_heads = -2>(q3, k3, v3)", ("fused", "malformed")),
    "no heads of keys": ("y = com.microsoft.GroupQueryAttention<num_heads = 2>(q3, k3, v3)", ("fused", "malformed")),
    "no heads of queries": (
        "y = com.microsoft.GroupQueryAttention<kv_num_heads = 2>(q3, k3, v3)",
        ("fused", "malformed"),
    ),
    "no heads at all": ("y = Attention<q_num_heads = 0, kv_num_heads = 0>(q3, k3, v3)", ("fused", "malformed")),
    "rank 3 without heads": ("y = Attention(q3, k3, v3)", ("fused", "rank 3 without q_num_heads")),
    "rank 2": ("y = Attention(q2, q2, q2)", ("fused", "Attention of rank 2")),
    "without values": ("y = Attention(q, k)", ("fused", "without Q, K or V")),
    "without queries": ("y = Attention(, k, v)", ("fused", "without Q, K or V")),
    "without keys": ("y = Attention(q, , v)", ("fused", "without Q, K or V")),
}


@pytest.mark.parametrize("case", OTHERS)
def test_others(case: str) -> None:
    node, expected = OTHERS[case]
    found = asked(node)
    if expected is None:
        assert found is None
        return
    assert isinstance(found, Refused)
    assert found.code == expected[0] and expected[1] in found.detail


@pytest.mark.parametrize(("rank", "refused"), [(3, True), (4, False)])
def test_heads_that_are_attributes_of_a_function_around_it(rank: int, refused: bool) -> None:
    """In rank 4 nothing hangs on them."""
    shape = ",".join(["2"] * rank)
    rest = (
        '<domain: "local", opset_import: ["" : 23]> F <q: int, k: int> (a) => (b)'
        " { b = Attention <q_num_heads: int = @q, kv_num_heads: int = @k> (a, a, a) }"
    )
    graph = read(f"float[{shape}] x", "y = local.F<q = 2, k = 2>(x)", rest=rest, opset=23)
    found = read_fused(graph.view, graph.facts, graph.node("b"))
    assert isinstance(found, Refused) is refused
    assert not isinstance(found, Refused) or "attributes of the function" in found.detail


def test_a_function_of_the_name_is_no_operator() -> None:
    rest = '<domain: "com.microsoft", opset_import: ["" : 17]> NewAttention (a, b, c) => (d) { d = Relu(a) }'
    graph = read("float[2] q, float[2] k, float[2] v", "y = com.microsoft.NewAttention(q, k, v)", rest=rest)
    assert read_fused(graph.view, graph.facts, graph.node("y")) is None
