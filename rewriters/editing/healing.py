"""Healing: a flagged token of a decoder gets key and value of its neighbor, and everything else runs as it is.

1. *Probe.* Before the first key is healed, a copy of the nodes that the detecting sites need computes their scores,
   joined as in two passes. It lies in an `If` that is taken when a call has more than one new token, so a decoding step
   skips it. Weights are those of the main graph. Without branches (`gating = "none"`) it runs in every call. Where
   nothing is flagged the model goes on from what the probe has computed (see `early_part`).
2. Only new tokens are judged. The first valid token of a sequence, the attention sink of every decoder, is never
   flagged.
3. *Source* (B, S): for each new token the one whose key and value it gets. That is the token itself; for a flagged one
   the nearest valid token to the left in this call that is not flagged, else to the right, else itself. Of flagged
   tokens in a row only the first one gets its neighbor's. The others get those of the attention sink, if it is in this
   call, since it writes next to nothing: a neighbor that stands there eight times counts eight times.
4. The model runs. At every place of `finding.key_value` the rows are gathered by the source, in front of rotary
   embeddings and caches. So caches carry healed rows, and later calls need nothing. With nothing flagged each row is
   gathered from its own place, which changes no bit.
5. With `closes_up` the rows of looked-up embeddings are gathered instead, at this one place, so that flagged tokens
   and all that equal them leave the call (see `new_tokens`). Keys, values and hidden states then have nothing of a
   flagged token, not even where the answer is read; rows of outputs in front of it are those of the moved tokens. The
   gap in front is hidden by the padding mask where the graph proves that this hides it (`finding.hiding`), in all
   nodes that read the mask but in the probe. Elsewhere copies of the first token stand there.
6. With `states` the same happens to outputs with hidden states: to the graph behind this one that is as if the keys and
   values which it makes of them were healed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
import onnx

from ..checks import opset_of
from ..emit import BATCH_DIMS_FROM, ConstantPool, Emitter
from ..errors import NOT_ADMITTED, AtpatchError
from ..finding.hiding import Hiding
from ..finding.key_value import HealingPlaces, Place, Unhealable, healing_places
from ..model.renaming import renamed
from ..names import second_run
from ..plan import PatchPlan, Static
from ..sites import Site
from ..subgraphs.site import Replacement
from .early_part import early_part, reads_numbers
from .hidden_gap import hide_gap
from .probe import Probe, add_probe

__all__ = [
    "Healed",
    "add_healing",
    "detecting_sites",
    "heal_early",
    "heal_node",
    "not_healable",
    "places_by_value",
    "places_of",
]

_INSTEAD = "redistribute instead (--mend redistribute)"
_LOOK_UPS = ("Gather", "GatherBlockQuantized")
_TO_END = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Healed:
    """All replacements of the main graph, and the flags of the new tokens, (B, S) bool."""

    replacements: list[Replacement]
    flags: str


def detecting_sites(plan: PatchPlan, sites: Sequence[Site]) -> list[Site]:
    """The sites of the group whose detectors matter, in graph order: fixed columns are the same at every site."""
    seen: set[tuple[int, ...]] = set()
    found = []
    for site in sites:
        detector = plan.sites[site.id].detector if any(site.id in group for group in plan.groups) else Static()
        if not isinstance(detector, Static):
            found.append(site)
        elif detector.columns and detector.columns not in seen:
            seen.add(detector.columns)
            found.append(site)
    # a patch that never fires has the parts of one that does
    return found or [site for site in sites if any(site.id in group for group in plan.groups)][:1]


def places_of(
    model: onnx.ModelProto, plan: PatchPlan, sites: Sequence[Site], known: HealingPlaces | None = None
) -> HealingPlaces | AtpatchError:
    """Where to heal; the ATP023 to raise where the graph does not show it.

    Args:
        sites: all sites of the model.
        known: what an earlier search has found in this model.
    """
    if opset_of(model, ()) < BATCH_DIMS_FROM:
        return NOT_ADMITTED(f"healing needs opset {BATCH_DIMS_FROM} or later", _INSTEAD)
    detecting = [site.id for site in detecting_sites(plan, sites)]
    fits = known is not None and {*detecting} <= {*known.healed}
    found = known if known is not None and fits else healing_places(model, detecting)
    if isinstance(found, Unhealable):
        return not_healable(found)
    if elsewhere := [name for name in detecting if name not in found.healed]:
        return NOT_ADMITTED(f"healing: the keys of {elsewhere[0]} are not of the same new tokens", _INSTEAD)
    if unknown := [name for name in detecting if name not in found.judged]:
        return NOT_ADMITTED(
            f"healing: the graph does not show which columns of {unknown[0]} are the new tokens",
            "detect at other sites (--exclude), or " + _INSTEAD,
        )
    if plan.closes_up and not _looked_up_alone(model.graph, found):
        return NOT_ADMITTED(
            "healing: the graph does not show where its tokens are looked up, apart from their positions", _INSTEAD
        )
    if plan.states and not found.states:
        return NOT_ADMITTED("healing: no output of the graph has the hidden states of its tokens", _INSTEAD)
    return found


def _looked_up_alone(graph: onnx.GraphProto, places: HealingPlaces) -> bool:
    """Whether nodes of the graph make all embeddings (B, S, E), of nothing but tokens."""
    made = {name for node in graph.node if node.op_type in _LOOK_UPS for name in node.output}
    return all(name in made and len(places.sizes.get(name, ())) == 3 for name in places.embeddings)


def not_healable(found: Unhealable) -> AtpatchError:
    """The ATP023 to raise where keys and values cannot be healed."""
    return NOT_ADMITTED(f"keys and values cannot be healed: {found.why}", _INSTEAD)


def add_healing(
    model: onnx.ModelProto,
    plan: PatchPlan,
    sites: Sequence[Site],
    places: HealingPlaces,
    pool: ConstantPool,
    *,
    splits: bool = True,
) -> Healed:
    """Make the probe and heal keys and values. The graph admits the plan (see `admission`).

    Args:
        sites: all sites of the model.
        places: where to heal (`places_of`).
        splits: whether an early part may leave the graph.
    """
    e = Emitter("healing", opset_of(model, ()), pool, {}, conditional=plan.gating == "if")
    healed = places_by_value(plan, places)
    hides = places.hides if plan.closes_up else None
    makers = [index for index, node in enumerate(model.graph.node) if _changes(node, healed, hides)]
    detecting = detecting_sites(plan, sites)
    splits = splits and e.conditional and plan.span is None
    last = [site.product for site in detecting]
    early = early_part(model.graph, places, last, looked_up=plan.closes_up) if splits else None
    first = early.last if early else makers[0]
    probed = add_probe(e, Probe(model, plan, detecting, places.tokens, first, early, hides=hides is not None))
    rows = e.unsqueeze(probed.source, 2)
    instead = {} if hides is None else hide_gap(e, hides, places.tokens, probed.counted)
    replacements = []
    if early is not None:
        again = partial(heal_early, nodes=early.copied(model.graph), places=healed, rows=rows, instead=instead)
        early.add(e, probed.again, probed.handed, [*early.leaving], again)
        replacements += early.replacements(model.graph, e.nodes)
        e.nodes.clear()
    for index in makers:
        if early is None or index > early.last:
            node = model.graph.node[index]
            heal_node(e, _reading(node, instead), healed, rows)
            replacements.append(Replacement(next(filter(None, node.output)), tuple(e.nodes)))
            e.nodes.clear()
    return Healed(replacements, probed.flags)


def _changes(node: onnx.NodeProto, healed: Mapping[str, Place], hides: Hiding | None) -> bool:
    """Whether a node makes what is healed, or reads the numbers of an input that is changed."""
    if hides is not None and reads_numbers(node, hides.inputs):
        return True
    return not healed.keys().isdisjoint(node.output)


def _reading(node: onnx.NodeProto, instead: Mapping[str, str]) -> onnx.NodeProto:
    return renamed(node, lambda name: instead.get(name, name))


def places_by_value(plan: PatchPlan, places: HealingPlaces) -> dict[str, Place]:
    """Name of a value → how it is healed."""
    if plan.closes_up:
        return {name: Place(name) for name in places.embeddings}
    return {place.value: place for place in (*places.places, *(Place(name) for name in places.states if plan.states))}


def heal_early(
    e: Emitter,
    nodes: Sequence[onnx.NodeProto],
    places: Mapping[str, Place],
    rows: str,
    instead: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Emit the early part with healed keys and values under names of a second run; returns these.

    Args:
        instead: graph input → what is read in its place.
    """
    names = {name: second_run(name) for node in nodes for name in node.output if name}
    here = {names[name]: place for name, place in places.items() if name in names}
    read = {**instead, **names}
    for node in nodes:
        heal_node(e, renamed(node, lambda name: read.get(name, name), second_run), here, rows)
    return names


def heal_node(e: Emitter, node: onnx.NodeProto, places: Mapping[str, Place], rows: str) -> None:
    """Emit a node of the model and gather the rows of those outputs that are healed by `rows` (B, S, 1)."""
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    e.nodes.append(twin)
    for position, name in enumerate(node.output):
        if name not in places:
            continue
        original, packed = e.value("before"), places[name].packed
        twin.output[position] = original
        if packed is None:
            e.op("GatherND", original, rows, batch_dims=1, role="healed")
        else:
            axis, bar = e.constant([packed.axis], np.int64), e.constant([packed.queries], np.int64)
            queries = e.op("Slice", original, e.constant([0], np.int64), bar, axis, role="queries")
            other = e.op("Slice", original, bar, e.constant([_TO_END], np.int64), axis, role="keys_and_values")
            gathered = e.op("GatherND", other, rows, batch_dims=1, role="healed")
            e.op("Concat", queries, gathered, axis=packed.axis, role="packed")
        e.nodes[-1].output[0] = name
