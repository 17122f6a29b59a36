"""Builds a `Site` from the results of the walks: heads, layout, names, quantization."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir

from ..sites import Layout, Site, Where
from .backward import Scores
from .columns import keeps_columns
from .facts import Facts
from .forward import Hit
from .fused import FusedRead
from .heads import LeadingAxes, heads_last
from .kept import Factor
from .masks import KeyMasks
from .merged import merged_heads
from .naming import Names, scope_of
from .products import Product
from .samples import samples_first, samples_in
from .self_attention import is_self_attention
from .softmax_match import Anchor
from .sparse import is_unmasked
from .view import View, operand

__all__ = ["SiteBuilder", "node_name"]

_QUANTIZED_PAIR = ("QuantizeLinear", "DequantizeLinear")


def node_name(node: onnx.NodeProto) -> str:
    """A node's name, or the name of its first output where it has none."""
    return node.name or next((name for name in node.output if name), node.op_type)


@dataclass(frozen=True)
class _Read:
    """Where P, V and the product are read; `quantizer`: output of the QuantizeLinear that reads P as well."""

    map: Factor
    values: Factor
    output: ir.Value
    suffix: str = ""
    quantizer: ir.Value | None = None


class SiteBuilder:
    """Builds the sites of one model.

    Args:
        view, facts: the indexed model.
        protos: node → the node as the model file has it.
    """

    def __init__(self, view: View, facts: Facts, protos: Mapping[ir.Node, onnx.NodeProto]) -> None:
        self._view = view
        self._facts = facts
        self._protos = protos
        self._masks = KeyMasks(view, facts)
        self._names = Names()
        self._count = 0

    def build(self, anchor: Anchor, hit: Hit, scores: Scores) -> Site:
        read = self._read(hit)
        axes = LeadingAxes(self._view, self._facts, anchor, hit, scores, read.map.value, read.values.value)
        axes = replace(axes, hit=replace(hit, product=samples_first(axes)))
        product, single_head = heads_last(axes)
        hit = replace(hit, product=product)
        merged = merged_heads(replace(axes, hit=hit))
        layout = Layout(
            product.rank,
            product.probabilities_perm,
            product.values_perm,
            product.output_perm,
            merged,
            product.values_lack,
            single_head,
        )
        same_columns = keeps_columns(self._view, self._facts, anchor, hit, scores)
        heads = self._heads(product, scores, read.map.value, layout)
        proto = self._protos[anchor.node]
        self._count += 1
        scope = (
            scope_of(proto.name, {entry.key: entry.value for entry in proto.metadata_props}) or f"softmax_{self._count}"
        )
        where = self._view.homes[product.node].where
        return Site(
            id=self._names.take(scope),
            softmax=node_name(proto),
            matmul=node_name(self._protos[product.node]),
            form=anchor.form + read.suffix,
            where=where,
            probabilities=str(read.map.value.name),
            values=str(read.values.value.name),
            product=str(read.output.name),
            query_axis=product.query_axis,
            key_axis=product.key_axis,
            operand=product.operand,
            heads=heads,
            head_axis=_axis_of(layout.probabilities, -3) if layout.has_heads and merged is None else None,
            head_dim=self._facts.static(product.values, _axis_of(layout.values, -1)) if layout.widths == 1 else None,
            scope=scope,
            confidence="medium" if hit.assumed or scores.learned else "high",
            layout=layout,
            self_attention=same_columns
            and is_self_attention(self._view, self._facts, anchor, hit, scores, read.map.value),
            key_mask=self._key_mask(anchor, hit, scores, read, merged)
            if same_columns and not single_head and _sees_batch(where)
            else None,
            chain=_chain(anchor, hit, scores),
            quantizer=None if read.quantizer is None else str(read.quantizer.name),
            softmax_rank=self._facts.rank(anchor.output),
            softmax_dtype=self._facts.element_type(anchor.output) or onnx.TensorProto.UNDEFINED,
            quantizer_dtype=self._facts.element_type(read.quantizer) or onnx.TensorProto.UINT8,
            dtype=self._element_type(read, hit.path, anchor),
            map_scale=_scale(read.map),
            values_scale=_scale(read.values),
            key_size=self._facts.static(read.map.value, product.key_axis),
            unmasked=is_unmasked(self._view, self._facts, anchor, hit, scores),
        )

    def build_fused(self, node: ir.Node, read: FusedRead) -> Site:
        """A site inside one operator: its map is not a value of the graph yet."""
        proto = self._protos[node]
        self._count += 1
        scope = (
            scope_of(proto.name, {entry.key: entry.value for entry in proto.metadata_props}) or f"softmax_{self._count}"
        )
        where = self._view.homes[node].where
        return Site(
            id=self._names.take(scope),
            softmax=node_name(proto),
            matmul=node_name(proto),
            form=read.form,
            where=where,
            probabilities="",
            values=str(read.values.name),
            product=str(node.outputs[0].name),
            query_axis=-2,
            key_axis=-1,
            operand=0,
            heads=read.heads,
            head_axis=-3,
            head_dim=read.head_dim,
            scope=scope,
            confidence="high",
            layout=read.layout,
            self_attention=read.self_attention,
            key_mask=self._fused_mask(read) if _sees_batch(where) else None,
            chain=(node.op_type,),
            dtype=self._facts.element_type(node.outputs[0])
            or self._facts.element_type(read.values)
            or onnx.TensorProto.FLOAT,
            ranks=tuple(self._facts.rank(value) for value in node.inputs),
            key_size=read.columns,
            query_dim=read.query_dim,
            size=read.size,
        )

    def _fused_mask(self, read: FusedRead) -> str | None:
        found = _graph_input(read.mask)
        return (
            self._masks.trace_operand(read.attn_mask, read.columns)
            if found is None and read.attn_mask is not None
            else found
        )

    def _read(self, hit: Hit) -> _Read:
        """P at the product, or before a Q/DQ pair there, so that a runtime can still fuse the pair with the product."""
        product = hit.product
        output = product.node.outputs[0]
        if product.kept is not None:
            kept = product.kept
            return _Read(kept.probabilities, kept.values, kept.output, "+" + kept.form)
        direct, values = operand(product.node, product.operand), Factor(product.values)
        assert direct is not None
        pair = hit.path[-2:]
        if tuple(node.op_type for node in pair) == _QUANTIZED_PAIR and operand(pair[1], 0) is pair[0].outputs[0]:
            before = operand(pair[0], 0)
            same_body = self._view.homes[pair[0]].where == self._view.homes[product.node].where
            if before is not None and same_body and not product.scaled:
                return _Read(Factor(before), values, output, "+qdq", pair[0].outputs[0])
        return _Read(Factor(direct), values, output, "+scaled" if product.scaled else "")

    def _key_mask(self, anchor: Anchor, hit: Hit, scores: Scores, read: _Read, merged: int | None) -> str | None:
        samples = samples_in(self._view, self._facts, anchor, hit, scores, read.map.value, merged)
        return self._masks.trace(scores, anchor, self._facts.static(read.map.value, hit.product.key_axis), samples)

    def _heads(self, product: Product, scores: Scores, probabilities: ir.Value, layout: Layout) -> int | None:
        """Static size of the head axis of the map, taken from P or from any tensor that must agree with it."""
        if layout.merged_heads is not None or not layout.has_heads:
            return layout.merged_heads
        widths = layout.widths
        output, rank = product.node.outputs[0], product.rank
        candidates = (
            (probabilities, product.probabilities_perm, 1),
            (output, product.output_perm, widths),
            *([] if -3 in product.values_lack else [(product.values, product.values_perm, widths)]),
        )
        for value, perm, behind in candidates:
            size = self._facts.static(value, _axis_of(perm, -3, behind))
            if size is not None and size != 1:
                return size
        if scores.node.op_type != "Einsum" and self._facts.rank(scores.node.outputs[0]) == rank:
            return self._facts.static(scores.node.outputs[0], -3)
        return self._facts.static(output, _axis_of(product.output_perm, -3, widths))

    def _element_type(self, read: _Read, path: Iterable[ir.Node], anchor: Anchor) -> int:
        if read.suffix in ("+qlinear", "+integer"):
            fallback = onnx.TensorProto.UINT8 if read.suffix == "+qlinear" else onnx.TensorProto.FLOAT
            return self._facts.element_type(read.output) or fallback
        known = self._facts.element_type(read.map.value)
        if known is None and not any(node.op_type in ("Cast", "DequantizeLinear") for node in path):
            known = self._facts.element_type(anchor.output) or self._facts.element_type(anchor.scores)
        return known or onnx.TensorProto.FLOAT


