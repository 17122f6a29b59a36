"""Readers of fused attention in `com.microsoft`, and why each other operator is refused.

Every refusal says how to go on: what to export or leave out so that the model can be patched.
"""

from __future__ import annotations

import onnx_ir as ir

from ..sites import Layout
from .facts import Dim, Facts
from .fused_read import FusedRead, Reader
from .products import Refused
from .self_attention import same_tokens
from .token_index import index_of
from .view import View, attribute, operand

__all__ = ["MICROSOFT_READERS"]

_HEADS_AFTER_TOKENS = Layout(4, values=(0, 2, 1, 3), output=(0, 2, 1, 3))
_SEPARATE = "fuse to MultiHeadAttention instead"
_CACHE_BUFFER = "its cache lies in a shared buffer; export with a growing cache (separate past and present)"

_BEAMS = (
    "the order of its key cache depends on the execution provider, and it may mix beams; "
    "convert the decoder to MultiHeadAttention, without masked attention"
)
_PACKED = (
    "padding is removed before it, so several samples lie in one row; patch the model before converting it to packing"
    " mode"
)
_TILED = "its operands are int8 in the tile order of one GPU library; patch the model before this quantization"
_CHOSEN = "each row chooses its own columns, so columns of a map are not tokens; use a dense variant of the model"

_REFUSED_OPERATORS = {
    "DecoderAttention": (
        "its first axis is the rows, and it chooses its cache at run time; export the decoder with MultiHeadAttention"
    ),
    "DecoderMaskedMultiHeadAttention": _BEAMS,
    "DecoderMaskedSelfAttention": _BEAMS,
    "DynamicSparseAttention": _CHOSEN,
    "LongformerAttention": (
        "its map has windows and global tokens instead of rows and columns; export the model without fused operators"
    ),
    "PackedAttention": _PACKED,
    "PackedMultiHeadAttention": _PACKED,
    "PagedAttention": "its keys and values lie in pages, in any order; export with GroupQueryAttention",
    "QOrderedAttention": _TILED,
    "QOrderedLongformerAttention": _TILED,
    "SparseAttention": "the operator leaves out blocks of columns; export with GroupQueryAttention",
    "SparsePagedAttention": _CHOSEN,
}
"""Operator type → why it is refused, and how to go on."""


def _refused(node: ir.Node, why: str) -> Refused:
    return Refused("fused", f"{node.op_type}: {why}")


def _refused_operator(view: View, facts: Facts, node: ir.Node) -> Refused:
    return _refused(node, _REFUSED_OPERATORS[node.op_type])


def _attention(view: View, facts: Facts, node: ir.Node) -> FusedRead | Refused:
    """One matrix projects one input to queries, keys and values, so without a cache this is self-attention."""
    quantized = node.op_type == "QAttention"
    mask, past = operand(node, 5 if quantized else 3), operand(node, 8 if quantized else 4)
    weights = operand(node, 1)
    if attribute(node, "do_rotary", 0):
        return _refused(
            node,
            "it rotates queries and keys inside, on one provider only; fuse to RotaryEmbedding and MultiHeadAttention",
        )
    if attribute(node, "past_present_share_buffer", 0):
        return _refused(node, _CACHE_BUFFER)
    if weights is None or not view.is_constant(weights):
        return _refused(
            node, f"its weights are not constant, so the projection cannot be repeated bit for bit; {_SEPARATE}"
        )
    ranks = (1, 2) if quantized else (1, 2, 3)
    if mask is not None and facts.rank(mask) not in ranks:
        return _refused(
            node,
            f"its mask has rank {facts.rank(mask) or 'unknown'}, not {', '.join(map(str, ranks))}; use a mask (B, T)",
        )
    heads: int = attribute(node, "num_heads")
    if quantized and facts.element_type(operand(node, 3)) == ir.DataType.FLOAT16:
        return _refused(
            node, "its scales are float16, for which the CPU provider has no kernel; quantize the float32 model"
        )
    sizes, whole = attribute(node, "qkv_hidden_sizes"), facts.static(weights, -1)
    width = sizes[2] if sizes else whole // 3 if whole else None
    query_width = sizes[0] if sizes else width
    source = operand(node, 0)
    assert source is not None
    return FusedRead(
        form="QAttention" if quantized else "com.microsoft.Attention",
        values=source,
        heads=heads,
        head_dim=width // heads if width else None,
        self_attention=past is None,
        mask=_key_mask(facts, mask),
        attn_mask=None if quantized else operand(node, 5),
        columns=facts.static(source, -2) if past is None else None,
        layout=_HEADS_AFTER_TOKENS,
        query_dim=query_width // heads if query_width else None,
        size=None if past is not None else _size(facts, source, source, -2),
    )


