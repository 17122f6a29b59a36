"""Which sites read the same tokens, so that a column flagged at one site is the same column at the others.

Sites form a group only where the graph proves this; every other site acts by itself.

1. Only sites of the main graph whose maps have one entry of the leading axis for each sample. The shapes of the model
   are computed for two numbers of samples, and the axis must have that size both times (times the heads, where they are
   merged into it). Windows, as in Swin, and rows of an image have several entries for each sample.
2. Sites with the same padding mask are one group, in self-attention and cross-attention: equal masks mean the same
   columns.
3. Without a mask: self-attention over the same fixed number of columns. Each site is computed from the one before it,
   and its column k leads back to column k there (see `finding.index_trace`). No site of the model may attend from one
   sequence to another. So parallel towers are separate groups, and so are encoder and decoder, and attention along rows
   and along columns of a square table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from ..model.bodies import reads
from ..model.boundary import to_ir
from ..sites import Site
from .index_trace import everything_behind
from .self_attention import roots
from .skeleton import hollow, of_fixed_size, skeleton
from .sweep import gather_facts
from .token_index import Index, index_of
from .view import build_view

__all__ = ["token_groups"]

# Primes, so that no product of other sizes equals them; small, so that no table of positions is too short.
_SAMPLES = (13, 29)
_LENGTH = 11


def token_groups(model: onnx.ModelProto, sites: Sequence[Site]) -> tuple[tuple[str, ...], ...]:
    """Groups of two or more sites, in the form of `PatchPlan.groups`.

    Args:
        sites: all sites that the finder found in the model, or a selection, in graph order.
    """
    inside = [site for site in sites if not site.where]
    light = hollow(model)
    probes = [_Probe(light, samples) for samples in _SAMPLES]
    counted = [{site.id: probe.leading(site) for site in inside} for probe in probes]
    candidates = [
        site
        for site in inside
        if all(
            found[site.id] == samples * (site.layout.merged_heads or 1)
            for samples, found in zip(_SAMPLES, counted, strict=True)
        )
    ]
    masked: dict[str, list[Site]] = {}
    for site in candidates:
        if site.key_mask is not None:
            masked.setdefault(site.key_mask, []).append(site)
    groups = list(masked.values())
    if all(site.self_attention for site in sites if site.key_mask is None):
        groups += _chains(
            model.graph, probes[0], [site for site in candidates if site.key_mask is None and site.key_size is not None]
        )
    position = {site.id: index for index, site in enumerate(sites)}
    groups.sort(key=lambda group: position[group[0].id])
    return tuple(tuple(site.id for site in group) for group in groups if len(group) > 1)


class _Probe:
    """The model with numbers in place of all open dimensions; `samples` for the first axes."""

    def __init__(self, model: onnx.ModelProto, samples: int) -> None:
        self._view = build_view(to_ir(skeleton(of_fixed_size(model, samples, _LENGTH))))
        self._facts = gather_facts(self._view)
        graph = self._view.model.graph
        self._values = {value.name: value for value in graph.inputs}
        self._values |= {value.name: value for node in graph for value in node.outputs}

    def leading(self, site: Site) -> int | None:
        """Size of the leading axis of a site's map, None where it cannot be computed."""
        layout, shape = site.layout, self._facts.shape(self._values.get(site.probabilities or site.product))
        axis = layout.probabilities[0] if layout.probabilities is not None and site.probabilities else 0
        known = shape is not None and layout.rank in (3, 4) and not layout.single_head
        size = shape[axis] if shape is not None and known else None
        return size if isinstance(size, int) else None

    def same_columns(self, first: Site, second: Site) -> bool:
        """Whether column k of the second site leads back to the same token as column k of the first site."""
        start = self._columns(first)
        if start is None:
            return False
        goals, _ = roots(self._view, self._facts, start)
        return bool(goals) and goals <= set(everything_behind(self._view, self._facts, self._columns(second)))

    def _columns(self, site: Site) -> Index | None:
        """The columns, as an index over the rows of the values: (B, K, H·D), (B, K, ...) or (B, H, K, D)."""
        values, order = self._values.get(site.values), site.layout.values
        if not site.probabilities:
            return index_of(self._facts, values, 2 if self._facts.rank(values) == 4 else 1)
        axis = -1 - site.layout.widths
        return index_of(self._facts, values, axis if order is None else order[axis] - len(order))


def _chains(graph: onnx.GraphProto, probe: _Probe, sites: Sequence[Site]) -> list[list[Site]]:
    """Chains of sites with equal K and the same columns; each site depends on the last site of exactly one chain."""
    behind = _sites_behind(graph, sites)
    chains: list[list[Site]] = []
    for site in sites:
        before = [chain for chain in chains if chain[-1].key_size == site.key_size and chain[-1].id in behind[site.id]]
        if len(before) == 1 and probe.same_columns(before[0][-1], site):
            before[0].append(site)
        else:
            chains.append([site])
    return chains


def _sites_behind(graph: onnx.GraphProto, sites: Sequence[Site]) -> Mapping[str, frozenset[str]]:
    """Site id → ids of the sites that its product depends on."""
    at = {site.product: site.id for site in sites}
    nothing: frozenset[str] = frozenset()
    reached: dict[str, frozenset[str]] = {}
    behind: dict[str, frozenset[str]] = {}
    for node in graph.node:
        sources = nothing.union(*(reached.get(name, nothing) for name in reads(node)))
        for name in node.output:
            if name in at:
                behind[at[name]] = sources
            reached[name] = sources | {at[name]} if name in at else sources
    return behind
