"""What onnxruntime's own attention operators offer, or what stands in the way."""

from __future__ import annotations

import pytest

from rewriters.finding.fused import read_fused
from rewriters.finding.fused_read import FusedRead
from rewriters.finding.refusals import Refused
from rewriters.sites import Layout

from .reading import Reading, read

BESIDE = Layout(4, values=(0, 2, 1, 3), output=(0, 2, 1, 3))
INPUTS = (
    "float[B,7,8] x, float[2,B,2,P,4] past, int32[B,K] mask2, int32[B,1] mask1, int32[B] lengths, int32[B,Q,K] mask3,"
    " int32[B,1,Q,K] mask4, float[B,1,7,7] bias, float[8,24] computed, int32[] strange, float[8,W] open_weights,"
    " float[B,5,8] q, float[B,7,12] v12, float[B,2,7,4] k4, float[B,2,7,6] v4, float[B,7,2,2,4] kv,"
    " float[B,7,2,3,4] qkv,"
    " float[B,9,8] k9, float[B,2,P,4] pk, float[] s, float[B,7,4] k2, float[B,7,6] v2, float[B,7,16] packed,"
    " int32 total,"
    " float[1] number, float[9,4] cosines, float[8] gain, float16 half, uint8[B,7,8] bytes, float scale, uint8 zero,"
    " float[B,7,C] open, float[8] b"
)
TWO, THREE = ",".join("1" * 192), ",".join("1" * 160)
CONSTANTS = f"float[8,24] w = {{{TWO}}}, float[8,20] w20 = {{{THREE}}}, int8[8,24] wq = {{{TWO}}}"


def asked(node: str, outputs: str = "y") -> tuple[Reading, FusedRead | Refused | None]:
    graph = read(INPUTS, f"{outputs} = com.microsoft.{node}", constants=CONSTANTS)
    return graph, read_fused(graph.view, graph.facts, graph.node("y"))


def fused(node: str, outputs: str = "y") -> tuple[Reading, FusedRead]:
    graph, found = asked(node, outputs)
    assert isinstance(found, FusedRead), found
    return graph, found


def test_attention() -> None:
    graph, found = fused("Attention<num_heads = 2>(x, w, , mask2, , bias)")
    assert found == FusedRead(
        "com.microsoft.Attention", graph["x"], 2, 4, True, graph["mask2"], graph["bias"], 7, BESIDE, 4, ("B", 7)
    )


def test_attention_with_a_cache() -> None:
    _, found = fused("Attention<num_heads = 2>(x, w, , , past)", "y, present")
    assert (found.self_attention, found.columns, found.mask, found.attn_mask) == (False, None, None, None)
    assert (found.query_dim, found.size) == (4, None)


def test_values_of_another_width() -> None:
    _, found = fused("Attention<num_heads = 2, qkv_hidden_sizes = [8, 8, 4]>(x, w20)")
    assert (found.head_dim, found.query_dim) == (2, 4)


@pytest.mark.parametrize(
    ("mask", "taken"), [("mask2", True), ("mask1", False), ("lengths", False), ("mask3", False), ("", False)]
)
def test_a_mask_of_columns(mask: str, taken: bool) -> None:
    graph, found = fused(f"Attention<num_heads = 2>(x, w, , {mask})")
    assert found.mask is (graph[mask] if taken else None)
    graph, found = fused(f"MultiHeadAttention<num_heads = 2>(x, x, x, , {mask})")
    assert found.mask is (graph[mask] if taken else None)


def test_quantized_attention() -> None:
    graph, found = fused("QAttention<num_heads = 2>(bytes, wq, b, scale, scale, mask2)")
    assert found == FusedRead("QAttention", graph["bytes"], 2, 4, True, graph["mask2"], None, 7, BESIDE, 4, ("B", 7))
    _, found = fused("QAttention<num_heads = 2>(bytes, wq, b, scale, scale, , zero, zero, past)", "y, present")
    assert (found.self_attention, found.columns) == (False, None)