def _multi_head(view: View, facts: Facts, node: ir.Node) -> FusedRead | Refused:
    query, key, values, mask = operand(node, 0), operand(node, 1), operand(node, 2), operand(node, 4)
    if operand(node, 8) is not None or operand(node, 9) is not None:
        return _refused(node, _CACHE_BUFFER)
    cached = operand(node, 6) is not None
    if cached and (len(node.outputs) < 3 or not node.outputs[1].name or not node.outputs[2].name):
        return _refused(
            node,
            "it has a cache but no present outputs, and providers fail or compute it wrong then; export both outputs",
        )
    query_rank, key_rank = facts.rank(query), facts.rank(key)
    packed = (query_rank == 5 and key is None) or key_rank == 5
    if (
        query is None
        or query_rank not in (3, 5)
        or not (packed or (key_rank in (3, 4) and facts.rank(values) == key_rank))
    ):
        ranks = ", ".join(str(facts.rank(value) or "unknown") for value in (query, key, values) if value is not None)
        return _refused(
            node, f"it does not accept operands of these ranks ({ranks}); run shape inference on the model first"
        )
    if mask is not None and facts.rank(mask) not in (1, 2, 3):
        return _refused(node, f"its mask has rank {facts.rank(mask) or 'unknown'}, not 1, 2 or 3; use a mask (B, T)")
    heads: int = attribute(node, "num_heads")
    carrier = values or key or query
    width = facts.static(carrier, -1)
    flat = facts.rank(carrier) == 3
    keys_first = key_rank == 4
    query_width = facts.static(query, -1)
    tokens = -2 if keys_first else 1 - (facts.rank(key or query) or 3)
    own = key is None or same_tokens(
        view, facts, index_of(facts, query, 1), index_of(facts, key, 2 if keys_first else 1)
    )
    return FusedRead(
        form="MultiHeadAttention",
        values=carrier,
        heads=heads,
        head_dim=width // heads if width and flat else width,
        self_attention=own and not cached,
        mask=_key_mask(facts, mask),
        attn_mask=operand(node, 5),
        columns=None if cached else facts.static(key or query, tokens),
        layout=_HEADS_AFTER_TOKENS,
        query_dim=query_width // heads if query_width and query_rank == 3 else query_width,
        size=None if cached else _size(facts, query, key or query, tokens),
    )


def _group_query(view: View, facts: Facts, node: ir.Node) -> FusedRead | Refused:
    """Padding is given by lengths, not by masks: columns beyond them have weight 0 in the map."""
    query, key, values = (operand(node, index) for index in range(3))
    heads: int = attribute(node, "num_heads")
    key_heads: int = attribute(node, "kv_num_heads")
    if query is None or (key is None) != (values is None):
        return _refused(node, "it lacks an operand; the model is malformed")
    if any(attribute(node, name, "NONE") not in ("NONE", b"NONE") for name in ("k_quant_type", "v_quant_type")):
        return _refused(node, "its cache is quantized; export with a cache of floats")
    if attribute(node, "sliding_window_cache", 0):
        return _refused(node, "its cache holds only a sliding window; export with a cache of full length")
    if operand(node, 14) is not None or operand(node, 15) is not None:
        return _refused(
            node, "it normalizes queries and keys inside, which the CPU provider cannot do; export norms as own nodes"
        )
    if operand(node, 16) is not None:
        return _refused(node, "samples have different numbers of new rows (query_seqlens); export without chunks")
    width = facts.static(query if values is None else values, -1)
    parts = key_heads if values is not None else heads + 2 * key_heads
    return FusedRead(
        form="GroupQueryAttention",
        values=values or query,
        heads=heads,
        head_dim=width // parts if width else None,
        self_attention=operand(node, 3) is None
        and (key is None or same_tokens(view, facts, index_of(facts, query, 1), index_of(facts, key, 1))),
        attn_mask=operand(node, 10),
        layout=_HEADS_AFTER_TOKENS,
    )


def _size(facts: Facts, rows: ir.Value, keys: ir.Value, tokens: int) -> tuple[Dim, Dim] | None:
    """(B, K) of an operator without a cache; tokens: negative axis of the keys."""
    batch, columns = facts.dim(rows, -(facts.rank(rows) or 1)), facts.dim(keys, tokens)
    return None if batch is None or columns is None else (batch, columns)


def _key_mask(facts: Facts, mask: ir.Value | None) -> ir.Value | None:
    """A mask (B, T); a mask of width 1 means no mask."""
    return mask if mask is not None and facts.rank(mask) == 2 and facts.static(mask, -1) != 1 else None


MICROSOFT_READERS: dict[tuple[str, str], Reader] = {
    ("com.microsoft", "Attention"): _attention,
    ("com.microsoft", "QAttention"): _attention,
    ("com.microsoft", "MultiHeadAttention"): _multi_head,
    ("com.microsoft", "GroupQueryAttention"): _group_query,
    **{("com.microsoft", name): _refused_operator for name in _REFUSED_OPERATORS},
}
"""(domain, operator type) → its reader."""
