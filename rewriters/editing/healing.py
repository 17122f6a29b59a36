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
5. With `states` the same happens to outputs with hidden states: to the graph behind this one that is as if the keys and
   values which it makes of them were healed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto

from ..checks import opset_of
from ..emit import BATCH_DIMS_FROM, ConstantPool, Emitter
from ..errors import NOT_ADMITTED, AtpatchError
from ..finding.key_value import HealingPlaces, Place, Unhealable, healing_places
from ..model.bodies import Wiring, needed
from ..model.renaming import renamed
from ..names import first_run, second_run
from ..plan import PatchPlan, Static
from ..sites import Site
from ..subgraphs.gating import Branch, gate
from ..subgraphs.site import Replacement, SitePatch, detect_site, score_site
from .controls import body_controls
from .early_part import EarlyPart, early_part
from .joining import join
from .new_tokens import NewTokens, read_by, sources
from .second_pass import twin_site

__all__ = ["Healed", "add_healing", "detecting_sites", "not_healable", "places_of"]

_INSTEAD = "redistribute instead (--mend redistribute)"
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
    if plan.states and not found.states:
        return NOT_ADMITTED("healing: no output of the graph has the hidden states of its tokens", _INSTEAD)
    return found


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
    healed = [*places.places, *(Place(name) for name in places.states if plan.states)]
    by_maker: dict[int, list[Place]] = {}
    for index, node in enumerate(model.graph.node):
        here = [place for place in healed if place.value in node.output]
        if here:
            by_maker[index] = here
    detecting = detecting_sites(plan, sites)
    splits = splits and e.conditional and plan.span is None
    early = early_part(model.graph, places, [site.product for site in detecting]) if splits else None
    first = early.last if early else min(by_maker)
    probed = _probed(e, _Probe(model, plan, detecting, places.tokens, first, early))
    rows = e.unsqueeze(probed.source, 2)
    replacements = []
    if early is not None:
        early.add(e, probed.again, probed.handed, lambda inner: _healed(inner, model.graph, early, by_maker, rows))
        replacements += early.replacements(model.graph, e.nodes)
        e.nodes.clear()
    for index, here in by_maker.items():
        if early is None or index > early.last:
            _heal(e, model.graph.node[index], here, rows)
            replacements.append(Replacement(here[0].value, tuple(e.nodes)))
            e.nodes.clear()
    return Healed(replacements, probed.flags)


def _healed(
    e: Emitter, graph: onnx.GraphProto, early: EarlyPart, by_maker: Mapping[int, Sequence[Place]], rows: str
) -> dict[str, str]:
    """Emit the early part with healed keys and values under names of a second run; returns these."""
    names = {name: second_run(name) for index in early.nodes for name in graph.node[index].output if name}
    for index in early.nodes:
        twin = renamed(graph.node[index], lambda name: names.get(name, name), second_run)
        here = [replace(place, value=names[place.value]) for place in by_maker.get(index, ())]
        _heal(e, twin, here, rows)
    return names


def _heal(e: Emitter, node: onnx.NodeProto, places: Sequence[Place], rows: str) -> None:
    """Emit a node of the model and gather the rows of some of its outputs by `rows` (B, S, 1)."""
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    e.nodes.append(twin)
    for place in places:
        original = e.value("before")
        twin.output[list(twin.output).index(place.value)] = original
        if place.packed is None:
            e.op("GatherND", original, rows, batch_dims=1, role="healed")
        else:
            axis, bar = e.constant([place.packed.axis], np.int64), e.constant([place.packed.queries], np.int64)
            queries = e.op("Slice", original, e.constant([0], np.int64), bar, axis, role="queries")
            other = e.op("Slice", original, bar, e.constant([_TO_END], np.int64), axis, role="keys_and_values")
            healed = e.op("GatherND", other, rows, batch_dims=1, role="healed")
            e.op("Concat", queries, healed, axis=place.packed.axis, role="packed")
        e.nodes[-1].output[0] = place.value


@dataclass(frozen=True)
class _Probe:
    """What a probe is made of.

    Attributes:
        tokens: graph input (B, S, ...).
        first: index of the node in front of which it is emitted.
        early: the nodes that it runs; None: it copies all that its sites need.
    """

    model: onnx.ModelProto
    plan: PatchPlan
    detecting: Sequence[Site]
    tokens: str
    first: int
    early: EarlyPart | None


@dataclass(frozen=True)
class _Probed:
    """(B, S) int64 source, (B, S) bool flags; with an early part whether it has to run, and what the probe hands on."""

    source: str
    flags: str
    again: str = ""
    handed: Sequence[str] = ()


