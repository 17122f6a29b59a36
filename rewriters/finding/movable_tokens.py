"""Whether a model is a text encoder in which any token may stand at any position.

A detector that compares the columns of a map with one another needs this. The graph has to prove it, for each site:

1. It lies in the main graph: branches and loops hold the parts of merged decoders.
2. Queries and keys are the same tokens: keys of a cache, or of another sequence, are not.
3. The values are computed from integer ids that are looked up in a table of embeddings. No other graph input is used,
   except the site's padding mask.
4. The number of ids and the number of key columns may vary: positions of fixed-length inputs (images, tables) differ
   from one another in meaning.
5. All query rows see the same columns, see `finding.row_masks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx import TensorProto

from ..sites import Site
from .facts import Facts
from .row_masks import RowMasks
from .skeleton import skeleton
from .sweep import gather_facts
from .view import View, build_view, op_types, operand

__all__ = ["Doubt", "doubt"]

_INDEPENDENT = op_types("Shape Size")
_INTEGERS = (TensorProto.INT64, TensorProto.INT32)
_LOOKUPS = {"Gather": 1, "GatherBlockQuantized": 1, "EmbedLayerNormalization": 0, "QEmbedLayerNormalization": 0}
"""Operator → which input holds the ids."""


@dataclass(frozen=True)
class Doubt:
    """Why a model is not proven to be such an encoder.

    Attributes:
        why: a sentence about one site.
        decoder: the site looks like a decoder's.
    """

    why: str
    decoder: bool = False


def doubt(model: onnx.ModelProto, sites: Sequence[Site]) -> Doubt | None:
    """The first doubt about any of the sites, None where everything is proven.

    Args:
        sites: the sites to patch, as the finder found them in the model.
    """
    for site in sites:
        if site.where:
            return Doubt(
                f"{site.id} lies in a branch, a loop or a function, as the sites of merged decoders do", decoder=True
            )
        if not site.self_attention:
            return Doubt(
                f"the graph does not show that keys and queries of {site.id} are the same tokens: the keys may come"
                " from a cache or another text",
                True,
            )
    view = build_view(ir.from_proto(skeleton(model)))
    sources = _Sources(view, gather_facts(view), sites)
    masks: RowMasks | None = None
    for site in sites:
        found = sources.doubt(site)
        if found is not None:
            return found
        masks = masks or RowMasks(model)
        alike = masks.alike(site)
        if alike is None:
            return Doubt(f"it is not known whether all rows of {site.id} see the same columns")
        if not alike:
            return Doubt(
                f"the map of {site.id} is causal, or its mask differs from row to row in another way", decoder=True
            )
    return None


class _Sources:
    """The graph inputs that the values of a site are computed from."""

    def __init__(self, view: View, facts: Facts, sites: Sequence[Site]) -> None:
        self._view, self._facts = view, facts
        self._made = {value.name: value for node in view.model.graph for value in node.outputs}
        self._made |= {value.name: value for value in view.model.graph.inputs}
        self._values = {self._made.get(site.product): self._made.get(site.values) for site in sites}
        self._masks = {site.key_mask for site in sites}

    def doubt(self, site: Site) -> Doubt | None:
        start = self._made.get(site.values)
        ids: set[ir.Value] = set()
        others: set[ir.Value] = set()
        for value in self._behind([start] if start is not None else []):
            node = value.producer()
            if node is not None and self._is_lookup(node):
                read = operand(node, _LOOKUPS[node.op_type])
                ids |= {
                    source for source in self._behind([read] if read is not None else []) if source.is_graph_input()
                }
            elif value.is_graph_input() and not value.is_initializer():
                others.add(value)
        strange = sorted(str(value.name) for value in others if value.name not in self._masks)
        if strange:
            return Doubt(f"{site.id} reads {', '.join(strange)}, not only tokens that are looked up in a table")
        ids = {
            value
            for value in ids
            if self._facts.element_type(value) in _INTEGERS and (self._facts.rank(value) or 0) > 1
        }
        if not ids:
            return Doubt(f"the graph does not show that the tokens of {site.id} are looked up in a table")
        if site.key_size is not None or any(
            self._facts.static(value, 1 - (self._facts.rank(value) or 0)) is not None for value in ids
        ):
            return Doubt(
                f"the length of {site.id} is fixed, so its positions may differ in meaning, as in an image or a table"
            )
        return None

    def _is_lookup(self, node: ir.Node) -> bool:
        if node.op_type not in _LOOKUPS:
            return False
        table = operand(node, 0)
        return not node.op_type.startswith("Gather") or (
            self._view.is_constant(table) and (self._facts.rank(table) or 0) > 1
        )

    def _behind(self, starts: Sequence[ir.Value]) -> Iterator[ir.Value]:
        """Values that others are computed from, up to lookups; at a site only its values, since maps hold masks."""
        waiting, seen = list(starts), set(starts)
        while waiting:
            value = waiting.pop()
            yield value
            for source in self._sources(value):
                if source not in seen:
                    seen.add(source)
                    waiting.append(source)

    def _sources(self, value: ir.Value) -> list[ir.Value]:
        node, values = value.producer(), self._values.get(value)
        if values is not None:
            return [values]
        if node is None or value in self._view.backward:
            return list(self._view.backward.get(value, ()))
        if node.op_type in _INDEPENDENT or self._is_lookup(node):
            return []
        inner = [
            read
            for found in node.attributes.values()
            if found.type == ir.AttributeType.GRAPH
            for read in _reads(found.value)
        ]
        return [source for source in (*node.inputs, *inner) if source is not None]


def _reads(graph: ir.Graph) -> list[ir.Value]:
    """Values that a body reads or makes, including those of outer bodies."""
    return [value for node in graph for value in (*node.inputs, *node.outputs) if value is not None]