def _sees_batch(where: Where) -> bool:
    """Whether a body sees graph inputs with its own samples: only branches; a Loop may run over samples."""
    return all(step in ("then_branch", "else_branch") for _, step in where)


def _scale(factor: Factor) -> tuple[str, str] | None:
    if factor.scale is None:
        return None
    return str(factor.scale.name), "" if factor.zero_point is None else str(factor.zero_point.name)


def _graph_input(value: ir.Value | None) -> str | None:
    """Name of the graph input that a value is, apart from casts; else None."""
    while value is not None and (node := value.producer()) is not None and node.op_type == "Cast":
        value = operand(node, 0)
    return value.name if value is not None and value.is_graph_input() else None


def _axis_of(perm: tuple[int, ...] | None, canonical: int, widths: int = 1) -> int:
    """Negative axis in memory of a negative canonical axis; `widths`: number of axes that form the width."""
    return canonical if perm is None else perm[canonical - widths + 1] - len(perm)


def _chain(anchor: Anchor, hit: Hit, scores: Scores) -> tuple[str, ...]:
    before = tuple(node.op_type for node in scores.path)
    # Another difference right before the maximum is subtracted: one of the two is told, as in the hotfixes that exist.
    if anchor.form == "decomposed" and anchor.inner[0] == "Sub" and before[-1:] == ("Sub",):
        before = before[:-1]
    after = tuple(node.op_type for node in hit.path)
    return (scores.node.op_type, *before, *anchor.inner, *after, hit.product.node.op_type)
