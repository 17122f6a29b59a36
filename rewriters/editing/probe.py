"""The probe of a patch that heals: it computes the flags of a call before the first key is healed (see `healing`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import TensorProto

from ..emit import ConstantPool, Emitter
from ..model.bodies import Wiring, needed
from ..model.renaming import renamed
from ..names import first_run
from ..plan import PatchPlan
from ..sites import Site
from ..subgraphs.gating import Branch, gate
from ..subgraphs.site import SitePatch, detect_site, score_site
from .controls import body_controls
from .early_part import EarlyPart
from .joining import join
from .new_tokens import NewTokens, closed_up, read_by, sources, with_equal_ones
from .second_pass import twin_site

__all__ = ["Probe", "Probed", "add_probe"]


@dataclass(frozen=True)
class Probe:
    """What a probe is made of.

    Attributes:
        tokens: graph input (B, S, ...).
        first: index of the node in front of which it is emitted.
        early: the nodes that it runs; None: it copies all that its sites need.
        runs: bool, whether the model runs at all, which is a branch of a merged decoder; "": it does.
        hides: where tokens leave the call, the gap is to be hidden.
    """

    model: onnx.ModelProto
    plan: PatchPlan
    detecting: Sequence[Site]
    tokens: str
    first: int
    early: EarlyPart | None = None
    runs: str = ""
    hides: bool = False


@dataclass(frozen=True)
class Probed:
    """(B, S) int64 source, (B, S) bool flags, and if it hides `ClosedUp.counted`; with an early part whether it has to
    run, and what the probe hands on, by the names in the main graph.
    """

    source: str
    flags: str
    counted: str = ""
    again: str = ""
    handed: Mapping[str, str] = field(default_factory=dict)


def add_probe(e: Emitter, probe: Probe, before: Probed | None = None) -> Probed:
    """Emit the probe.

    Args:
        before: what an earlier probe has found, which stays where this one does not judge.
    """
    controls = body_controls(e, probe.plan)
    if not e.conditional:
        return _judged(e, probe)
    several = e.op("Greater", e.squeeze(e.dims(probe.tokens, 1, 2), 0), e.constant(1, np.int64), role="several_tokens")
    condition = several if controls.frozen else e.op("And", several, controls.enabled, role="judges")
    if probe.runs:
        condition = e.op("And", condition, probe.runs, role="judges")
    then, otherwise = e.branch(apart=True), e.branch(apart=True)
    judged, kept = _judged(then, probe), _not_judged(otherwise, probe, before)
    kinds, roles = [int(TensorProto.INT64), int(TensorProto.BOOL)], ["source", "columns"]
    if probe.hides:
        kinds, roles = [*kinds, int(TensorProto.INT64)], [*roles, "counted"]
    if probe.early is not None:
        kinds += [int(TensorProto.BOOL), *probe.early.handed.values()]
        roles += ["again", *["handed"] * len(judged.handed)]
    first, second = (
        Branch(inner, [*filter(None, [one.source, one.flags, one.counted, one.again]), *one.handed.values()], kinds)
        for inner, one in ((then, judged), (otherwise, kept))
    )
    source, flags, *rest = [e.value(role) for role in roles]
    gate(e, condition, first, second, [source, flags, *rest], "probe")
    counted = rest.pop(0) if probe.hides else ""
    again, *handed = rest or [""]
    earlier = {} if before is None else before.handed
    return Probed(source, flags, counted, again, {**earlier, **dict(zip(judged.handed, handed, strict=True))})


def _not_judged(e: Emitter, probe: Probe, before: Probed | None) -> Probed:
    """Emit what is known without this probe."""
    if before is None:
        flags = e.op("Expand", e.constant(False, np.bool_), e.dims(probe.tokens, 0, 2))
        source = NewTokens(e, probe.tokens).numbers
        again = e.op("Identity", e.constant(True, np.bool_)) if probe.early is not None else ""
        earlier: Mapping[str, str] = {}
    else:
        source, flags, again = (e.op("Identity", name) for name in (before.source, before.flags, before.again))
        earlier = before.handed
    counted = e.op("Identity", source) if probe.hides else ""
    return Probed(source, flags, counted, again, {} if probe.early is None else probe.early.without_probe(e, earlier))


def _judged(e: Emitter, probe: Probe) -> Probed:
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
    handed = {early.called[name]: names[name] for name in early.handed} if early else {}
    e.nodes += needed(spliced, [*read, *lengths, *handed.values()])
    here = NewTokens(e, probe.tokens)
    judged = [(site, here.of(site, wiring.maker[site.product], patch)) for site, patch in patches]
    flags = join(e, plan, [(site, patch) for site, (patch, _) in judged]).columns
    patch, first = judged[0][1]
    counted = ""
    if plan.closes_up:
        flags = with_equal_ones(e, flags, probe.tokens, patch.valid, first)
        closed = closed_up(e, here.numbers, flags, patch.valid)
        source, counted = closed.source, closed.counted(e, here.numbers) if probe.hides else ""
    else:
        source = sources(e, here.numbers, flags, patch.valid, first)
    if early is None:
        return Probed(source, flags, counted)
    again = e.cast(e.peak(e.number(flags), 0, 1, keepdims=False), TensorProto.BOOL)
    return Probed(source, flags, counted, again, handed)


def _copies(probe: Probe) -> tuple[list[onnx.NodeProto], dict[str, str]]:
    """The nodes behind the sites under names of a first run, and these names.

    Numbers that only depend on weights are read from the main graph if they are made before the node `first`. But a
    dequantized weight would keep runtimes from joining the operator with its product.
    """
    graph = probe.model.graph
    if probe.early is not None:
        nodes = probe.early.copied(graph)
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
