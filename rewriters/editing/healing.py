"""Healing: a flagged token of a decoder gets key and value of its neighbor, and everything else runs as it is.

1. *Probe.* Before the first key is healed, a copy of the nodes that the detecting sites need computes their scores,
   joined as in two passes. It lies in an `If` that is taken when a call has more than one new token, so a decoding step
   skips it. Weights are those of the main graph. Without branches (`gating = "none"`) it runs in every call.
2. Only new tokens are judged. The first valid token of a sequence, the attention sink of every decoder, is never
   flagged.
3. *Source* (B, S): for each new token the one whose key and value it gets. That is the token itself; for a flagged one
   the nearest valid token to the left in this call that is not flagged, else to the right, else itself.
4. The model runs once. At every place of `finding.key_value` the rows are gathered by the source, in front of rotary
   embeddings and caches. So caches carry healed rows, and later calls need nothing. With nothing flagged each row is
   gathered from its own place, which changes no bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto

from ..checks import opset_of
from ..emit import ConstantPool, Emitter
from ..errors import NOT_ADMITTED, AtpatchError
from ..finding.key_value import HealingPlaces, Place, Unhealable, healing_places
from ..model.bodies import Wiring, needed
from ..model.renaming import renamed
from ..names import second_run
from ..plan import PatchPlan, Static
from ..sites import Site
from ..subgraphs.gating import Branch, gate
from ..subgraphs.site import Replacement, SitePatch, detect_site, score_site
from .controls import body_controls
from .joining import join
from .new_tokens import NewTokens, read_by, sources
from .second_pass import twin_site

__all__ = ["Healed", "add_healing", "detecting_sites", "not_healable", "places_of"]

LEAST_OPSET = 12
"""First opset in which GatherND has batch axes."""

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


def places_of(model: onnx.ModelProto, plan: PatchPlan, sites: Sequence[Site]) -> HealingPlaces | AtpatchError:
    """Where to heal; the ATP023 to raise where the graph does not show it.

    Args:
        sites: all sites of the model.
    """
    if opset_of(model, ()) < LEAST_OPSET:
        return NOT_ADMITTED(f"healing needs opset {LEAST_OPSET} or later", _INSTEAD)
    detecting = [site.id for site in detecting_sites(plan, sites)]
    found = healing_places(model, detecting)
    if isinstance(found, Unhealable):
        return not_healable(found)
    if elsewhere := [name for name in detecting if name not in found.healed]:
        return NOT_ADMITTED(f"healing: the keys of {elsewhere[0]} are not of the same new tokens", _INSTEAD)
    if unknown := [name for name in detecting if name not in found.judged]:
        return NOT_ADMITTED(
            f"healing: the graph does not show which columns of {unknown[0]} are the new tokens",
            "detect at other sites (--exclude), or " + _INSTEAD,
        )
    return found


def not_healable(found: Unhealable) -> AtpatchError:
    """The ATP023 to raise where keys and values cannot be healed."""
    return NOT_ADMITTED(f"keys and values cannot be healed: {found.why}", _INSTEAD)


def add_healing(model: onnx.ModelProto, plan: PatchPlan, sites: Sequence[Site], pool: ConstantPool) -> Healed:
    """Make the probe and heal keys and values. The graph admits the plan (see `admission`).

    Args:
        sites: all sites of the model.
    """
    places = places_of(model, plan, sites)
    assert isinstance(places, HealingPlaces)
    e = Emitter("healing", opset_of(model, ()), pool, {}, conditional=plan.gating == "if")
    by_maker: dict[int, list[Place]] = {}
    for index, node in enumerate(model.graph.node):
        here = [place for place in places.places if place.value in node.output]
        if here:
            by_maker[index] = here
    first = min(by_maker)
    source, flags = _probed(e, model, plan, detecting_sites(plan, sites), places.tokens, first)
    rows = e.unsqueeze(source, 2)
    replacements = []
    for index, here in by_maker.items():
        _heal(e, model.graph.node[index], here, rows)
        replacements.append(Replacement(here[0].value, tuple(e.nodes)))
        e.nodes.clear()
    return Healed(replacements, flags)


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


def _probed(
    e: Emitter, model: onnx.ModelProto, plan: PatchPlan, detecting: Sequence[Site], tokens: str, first: int
) -> tuple[str, str]:
    """Emit the probe; (B, S) int64 source and (B, S) bool flags.

    Args:
        tokens: graph input (B, S, ...).
        first: index of the node in front of which it is emitted.
    """
    controls = body_controls(e, plan)
    if not e.conditional:
        return _judged(e, model, plan, detecting, tokens, first)
    several = e.op("Greater", e.squeeze(e.dims(tokens, 1, 2), 0), e.constant(1, np.int64), role="several_tokens")
    condition = several if controls.frozen else e.op("And", several, controls.enabled, role="judges")
    then, otherwise = e.branch(apart=True), e.branch(apart=True)
    results = list(_judged(then, model, plan, detecting, tokens, first))
    nobody = otherwise.op("Expand", otherwise.constant(False, np.bool_), otherwise.dims(tokens, 0, 2))
    kinds = [int(TensorProto.INT64), int(TensorProto.BOOL)]
    source, flags = e.value("source"), e.value("columns")
    own = [NewTokens(otherwise, tokens).numbers, nobody]
    gate(e, condition, Branch(then, results, kinds), Branch(otherwise, own, kinds), [source, flags], "probe")
    return source, flags


def _judged(
    e: Emitter, model: onnx.ModelProto, plan: PatchPlan, detecting: Sequence[Site], tokens: str, first: int
) -> tuple[str, str]:
    """Emit the copy of the model up to the detecting sites, and what follows from their flags."""
    copies, names = _copies(model, detecting, first)
    wiring = Wiring(copies)
    # Where constants are nodes, those of the probe lie in it.
    pool = e.pool if model.ir_version >= 4 else ConstantPool(None, "constant/probe")
    shared: dict[str, str] = {}
    controls = body_controls(e, plan)
    inner = replace(controls, frozen=controls.frozen or e.conditional)
    patches: list[tuple[Site, SitePatch]] = []
    for site in detecting:
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
    read = [
        name for _, patch in patches for name in (patch.columns, patch.companions, patch.score, patch.valid) if name
    ]
    lengths = [name for twin, _ in patches for name in read_by(twin, wiring.maker[twin.product])]
    e.nodes += needed(spliced, [*read, *lengths])
    here = NewTokens(e, tokens)
    judged = [(site, here.of(site, wiring.maker[site.product], patch)) for site, patch in patches]
    flags = join(e, plan, judged).columns
    return sources(e, here.numbers, flags, judged[0][1].valid), flags


def _copies(
    model: onnx.ModelProto, detecting: Sequence[Site], first: int
) -> tuple[list[onnx.NodeProto], dict[str, str]]:
    """The nodes behind the sites under names of a second run, and these names.

    Numbers that only depend on weights are read from the main graph if they are made before the node `first`. But a
    dequantized weight would keep runtimes from joining the operator with its product.
    """
    graph = model.graph
    fixed = {tensor.name for tensor in graph.initializer} | {""}
    for node in graph.node[:first]:
        alike = node.op_type == "Constant" or (node.input and fixed.issuperset(node.input))
        inner = any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute)
        if alike and not inner and node.op_type != "DequantizeLinear" and not node.op_type.startswith("Random"):
            fixed.update(node.output)
    names: dict[str, str] = {}
    copies = []
    for node in needed(graph.node, [site.product for site in detecting]):
        if fixed.issuperset(node.output):
            continue
        names.update({name: second_run(name) for name in node.output if name})
        copies.append(renamed(node, lambda name: names.get(name, name), second_run))
    return copies, names
