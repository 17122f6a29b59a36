"""Two passes: detect at every site, then run the flagged samples again with redistribution at every site.

If an early site does the damage and only a late site shows it, a patch that works site by site comes too late (the
paper's Algorithm 1 takes all maps first, too). In the graph:

1. The model runs unchanged; each joined site only computes its column mask.
2. Masks of sites whose key axis means the same tokens are joined: a column flagged at one is flagged at all of them.
   With `joint = "sum"` sites add up their scores instead, and the threshold is for the sum. `most` then limits the
   number of columns of one sample.
3. `If` a sample is flagged anywhere, a second copy of the model's nodes inside the branch (initializers shared) runs
   only on the flagged samples. It redistributes the joined columns at every joined site, and its rows replace theirs in
   the outputs. With `mend = "excise"` it runs on the request without those tokens instead (see `excision`). Without a
   branch (`gating = "none"`) the second copy, from the first site on, runs in every request on all samples, and the
   outputs take the rows of flagged ones from it.
   With a `margin` a sample is flagged only where the first run is sure of its answer.
4. `accept = "flip"` replaces them only where the prediction (arg max of the first float output of rank 2) has changed.

Sites that are not joined keep their one-pass patch, in both runs. Inputs and outputs with a named first axis carry
the samples there. Unflagged samples are bit-identical to the original, except that an output which the model itself
reads too is no longer an output to onnxruntime's optimizer, which may fuse across it and round differently (about 1e-6
relative).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import onnx
from onnx import helper

from ..checks import opset_of
from ..emit import ConstantPool, Emitter
from ..model.bodies import Wiring, needed, outputs_of, reads
from ..model.renaming import mentions, renamed
from ..names import first_run, second_run
from ..plan import PatchPlan
from ..sites import Site
from ..subgraphs.gating import Branch, gate
from ..subgraphs.masked_scores import MaskedScores, masked_scores
from ..subgraphs.site import Replacement, SitePatch, redistribute_site
from .excision import TokenAxis, excise, in_order, tokens_of
from .joining import Joined, join
from .samples import carries_samples, prediction_output, requested, sample_outputs
from .wider_run import first_changed, predictions, stacked

__all__ = ["SecondPass", "add_second_pass", "twin_site"]


@dataclass(frozen=True)
class SecondPass:
    """All replacements of the main graph, the nodes to append to it, and the masks of sites without their own."""

    replacements: list[Replacement]
    appended: list[onnx.NodeProto]
    columns: dict[str, str]


def add_second_pass(
    model: onnx.ModelProto,
    plan: PatchPlan,
    first: Mapping[str, tuple[Site, SitePatch]],
    replacements: Sequence[Replacement],
    ahead: Emitter,
    pool: ConstantPool,
) -> SecondPass:
    """Make the second run and the gate around it.

    Args:
        first: joined sites by id, with their detection.
        replacements: of the main graph so far, the joined sites' detection among them.
        ahead: wrote what lies in front of the main graph.

    The graph admits the plan (see `admission`).
    """
    e = Emitter("two-pass", opset_of(model, ()), pool, ahead.written, conditional=plan.gating == "if")
    groups = [join(e, plan, [first[name] for name in group]) for group in plan.groups]
    outputs = sample_outputs(model)
    if plan.margin:
        sure = _sure(e, model, plan.margin, outputs)
        groups = [replace(one, columns=e.op("And", one.columns, sure, role="sure_columns")) for one in groups]
    flagged = [e.peak(e.number(group.columns), 1) for group in groups]
    sample = e.op("Greater", flagged[0] if len(flagged) == 1 else e.op("Sum", *flagged), e.constant(0.5), role="sample")

    if e.conditional:
        any_flagged = e.op(
            "Greater", e.peak(e.number(sample), 0, 1, keepdims=False), e.constant(0.5), role="any_sample"
        )
        then, otherwise = e.branch(apart=True), e.branch()
        results = _second_run(then, model, plan, groups, replacements, ahead.nodes, sample, outputs)
        kept = [otherwise.op("Identity", first_run(name)) for name in outputs]
        kinds = [int(value.type.tensor_type.elem_type) for value in model.graph.output if value.name in outputs]
        gate(e, any_flagged, Branch(then, results, kinds), Branch(otherwise, kept, kinds), outputs)
    else:
        for result, name in zip(
            _second_run(e, model, plan, groups, replacements, ahead.nodes, sample, outputs), outputs, strict=True
        ):
            e.nodes.append(helper.make_node("Identity", [result], [name], name=e.value("output")))
    made_here = {site.id: group.columns for group in groups for site in group.sites if not first[site.id][1].columns}
    return SecondPass(_set_aside(model, replacements, set(outputs)), e.nodes, made_here)


def _sure(e: Emitter, model: onnx.ModelProto, margin: float, outputs: Sequence[str]) -> str:
    """(B, 1) bool: samples whose highest class score is above the second highest by more than the margin."""
    name = prediction_output(model, outputs)
    assert name is not None  # the graph supports the plan
    scores = first_run(name)
    if any(one.name == name and one.type.tensor_type.elem_type != onnx.TensorProto.FLOAT for one in model.graph.output):
        scores = e.float(scores)
    highest, _ = e.top(scores, e.constant([2], np.int64), 1, "two_classes")
    first, second = (e.op("Gather", highest, e.constant([place], np.int64), axis=1) for place in (0, 1))
    return e.op("Greater", e.op("Sub", first, second), e.constant(margin), role="sure")


def _second_run(
    e: Emitter,
    model: onnx.ModelProto,
    plan: PatchPlan,
    groups: Sequence[Joined],
    replacements: Sequence[Replacement],
    ahead: Sequence[onnx.NodeProto],
    sample: str,
    outputs: Sequence[str],
) -> list[str]:
    """Emit the copy of the model; the outputs with the flagged samples' rows replaced.

    In a branch it runs only on those samples.
    """
    carried = [value.name for value in requested(model) if carries_samples(value)]
    rows, names, flagged = _asked(e, groups, carried, sample)
    columns = {site.product: (site, mask) for group, mask in flagged for site in group.sites}
    detection = {one.output: one.nodes for one in replacements if one.output not in columns}
    excision = None
    if plan.mend == "excise":
        axis = tokens_of(model, [group.sites for group in groups])
        assert isinstance(axis, TokenAxis)  # the graph supports the plan
        excision = excise(e, axis, flagged[0][1], {name: names.get(name, name) for name in carried})
        columns = {}
        names.update(excision.inputs)

    again = _made_again(e, model, plan, [site for site, _ in columns.values()])
    # only sites that are not joined read what lies ahead
    nodes = chain(ahead if detection else (), _copied(model, outputs, again.values()))

    def second(name: str) -> str:
        # A value that both runs share may be an output, which gets its name only at the gate.
        return names.get(name, first_run(name) if name in outputs else name)

    for node in nodes:
        if node.output and node.output[0] in columns:
            site, mask = columns[node.output[0]]
            twin = twin_site(site, second)
            # a fused operator may also make caches
            names.update({name: second_run(name) for name in node.output if name})
            copy, masked = renamed(node, second, second_run), _renamed_chain(again.get(site.id), second)
            redistribute_site(e, twin, plan.sites[site.id], mask, copy, names[site.product], masked)
            continue
        for piece in detection.get(next(filter(None, node.output)), (node,)):
            if any(name in names for name in reads(piece)):
                names.update({name: second_run(name) for name in piece.output if name})
                e.nodes.append(renamed(piece, second, second_run))
    if excision is not None:
        names.update({name: in_order(e, excision, names[name]) for name in excision.outputs if name in names})
    flip = prediction_output(model, outputs) if plan.accept == "flip" else None
    if plan.wider:
        names.update(first_changed(e, names, outputs, rows, flip))
    if rows is None:
        return _select_rows(e, model, outputs, names, sample, flip)
    return _replace_rows(e, outputs, names, rows, flip)


def _asked(
    e: Emitter, groups: Sequence[Joined], carried: Sequence[str], sample: str
) -> tuple[str | None, dict[str, str], list[tuple[Joined, str]]]:
    """Indices of the samples of the second run, None for all; inputs by name where they differ; columns by group."""
    names: dict[str, str] = {}
    flagged = [(group, group.columns) for group in groups]
    wider = [group.wider for group in groups if group.wider is not None]
    rows = None
    if e.conditional:
        rows = e.squeeze(e.op("NonZero", e.squeeze(sample, 1)), 0)
        flagged = [(group, e.op("Gather", columns, rows, axis=0)) for group, columns in flagged]
        wider = [e.op("Gather", columns, rows, axis=0) for columns in wider]
        asked = stacked(e, rows, rows) if wider else rows
        names = {name: e.op("Gather", name, asked, axis=0, role="input") for name in carried}
    elif wider:
        names = {name: stacked(e, name, name) for name in carried}
    if wider:
        flagged = [(group, stacked(e, columns, more)) for (group, columns), more in zip(flagged, wider, strict=True)]
    return rows, names, flagged


def _made_again(e: Emitter, model: onnx.ModelProto, plan: PatchPlan, sites: Sequence[Site]) -> dict[str, MaskedScores]:
    """Sites whose map the second run makes without the flagged columns in the first place."""
    wiring = Wiring(model.graph.node, outputs_of(model.graph))
    found = {site.id: masked_scores(e, site, plan.sites[site.id], wiring) for site in sites}
    return {name: masked for name, masked in found.items() if masked is not None}


def _copied(model: onnx.ModelProto, outputs: Sequence[str], again: Iterable[MaskedScores]) -> Iterator[onnx.NodeProto]:
    """The nodes that outputs need, but for those of maps that are made in another way."""
    unread = {node.output[0] for masked in again if masked.alone for node in masked.chain}
    return (node for node in needed(model.graph.node, outputs) if unread.isdisjoint(node.output))


def _renamed_chain(masked: MaskedScores | None, second: Callable[[str], str]) -> MaskedScores | None:
    """The same in the second run."""
    return masked and replace(masked, chain=tuple(renamed(node, second, second_run) for node in masked.chain))


def twin_site(site: Site, second: Callable[[str], str]) -> Site:
    """The site in the second run; `second`: value of the first run → the same of the second."""
    return replace(
        site,
        probabilities=second(site.probabilities),
        values=second(site.values),
        key_mask=None if site.key_mask is None else second(site.key_mask),
        map_scale=site.map_scale and (second(site.map_scale[0]), second(site.map_scale[1])),
        values_scale=site.values_scale and (second(site.values_scale[0]), second(site.values_scale[1])),
    )


def _select_rows(
    e: Emitter, model: onnx.ModelProto, outputs: Sequence[str], names: Mapping[str, str], sample: str, flip: str | None
) -> list[str]:
    """Join two runs that both hold all samples; `sample` (B, 1) bool: whose rows come from the second.

    `flip`: see `_replace_rows`.
    """
    if flip is not None:
        sample = e.op("And", sample, e.unsqueeze(_flipped(e, first_run(flip), names.get(flip, first_run(flip))), 1))
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.output}
    results = []
    for name in outputs:
        if name not in names:
            results.append(first_run(name))
            continue
        taken = (
            e.squeeze(sample, 1)
            if ranks[name] == 1
            else e.unsqueeze(sample, *range(2, ranks[name]))
            if ranks[name] > 2
            else sample
        )
        results.append(e.op("Where", taken, names[name], first_run(name), role="output"))
    return results


def _flipped(e: Emitter, before: str, after: str) -> str:
    """(B,) bool: samples whose prediction differs between scores (B, classes)."""
    return e.op("Not", e.op("Equal", predictions(e, before), predictions(e, after)), role="flipped")


def _replace_rows(
    e: Emitter, outputs: Sequence[str], names: Mapping[str, str], rows: str, flip: str | None
) -> list[str]:
    """Join the runs where the second holds only the flagged samples; `rows` are their indices.

    Args:
        flip: output whose prediction has to change for a row to be replaced; None: all are.
    """
    changed = None
    if flip is not None:
        changed = _flipped(e, e.op("Gather", first_run(flip), rows, axis=0), names[flip])
        rows = e.op("Compress", rows, changed, axis=0)
    results = []
    for name in outputs:
        if name not in names:
            results.append(e.op("Identity", first_run(name)))
            continue
        new = names[name] if changed is None else e.op("Compress", names[name], changed, axis=0)
        results.append(e.op("ScatterND", first_run(name), e.unsqueeze(rows, 1), new, role="output"))
    return results


def _set_aside(model: onnx.ModelProto, replacements: Sequence[Replacement], outputs: set[str]) -> list[Replacement]:
    """Rename the first run's outputs, so that the gate can make values of their names."""
    by_output = {replacement.output: replacement for replacement in replacements}
    renamings = []
    for node in model.graph.node:
        found = next((by_output.pop(name) for name in node.output if name in by_output), None)
        pieces = found.nodes if found else (node,)
        if any(mentions(piece, outputs) for piece in pieces):
            pieces = tuple(
                renamed(piece, lambda name: first_run(name) if name in outputs else name) for piece in pieces
            )
        elif found is None:
            continue
        renamings.append(Replacement(found.output if found else next(filter(None, node.output)), pieces))
    return renamings
