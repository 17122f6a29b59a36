"""Shapes of what onnxruntime's own attention operators give."""

from __future__ import annotations

import pytest

from .reading import read

# inputs, node that makes y, its shape
SHAPES = {
    "attention": ("float[B,S,32] x, float[32,96] w, float[96] b", "Attention<num_heads = 4>(x, w, b)", ("B", "S", 32)),
    "values of another width": (
        "float[B,S,32] x, float[32,80] w, float[80] b",
        "Attention<num_heads = 4, qkv_hidden_sizes = [32, 32, 16]>(x, w, b)",
        ("B", "S", 16),
    ),
    "two widths are no widths of three": (
        "float[B,S,32] x, float[32,96] w, float[96] b",
        "Attention<num_heads = 4, qkv_hidden_sizes = [32, 64]>(x, w, b)",
        ("B", "S", 32),
    ),
    "quantized": (
        "uint8[B,S,32] x, int8[32,96] w, float[96] b, float s, float t",
        "QAttention<num_heads = 4>(x, w, b, s, t)",
        ("B", "S", 32),
    ),
    "rank 2": ("float[B,S] x, float[32,96] w, float[96] b", "Attention<num_heads = 4>(x, w, b)", ("B", "S", 32)),
    "multi head": (
        "float[B,S,32] q, float[B,T,32] k, float[B,T,48] v",
        "MultiHeadAttention<num_heads = 4>(q, k, v)",
        ("B", "S", 48),
    ),
    "multi head, heads apart": (
        "float[B,S,32] q, float[B,4,T,8] k, float[B,4,T,12] v",
        "MultiHeadAttention<num_heads = 4>(q, k, v)",
        ("B", "S", 48),
    ),
    "keys and values together": (
        "float[B,S,32] q, float[B,T,4,2,8] k",
        "MultiHeadAttention<num_heads = 4>(q, k)",
        ("B", "S", 32),
    ),
    "all together": ("float[B,S,4,3,8] q", "MultiHeadAttention<num_heads = 4>(q)", ("B", "S", 32)),
    "one head by default": ("float[B,S,1,3,8] q", "MultiHeadAttention(q)", ("B", "S", 8)),
    "grouped queries": (
        "float[B,S,32] q, float[B,S,16] k, float[B,S,16] v",
        "GroupQueryAttention<num_heads = 4, kv_num_heads = 2>(q, k, v)",
        ("B", "S", 32),
    ),
    "grouped queries together": (
        "float[B,S,64] q",
        "GroupQueryAttention<num_heads = 4, kv_num_heads = 2>(q)",
        ("B", "S", 32),
    ),
    "grouped queries together, one head each by default": ("float[B,S,24] q", "GroupQueryAttention(q)", ("B", "S", 8)),
    "no heads": (
        "float[B,S,64] q",
        "GroupQueryAttention<num_heads = 0, kv_num_heads = 0>(q)",
        ("B", "S", 64),
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_shape(case: str) -> None:
    inputs, node, shape = SHAPES[case]
    graph = read(inputs, f"y = com.microsoft.{node}")
    assert graph.facts.shape(graph["y"]) == shape


@pytest.mark.parametrize(
    ("inputs", "node", "known"),
    [
        ("float[B,S,32] x, float[] w, float[96] b", "Attention<num_heads = 4>(x, w, b)", ("B", "S", None)),
        ("float[] x, float[32,96] w, float[96] b", "Attention<num_heads = 4>(x, w, b)", (None, None, 32)),
        ("float[B] x, float[32,96] w, float[96] b", "Attention<num_heads = 4>(x, w, b)", (None, None, 32)),
        ("float[B,S,32] q, float[B,T,32] k, float[] v", "MultiHeadAttention<num_heads = 4>(q, k, v)", ("B", "S", None)),
        ("float[B,S,W] q", "GroupQueryAttention<num_heads = 4, kv_num_heads = 2>(q)", ("B", "S", None)),
    ],
)
def test_what_is_not_known_has_a_name_of_its_own(inputs: str, node: str, known: tuple[int | str | None, ...]) -> None:
    graph = read(inputs, f"y = com.microsoft.{node}")
    found = graph.facts.shape(graph["y"])
    assert found is not None and len(found) == len(known)
    for dim, expected in zip(found, known, strict=True):
        assert dim == expected if expected is not None else str(dim).startswith("?")


@pytest.mark.parametrize("places", ["float[9,32]", "float[P,E]"])
def test_embeddings_are_as_wide_as_the_table_of_words(places: str) -> None:
    graph = read(
        f"int32[B,S] ids, int32[B,S] types, float[99,32] words, {places} places, float[2,32] kinds",
        "y, index, sum = com.microsoft.EmbedLayerNormalization(ids, types, words, places, kinds)",
    )
    assert [graph.facts.shape(graph[name]) for name in ("y", "index", "sum")] == [
        ("B", "S", 32),
        ("B",),
        ("B", "S", 32),
    ]
