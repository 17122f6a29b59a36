"""Writes what heals: into the main graph, or into both branches of a merged decoder.

A merged decoder is split, so that its early parts (`early_part`) run once where nothing is flagged. All lies one level
below the main graph, where onnxruntime packs the weights of products:

1. A probe for each branch, the branch without a past first. Each judges if its branch runs, and hands on what the one
   before has found if not.
2. An early part for each branch in the same way. It runs if its branch does, and a token is flagged or nothing was
   judged.
3. The old `If` with the rest of both branches.
4. An output of the graph that both early parts make, such as a cache of an early layer, comes from the early part with
   a past: it runs last, so a step of generation copies no cache. What only one of them makes is copied in the old `If`.

Where a branch has no early part, or one that writes a cache in place, each branch is healed as a model of its own, and
every prompt pays for the probe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import onnx
from onnx import TensorProto, helper

from ..checks import opset_of
from ..emit import ConstantPool, Emitter
from ..finding.cache_branches import CacheBranch
from ..finding.key_value import Place
from ..model.bodies import needed, outputs_of, reads
from ..model.renaming import renamed
from ..names import make_name
from ..sites import Site
from ..subgraphs.gating import Replacement
from .early_part import EarlyPart, early_part
from .edits import apply, refill
from .healed_bodies import HealedBody
from .healing import Healed, add_healing, detecting_sites, heal_early, heal_node, places_by_value
from .probe import Probe, Probed, add_probe
from .qdq_barrier import shield

__all__ = ["add_healing_to"]

_FLAGS = make_name("healing", "columns_of_branch")


def add_healing_to(model: onnx.ModelProto, bodies: Sequence[HealedBody], pool: ConstantPool) -> Healed:
    """Heal a model in its bodies, which the graph admits."""
    first = bodies[0]
    if first.branch is None:
        assert first.places is not None
        return add_healing(model, first.plan, first.sites, first.places, pool)
    node = onnx.NodeProto()
    node.CopyFrom(model.graph.node[first.branch.where[0][0]])
    if (parts := _parts(model, bodies)) is not None:
        return _add_split(model, node, parts, pool)
    for body in bodies:
        own = pool if model.ir_version >= 4 else ConstantPool(None, f"constant/{body.branch and body.branch.attribute}")
        _heal_apart(node, body, own)
    node.output.append(_FLAGS)
    return Healed([Replacement(node.output[0], (node,))], _FLAGS)


def _heal_apart(node: onnx.NodeProto, body: HealedBody, pool: ConstantPool) -> None:
    """Put the branch, healed as a model of its own, into the `If`, with its flags as a further output."""
    branch, places = body.branch, body.places
    assert branch is not None and places is not None
    made = add_healing(body.model, body.plan, body.sites, places, pool, splits=False)
    healed = onnx.ModelProto()
    healed.CopyFrom(body.model)
    shielded, _ = shield(healed.graph.node, made.replacements, [])
    apply(healed, {(): shielded}, [])
    graph = _graph(node, branch)
    refill(graph.node, healed.graph.node[branch.ahead :])
    graph.output.append(helper.make_tensor_value_info(made.flags, TensorProto.BOOL, None))


def _graph(node: onnx.NodeProto, branch: CacheBranch) -> onnx.GraphProto:
    """The branch in the `If`."""
    found: onnx.GraphProto = next(one.g for one in node.attribute if one.name == branch.attribute)
    return found


@dataclass(frozen=True)
class _Part:
    """A branch that is split.

    Attributes:
        tokens: graph input (B, S, ...).
        healed: name of a value → how it is healed.
    """

    body: HealedBody
    branch: CacheBranch
    early: EarlyPart
    tokens: str
    healed: Mapping[str, Place]

    @property
    def detecting(self) -> list[Site]:
        return detecting_sites(self.body.plan, self.body.sites)


def _parts(model: onnx.ModelProto, bodies: Sequence[HealedBody]) -> list[_Part] | None:
    """Both branches, the one without a past first; None where they stay whole."""
    plan = bodies[0].plan
    if plan.gating != "if" or plan.span is not None or model.ir_version < 4:
        return None
    parts = []
    for body in bodies:
        branch, places = body.branch, body.places
        assert branch is not None and places is not None
        last = [site.product for site in detecting_sites(body.plan, body.sites)]
        early = early_part(body.model.graph, places, last, branch.ahead)
        graph = _graph(model.graph.node[branch.ahead], branch)
        if early is None or early.writing or graph.sparse_initializer:
            return None
        early = replace(early, tensors=tuple(graph.initializer))
        parts.append(_Part(body, branch, early, places.tokens, places_by_value(body.plan, places)))
    alike = len({part.tokens for part in parts}) == 1
    return sorted(parts, key=lambda part: part.branch.attribute) if alike else None  # "else_branch" is without a past


def _add_split(model: onnx.ModelProto, node: onnx.NodeProto, parts: Sequence[_Part], pool: ConstantPool) -> Healed:
    """Write a merged decoder in parts."""
    e = Emitter("healing", opset_of(model, ()), pool, {})
    parts, lifted = _named(e, node, parts)
    runs = [e.op("Not", node.input[0], role="without_a_past"), node.input[0]]
    probed: Probed | None = None
    for part, condition in zip(parts, runs, strict=True):
        probe = Probe(part.body.model, part.body.plan, part.detecting, part.tokens, 0, part.early, condition)
        probed = add_probe(e, probe, probed)
    assert probed is not None
    rows = e.unsqueeze(probed.source, 2)
    held = dict(probed.handed)
    for part, condition in zip(parts, runs, strict=True):
        again = e.op("And", probed.again, condition, role="again")
        called = part.early.called
        # the part that runs last gives its name to what both make
        outputs = {called[name]: called[name] if part is parts[-1] else e.value("early") for name in part.early.leaving}
        healed = partial(heal_early, nodes=part.early.copied(part.body.model.graph), places=part.healed, rows=rows)
        part.early.add(e, again, held, [*outputs.values()], healed)
        held |= outputs
    for part in parts:
        _keep_late(e, node, part, held, lifted, rows)
    first = node.output[0]
    node.output[:] = [name for place, name in enumerate(node.output) if place not in lifted]
    return Healed([Replacement(first, (*e.nodes, node))], probed.flags)


def _named(e: Emitter, node: onnx.NodeProto, parts: Sequence[_Part]) -> tuple[list[_Part], set[int]]:
    """The parts with names for what leaves them, and the places of outputs that both make."""
    outputs = [outputs_of(part.body.model.graph) for part in parts]
    lifted = {
        place
        for place, names in enumerate(zip(*outputs, strict=True))
        if all(name in part.early.leaving for name, part in zip(names, parts, strict=True))
        and len({part.early.leaving[name] for name, part in zip(names, parts, strict=True)}) == 1
        and all(made.index(name) == place for name, made in zip(names, outputs, strict=True))
    }
    named = []
    for part, own in zip(parts, outputs, strict=True):
        common = {own[place]: node.output[place] for place in lifted}
        called = {name: common.get(name) or e.value("leaving") for name in part.early.leaving}
        named.append(replace(part, early=replace(part.early, called=called)))
    return named, lifted


def _keep_late(
    e: Emitter, node: onnx.NodeProto, part: _Part, held: Mapping[str, str], lifted: set[int], rows: str
) -> None:
    """Leave in the `If` what comes behind the early part of a branch."""
    early, gone, graph = part.early, {*part.early.nodes}, _graph(node, part.branch)
    names = {name: held[early.called[name]] for name in early.leaving}
    inner = e.branch(apart=True)
    for index, one in enumerate(graph.node, part.branch.ahead):
        if index not in gone:
            heal_node(inner, renamed(one, lambda name: names.get(name, name)), part.healed, rows)
    kept = [value for place, value in enumerate(graph.output) if place not in lifted]
    inner.nodes += [
        helper.make_node("Identity", [names[value.name]], [value.name], name=inner.value("kept"))
        for value in kept
        if value.name in names
    ]
    refill(graph.output, kept)
    refill(graph.node, needed(inner.nodes, outputs_of(graph)))
    read = {name for one in graph.node for name in reads(one)}
    refill(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in read])