# node, outputs → a word of the refusal
REFUSED = {
    "rotated inside": ("Attention<num_heads = 2, do_rotary = 1>(x, w)", "y", "rotates"),
    "shared buffer": ("Attention<num_heads = 2, past_present_share_buffer = 1>(x, w)", "y", "shared buffer"),
    "computed weights": ("Attention<num_heads = 2>(x, computed)", "y", "not constant"),
    "no weights": ("Attention<num_heads = 2>(x)", "y", "not constant"),
    "mask of rank 4": ("Attention<num_heads = 2>(x, w, , mask4)", "y", "rank 4, not 1, 2, 3"),
    "mask of unknown rank": ("Attention<num_heads = 2>(x, w, , strange)", "y", "rank unknown"),
    "quantized, mask of rank 3": (
        "QAttention<num_heads = 2>(bytes, wq, b, scale, scale, mask3)",
        "y",
        "rank 3, not 1, 2;",
    ),
    "quantized to half": ("QAttention<num_heads = 2>(bytes, wq, b, half, half)", "y", "float16"),
    "buffer of keys": ("MultiHeadAttention<num_heads = 2>(q, x, x, , , , pk, pk, total)", "y, k, v", "shared buffer"),
    "indirect buffer": (
        "MultiHeadAttention<num_heads = 2>(q, x, x, , , , pk, pk, , mask3)",
        "y, k, v",
        "shared buffer",
    ),
    "cache without outputs": ("MultiHeadAttention<num_heads = 2>(q, x, x, , , , pk, pk)", "y", "no present outputs"),
    "cache with one output": ("MultiHeadAttention<num_heads = 2>(q, x, x, , , , pk, pk)", "y, k", "no present outputs"),
    "cache, keys left out": (
        "MultiHeadAttention<num_heads = 2>(q, x, x, , , , pk, pk)",
        "y, , v",
        "no present outputs",
    ),
    "cache, values left out": (
        "MultiHeadAttention<num_heads = 2>(q, x, x, , , , pk, pk)",
        "y, k, ",
        "no present outputs",
    ),
    "queries of rank 4": ("MultiHeadAttention<num_heads = 2>(k4, x, x)", "y", "(4, 3, 3)"),
    "queries of unknown rank": ("MultiHeadAttention<num_heads = 2>(s, x, x)", "y", "(unknown, 3, 3)"),
    "keys and values of two ranks": ("MultiHeadAttention<num_heads = 2>(q, x, v4)", "y", "(3, 3, 4)"),
    "queries only": ("MultiHeadAttention<num_heads = 2>(q)", "y", "(3)"),
    "keys only": ("MultiHeadAttention<num_heads = 2>(q, x)", "y", "(3, 3)"),
    "wide mask": ("MultiHeadAttention<num_heads = 2>(q, x, x, , mask4)", "y", "rank 4, not 1, 2 or 3"),
    "mask of any rank": ("MultiHeadAttention<num_heads = 2>(q, x, x, , strange)", "y", "rank unknown"),
    "no queries": ("GroupQueryAttention<num_heads = 2, kv_num_heads = 1>(, k2, v2)", "y", "lacks an operand"),
    "keys without values": ("GroupQueryAttention<num_heads = 2, kv_num_heads = 1>(q, k2)", "y", "lacks an operand"),
    "values without keys": ("GroupQueryAttention<num_heads = 2, kv_num_heads = 1>(q, , v2)", "y", "lacks an operand"),
    "quantized keys": (
        'GroupQueryAttention<num_heads = 2, kv_num_heads = 1, k_quant_type = "PER_TENSOR">(q, k2, v2)',
        "y",
        "quantized",
    ),
    "quantized values": (
        'GroupQueryAttention<num_heads = 2, kv_num_heads = 1, v_quant_type = "PER_TENSOR">(q, k2, v2)',
        "y",
        "quantized",
    ),
    "window in the cache": (
        "GroupQueryAttention<num_heads = 2, kv_num_heads = 1, sliding_window_cache = 1>(q, k2, v2)",
        "y",
        "sliding window",
    ),
    "norm of queries": (
        "GroupQueryAttention<num_heads = 2, kv_num_heads = 1>(q, k2, v2, , , , , , , , , , , , gain)",
        "y",
        "normalizes",
    ),
    "norm of keys": (
        "GroupQueryAttention<num_heads = 2, kv_num_heads = 1>(q, k2, v2, , , , , , , , , , , , , gain)",
        "y",
        "normalizes",
    ),
    "chunks": (
        "GroupQueryAttention<num_heads = 2, kv_num_heads = 1>(q, k2, v2, , , , , , , , , , , , , , lengths)",
        "y",
        "query_seqlens",
    ),
    "packed without padding": ("PackedAttention<num_heads = 2>(x, w)", "y", "padding is removed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    node, outputs, word = REFUSED[case]
    _, found = asked(node, outputs)
    assert isinstance(found, Refused) and found.code == "fused"
    assert word in found.detail and found.detail.startswith(f"{node.partition('<')[0]}: ")


# node, outputs → V, D, whether of itself, K; queries have heads of 4
HEADS = {
    "three": ("MultiHeadAttention<num_heads = 2>(q, x, v12)", "y", "v12", 6, False, 7),
    "one": ("MultiHeadAttention<num_heads = 2>(x, x, x)", "y", "x", 4, True, 7),
    "keys first": ("MultiHeadAttention<num_heads = 2>(q, k4, v4)", "y", "v4", 6, False, 7),
    "keys and values together": ("MultiHeadAttention<num_heads = 2>(q, kv)", "y", "kv", 4, False, 7),
    "all together": ("MultiHeadAttention<num_heads = 2>(qkv)", "y", "qkv", 4, True, 7),
    "with a cache": ("MultiHeadAttention<num_heads = 2>(x, x, x, , , , pk, pk)", "y, k, v", "x", 4, False, None),
    "of unknown width": ("MultiHeadAttention<num_heads = 2>(q, open, open)", "y", "open", None, False, 7),
}


@pytest.mark.parametrize("case", HEADS)
def test_multi_head(case: str) -> None:
    node, outputs, values, width, own, columns = HEADS[case]
    graph, found = fused(node, outputs)
    size = None if columns is None else ("B", columns)
    assert found == FusedRead("MultiHeadAttention", graph[values], 2, width, own, None, None, columns, BESIDE, 4, size)


def test_a_size_that_is_not_known_is_a_name() -> None:
    assert fused("MultiHeadAttention<num_heads = 2>(q, pk, pk)")[1].size == ("B", "P")
    assert fused("MultiHeadAttention<num_heads = 2>(open, open, open)")[1].query_dim is None


@pytest.mark.parametrize(("queries", "own"), [("x", True), ("q", False)])
def test_keys_with_heads_first_may_be_the_tokens_of_the_queries(queries: str, own: bool) -> None:
    nodes = (
        "a = Reshape(x, split) t = Transpose<perm = [0,2,1,3]>(a)"
        f" y = com.microsoft.MultiHeadAttention<num_heads = 2>({queries}, t, t)"
    )
    graph = read(INPUTS, nodes, constants="int64[4] split = {0,0,2,4}")
    found = read_fused(graph.view, graph.facts, graph.node("y"))
    assert isinstance(found, FusedRead) and found.self_attention is own
    assert (found.values, found.head_dim, found.columns) == (graph["t"], 4, 7)


def test_multi_head_with_a_bias_of_scores() -> None:
    graph, found = fused("MultiHeadAttention<num_heads = 2>(x, x, x, , , bias)")
    assert found.attn_mask is graph["bias"]


GROUPS = {
    "three": ("GroupQueryAttention<num_heads = 2, kv_num_heads = 1>(q, k2, v2)", "y", "v2", 6, False),
    "one": ("GroupQueryAttention<num_heads = 2, kv_num_heads = 2>(x, x, x)", "y", "x", 4, True),
    "together": ("GroupQueryAttention<num_heads = 2, kv_num_heads = 1>(packed)", "y", "packed", 4, True),
    "of unknown width": ("GroupQueryAttention<num_heads = 2, kv_num_heads = 1>(open)", "y", "open", None, True),
    "with a cache": ("GroupQueryAttention<num_heads = 2, kv_num_heads = 2>(x, x, x, pk, pk)", "y, k, v", "x", 4, False),
    "floats in the cache": (
        'GroupQueryAttention<num_heads = 2, kv_num_heads = 2, k_quant_type = "NONE">(x, x, x)',
        "y",
        "x",
        4,
        True,
    ),
}


@pytest.mark.parametrize("case", GROUPS)
def test_group_query(case: str) -> None:
    node, outputs, values, width, own = GROUPS[case]
    graph, found = fused(node, outputs)
    assert found == FusedRead("GroupQueryAttention", graph[values], 2, width, own, None, None, None, BESIDE)


def test_group_query_with_a_bias_of_scores() -> None:
    graph, found = fused("GroupQueryAttention<num_heads = 2, kv_num_heads = 2>(x, x, x, , , , , , , , bias)")
    assert found.attn_mask is graph["bias"]