def _probed(e: Emitter, probe: _Probe) -> _Probed:
    """Emit the probe."""
    controls = body_controls(e, probe.plan)
    if not e.conditional:
        return _judged(e, probe)
    several = e.op("Greater", e.squeeze(e.dims(probe.tokens, 1, 2), 0), e.constant(1, np.int64), role="several_tokens")
    condition = several if controls.frozen else e.op("And", several, controls.enabled, role="judges")
    then, otherwise = e.branch(apart=True), e.branch(apart=True)
    judged = _judged(then, probe)
    nobody = otherwise.op("Expand", otherwise.constant(False, np.bool_), otherwise.dims(probe.tokens, 0, 2))
    results, others = [judged.source, judged.flags], [NewTokens(otherwise, probe.tokens).numbers, nobody]
    kinds, roles = [int(TensorProto.INT64), int(TensorProto.BOOL)], ["source", "columns"]
    if probe.early is not None:
        results += [judged.again, *judged.handed]
        others += [otherwise.op("Identity", otherwise.constant(True, np.bool_)), *probe.early.missing(otherwise)]
        kinds += [int(TensorProto.BOOL), *probe.early.handed.values()]
        roles += ["again", *["handed"] * len(judged.handed)]
    source, flags, *rest = [e.value(role) for role in roles]
    gate(e, condition, Branch(then, results, kinds), Branch(otherwise, others, kinds), [source, flags, *rest], "probe")
    return _Probed(source, flags, rest[0], rest[1:]) if rest else _Probed(source, flags)


def _judged(e: Emitter, probe: _Probe) -> _Probed:
    """Emit the copy of the model up to the detecting sites, and what follows from their flags."""
    model, plan, early = probe.model, probe.plan, probe.early
    copies, names = _copies(probe)
    wiring = Wiring(copies)
    # Where constants are nodes, those of the probe lie in it.
    pool = e.pool if model.ir_version >= 4 else ConstantPool(None, "constant/probe")
    shared: dict[str, str] = {}
    controls = body_controls(e, plan)
    inner = replace(controls, frozen=controls.frozen or e.conditional)
    patches: list[tuple[Site, SitePatch]] = []
    for site in probe.detecting:
        twin = replace(
            twin_site(site, lambda name: names.get(name, name)),
            product=names[site.product],
            quantizer=site.quantizer and names[site.quantizer],
        )
        own = Emitter(site.id, e.opset, pool, shared, conditional=e.conditional)
        site_plan = plan.sites[site.id]
        if plan.joint == "sum":
            patches.append((twin, score_site(own, twin, site_plan, wiring)))
        else:
            patches.append((twin, detect_site(own, twin, site_plan, inner, wiring)))
    by_output = {one.output: one.nodes for _, patch in patches for one in patch.replacements}
    spliced: list[onnx.NodeProto] = []
    for node in copies:
        spliced += next((by_output[name] for name in node.output if name in by_output), (node,))
    made = [(one.columns, one.companions, one.score, one.seen, one.valid) for _, one in patches]
    read = [name for names_ in made for name in names_ if name]
    lengths = [name for twin, _ in patches for name in read_by(twin, wiring.maker[twin.product])]
    handed = [names[name] for name in early.handed] if early else []
    e.nodes += needed(spliced, [*read, *lengths, *handed])
    here = NewTokens(e, probe.tokens)
    judged = [(site, here.of(site, wiring.maker[site.product], patch)) for site, patch in patches]
    flags = join(e, plan, [(site, patch) for site, (patch, _) in judged]).columns
    patch, first = judged[0][1]
    source = sources(e, here.numbers, flags, patch.valid, first)
    if early is None:
        return _Probed(source, flags)
    again = e.cast(e.peak(e.number(flags), 0, 1, keepdims=False), TensorProto.BOOL)
    return _Probed(source, flags, again, handed)


def _copies(probe: _Probe) -> tuple[list[onnx.NodeProto], dict[str, str]]:
    """The nodes behind the sites under names of a first run, and these names.

    Numbers that only depend on weights are read from the main graph if they are made before the node `first`. But a
    dequantized weight would keep runtimes from joining the operator with its product.
    """
    graph = probe.model.graph
    if probe.early is not None:
        nodes = [graph.node[index] for index in probe.early.nodes]
        names = {name: first_run(name) for node in nodes for name in node.output if name}
        return [renamed(node, lambda name: names.get(name, name), first_run) for node in nodes], names
    fixed = {tensor.name for tensor in graph.initializer} | {""}
    for node in graph.node[: probe.first]:
        alike = node.op_type == "Constant" or (node.input and fixed.issuperset(node.input))
        inner = any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute)
        if alike and not inner and node.op_type != "DequantizeLinear" and not node.op_type.startswith("Random"):
            fixed.update(node.output)
    names, copies = {}, []
    for node in needed(graph.node, [site.product for site in probe.detecting]):
        if fixed.issuperset(node.output):
            continue
        names.update({name: first_run(name) for name in node.output if name})
        copies.append(renamed(node, lambda name: names.get(name, name), first_run))
    return copies, names
