"""`com.microsoft` Attention: projection and attention in one operator.

1. In float32 the projection becomes Gemm with the bias as C, and the attention is written out (`microsoft_opened`), or
   becomes MultiHeadAttention where it cannot be. On the CPU provider the result is bit-identical to the operator's (the
   same kernels sum in the same order; Gemm, since MatMul and Add round differently), and there is only one projection.
   The weights must be constant, so that kernels pack them in the same way.
2. In float16 and bfloat16 the operator stays, and queries and keys are projected again next to it. Providers without
   these types compute the whole operator in float32, and a split operator would be rounded in between.
3. With or without bias; `mask_index` of rank 1 (B), (2B), (3B + 2), rank 2 (B, T), (B, 1), (1, 1), rank 3 (B, S, T);
   `attention_bias`; `past` and `present`; `unidirectional`; `scale`; `mask_filter_value`; `qkv_hidden_sizes`.
4. Refused by the finder: `do_rotary`, `past_present_share_buffer`, a mask of rank 4 or of unknown rank, weights that
   are not constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from ..emit import Emitter
from ..sites import Site
from .microsoft_opened import Heads, can_open, open_operator
from .microsoft_padding import Padding, padding_of, valid_of
from .microsoft_parts import attributes_of, input_of, part, split
from .microsoft_recomputed import Recomputed
from .microsoft_scores import HeadsSource, apart, knows_rows, map_of, rows_of
from .operands import Operands
from .tapped import split_heads

__all__ = ["FORM", "Projected", "lower_projected", "lower_site"]

FORM = "com.microsoft.Attention"

_INPUT, _WEIGHTS, _BIAS, _MASK, _PAST, _ATTENTION_BIAS = range(6)
_KEPT_ATTRIBUTES = ("num_heads", "scale", "mask_filter_value", "unidirectional")


@dataclass(frozen=True)
class Projected:
    """The projection with bias, and the other inputs of the attention.

    Attributes:
        source: what is projected, (B, S, ...).
        product: queries, keys and values, one behind the other: (B, S, ...), or (B·S, ...) if `flat`.
        sizes: their widths; None where they are equal.
        mask: value and rank of the padding mask, None when there is none.
        past: cache (2, B, N, P, H), "" when there is none.
        attention_bias: "" when there is none.
        present: name of the output (2, B, N, T, H), "" when there is none.
    """

    source: str
    product: str
    flat: bool
    sizes: Sequence[int] | None
    mask: tuple[str, int] | None
    past: str
    attention_bias: str
    present: str

    def parts(self, e: Emitter) -> list[str]:
        """Queries, keys and values (B, S, N·H)."""
        whole = e.reshape(self.product, e.dims(self.source, 0, 2), -1) if self.flat else self.product
        return split(e, whole, self.sizes, 2)

    def heads(self, e: Emitter, site: Site, count: int) -> Heads:
        """The same for each head."""
        if self.sizes is not None and len({*self.sizes}) > 1:
            return Heads(*(split_heads(e, one, count) for one in self.parts(e)))

        def shape(body: Emitter) -> str:
            return body.shape(body.dims(self.source, 0, 2), 3 * count, -1)

        whole = shape(e) if site.size is None else e.shared(f"heads:{count}:{site.size}", shape)
        together = e.op("Transpose", e.op("Reshape", self.product, whole), perm=[0, 2, 1, 3])
        return Heads(*split(e, together, None, 1))


def lower_site(e: Emitter, site: Site, node: onnx.NodeProto) -> Operands:
    """Emit the nodes that replace the operator."""
    sizes = attributes_of(node).get("qkv_hidden_sizes")
    projected = _project(e, node, site, sizes)
    return (
        lower_projected(e, site, node, projected)
        if site.dtype == TensorProto.FLOAT
        else _keep(e, site, node, projected)
    )


def lower_projected(e: Emitter, site: Site, node: onnx.NodeProto, projected: Projected) -> Operands:
    """Emit what takes the place of the operator `node` behind its projection; float32."""
    plain = not (projected.past or projected.attention_bias or projected.present)
    if not can_open(e, site, node, projected.mask[1] if projected.mask else 0, plain=plain, flash=False):
        return _attend(e, site, node, projected)
    padding = _padding(e, site, projected, None)

    def operator(inner: Emitter) -> str:
        return _multi_head(inner, node, projected, projected.parts(inner), padding, ["attention_output"])[0]

    heads = projected.heads(e, site, int(attributes_of(node)["num_heads"]))
    return open_operator(e, site, node, heads, padding, operator)


def _attend(e: Emitter, site: Site, node: onnx.NodeProto, projected: Projected) -> Recomputed:
    """Emit MultiHeadAttention, and the map next to it.

    With present keys and values as outputs, MultiHeadAttention does not use flash attention, which sums in another
    order than Attention. The map needs these keys and values too.
    """
    heads = int(attributes_of(node)["num_heads"])
    parts = projected.parts(e)
    query, past = parts[0], e.dims(projected.past, 3, 4) if projected.past else None
    padding = _padding(e, site, projected, past)
    roles = ["attention_output", "present_key", "present_value"]
    output, key, value = _multi_head(e, node, projected, parts, padding, roles)
    if projected.present:
        e.op("Concat", e.unsqueeze(key, 0), e.unsqueeze(value, 0), axis=0)
        e.nodes[-1].output[0] = projected.present

    bias = projected.attention_bias or None
    keys = HeadsSource(key, True)

    def whole(inner: Emitter) -> str:
        return map_of(inner, node, apart(inner, query, heads), keys, past, padding, bias)

    def some(inner: Emitter, every: int, further: tuple[int, ...]) -> str:
        return rows_of(inner, node, apart(inner, query, heads), keys, padding, every, further)

    valid = valid_of(e, padding, bias, e.dims(query, 0, 1), keys.columns(e))
    rows = some if knows_rows(node, past, padding, bias) else None
    return Recomputed("", output, heads, site.dtype, lambda inner: value, valid=valid, emit_map=whole, emit_rows=rows)


def _multi_head(
    e: Emitter,
    node: onnx.NodeProto,
    projected: Projected,
    parts: Sequence[str],
    padding: Padding | None,
    roles: Sequence[str],
) -> list[str]:
    """MultiHeadAttention on the projected parts; roles: of its outputs."""
    past_key, past_value = (_half(e, projected.past, half) for half in (0, 1)) if projected.past else ("", "")
    inputs = [*parts, "", "", projected.attention_bias, past_key, past_value]
    if padding is not None and projected.mask is not None:
        # (B, T) is the only form of ranks 1 and 2 that both operators accept.
        inputs[4] = projected.mask[0] if padding.rows_differ else e.cast(padding.kept, TensorProto.INT32)
    while not inputs[-1]:
        inputs.pop()
    outputs = [e.value(role) for role in roles]
    twin = helper.make_node("MultiHeadAttention", inputs, outputs, name=e.value("attention"), domain="com.microsoft")
    twin.attribute.extend(attribute for attribute in node.attribute if attribute.name in _KEPT_ATTRIBUTES)
    twin.metadata_props.extend(node.metadata_props)
    e.nodes.append(twin)
    return outputs


def _keep(e: Emitter, site: Site, node: onnx.NodeProto, projected: Projected) -> Recomputed:
    """Emit the operator itself, and its map next to it."""
    heads = int(attributes_of(node)["num_heads"])
    query, key, value = projected.parts(e)
    output = e.keep(node, "attention").output[0]

    def cached(inner: Emitter, x: str, half: int) -> HeadsSource:
        new = HeadsSource(apart(inner, x, heads), False)
        if not projected.past:
            return new
        return HeadsSource(
            inner.op("Concat", inner.float(_half(inner, projected.past, half)), new.canonical(inner), axis=2), True
        )

    past = e.dims(projected.past, 3, 4) if projected.past else None
    bias = e.float(projected.attention_bias) if projected.attention_bias else None
    padding = _padding(e, site, projected, past)
    keys = cached(e, key, 0)
    probabilities = map_of(e, node, apart(e, query, heads), keys, past, padding, bias)
    valid = valid_of(e, padding, bias, e.dims(query, 0, 1), keys.columns(e))

    def values(inner: Emitter) -> str:
        return cached(inner, value, 1).canonical(inner)

    return Recomputed(probabilities, output, heads, site.dtype, values, valid=valid)


def _project(e: Emitter, node: onnx.NodeProto, site: Site, sizes: Sequence[int] | None) -> Projected:
    source, weights, bias = node.input[_INPUT], node.input[_WEIGHTS], input_of(node, _BIAS)
    if site.dtype == TensorProto.FLOAT:
        rows = e.op("Flatten", source, axis=2)
        product = e.op("Gemm", rows, weights, *([bias] if bias else []), role="projection")
    else:
        # A copy of the weights: shared weights are packed for neither operator, which changes the order of sums.
        own = e.cast(e.float(weights), site.dtype)
        product = e.op("MatMul", source, own, role="projection")
        product = e.float(e.op("Add", product, bias) if bias else product)
    mask = input_of(node, _MASK)
    return Projected(
        source=source,
        product=product,
        flat=site.dtype == TensorProto.FLOAT,
        sizes=sizes,
        mask=(mask, site.ranks[_MASK] or 0) if mask else None,
        past=input_of(node, _PAST),
        attention_bias=input_of(node, _ATTENTION_BIAS),
        present=node.output[1] if len(node.output) > 1 else "",
    )


def _half(e: Emitter, past: str, half: int) -> str:
    """Keys (0) or values (1) of a cache (2, B, N, P, H)."""
    return e.squeeze(part(e, past, 0, half, half + 1), 0)


def _padding(e: Emitter, site: Site, projected: Projected, past: str | None) -> Padding | None:
    """The padding mask; past: number of cached columns, 1-D int64."""
    if projected.mask is None:
        return None

    def sizes(inner: Emitter) -> tuple[str, str]:
        rows = inner.dims(projected.source, 1, 2)
        return inner.dims(projected.source, 0, 1), rows if past is None else inner.op("Add", rows, past)

    return padding_of(e, *projected.mask, sizes, site.size)
