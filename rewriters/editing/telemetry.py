"""Optional outputs with the flags: `atpatch_flagged` (B, sites) and `atpatch_columns/<site>` (B', K), both bool; and
`atpatch_length_unseen` (B,) bool, where the plan knows the lengths of requests that calibration has seen.

B' is B, or B times the number of windows where a map's first axis counts windows too. Sites inside subgraphs and
functions get no outputs and are left out; they are patched nevertheless. Those of a merged decoder that is healed get
outputs, since its `If` hands their flags on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..checks import opset_of
from ..emit import ConstantPool, Emitter
from ..finding.hidden_states import HiddenState
from ..names import FLAGGED, LENGTH_UNSEEN, columns_output
from ..plan import PatchPlan
from ..sites import Site
from .alarm import add_alarm

__all__ = ["LENGTHS", "add_outputs", "add_telemetry", "telemetry_facts"]

ALARMED = "alarm"
"""Stamp key: ids of the sites whose hidden states the alarm reads."""

LENGTHS = "lengths"
"""Stamp key: the shortest and the longest request that calibration has seen, and the input that masks padding."""


def add_outputs(
    model: onnx.ModelProto,
    plan: PatchPlan,
    sites: Sequence[Site],
    columns: Mapping[str, str],
    states: Mapping[str, HiddenState],
    pool: ConstantPool,
) -> list[onnx.NodeProto]:
    """Declare all outputs of a plan and return the nodes to append to the main graph.

    Args:
        columns: id of a patched site → its mask (B', K) in the main graph.
        states: of the plan's alarm, see `alarm.alarm_states`.
    """
    alarm = [] if plan.alarm is None else add_alarm(model, plan, plan.alarm, states, sites, pool)
    if not plan.telemetry:
        return alarm
    patched = [(site.id, columns[site.id]) for site in sites if site.id in columns]
    nodes = add_telemetry(model, patched, pool, plan.gating == "if", plan.groups)
    mask = mask_of_lengths(plan, sites)
    if plan.lengths is not None and mask is not None:
        nodes += add_length_warning(model, plan.lengths, mask, pool, plan.gating == "if")
    return nodes + alarm


def add_telemetry(
    model: onnx.ModelProto,
    columns: Sequence[tuple[str, str]],
    pool: ConstantPool,
    conditional: bool = True,
    groups: Sequence[Sequence[str]] = (),
) -> list[onnx.NodeProto]:
    """Declare the outputs and return the nodes to append to the main graph; `columns` are pairs of a site's id and its
    mask (B', K), one at least.

    Args:
        groups: ids of sites whose columns are the same tokens, so that B' is the same.
    """
    e = Emitter("telemetry", opset_of(model, ()), pool, {}, conditional=conditional)
    weights = {tensor.name for tensor in model.graph.initializer}
    requested = [value for value in model.graph.input if value.name not in weights]
    request = next((value.name for value in requested if not _is_scalar(value)), requested[0].name)
    batch = e.dims(request, 0, 1)
    for site, mask in columns:
        e.nodes.append(helper.make_node("Identity", [mask], [columns_output(site)], name=e.value("columns")))
        model.graph.output.append(helper.make_tensor_value_info(columns_output(site), TensorProto.BOOL, [None, None]))
    together = _together([site for site, _ in columns], groups)
    flags = [_flags(e, [columns[place][1] for place in places], batch) for places in together]
    joined = flags[0] if len(flags) == 1 else e.op("Concat", *flags, axis=1)
    order = [place for places in together for place in places]
    if order != sorted(order):
        joined = e.op("Gather", joined, e.constant(np.argsort(order), np.int64), axis=1)
    e.op("Greater", joined, e.constant(0.5))
    e.nodes[-1].output[0] = FLAGGED
    model.graph.output.append(helper.make_tensor_value_info(FLAGGED, TensorProto.BOOL, [None, len(columns)]))
    return e.nodes


def _together(sites: Sequence[str], groups: Sequence[Sequence[str]]) -> list[list[int]]:
    """Places of sites whose masks have one shape, set by set."""
    found: dict[int | str, list[int]] = {}
    for place, site in enumerate(sites):
        group = next((number for number, group in enumerate(groups) if site in group), None)
        found.setdefault(site if group is None else group, []).append(place)
    return [*found.values()]


def _flags(e: Emitter, masks: Sequence[str], batch: str) -> str:
    """(B, masks) float32, above 0 where a sample has a flagged column; masks: (B', K) bool."""

    def any_column(mask: str) -> str:
        return e.once(f"any column:{mask}", lambda: e.peak(e.number(mask), 1))

    per_map = [any_column(mask) for mask in masks]
    whole = per_map[0] if len(masks) == 1 else e.op("Concat", *per_map, axis=1)
    return e.peak(e.reshape(whole, _samples(e, whole, batch), -1, len(masks)), 1, keepdims=False)


def mask_of_lengths(plan: PatchPlan, sites: Sequence[Site]) -> str | None:
    """The graph input (B, K) whose valid columns are a request's length; None where sites differ or have no mask, or
    where no lengths are known.
    """
    chosen = [site for site in sites if site.id in plan.sites and (plan.mend == "heal" or not site.where)]
    masks = {site.key_mask for site in chosen}
    return masks.pop() if plan.lengths is not None and len(masks) == 1 else None


def telemetry_facts(plan: PatchPlan, sites: Sequence[Site]) -> dict[str, str]:
    """Facts for the stamp: the lengths that are known, and the sites whose states the alarm reads."""
    facts = {} if plan.alarm is None else {ALARMED: " ".join(layer.site for layer in plan.alarm.layers)}
    mask = mask_of_lengths(plan, sites)
    if plan.lengths is not None and mask is not None:
        shortest, longest = plan.lengths
        facts[LENGTHS] = json.dumps({"shortest": shortest, "longest": longest, "mask": mask})
    return facts


def add_length_warning(
    model: onnx.ModelProto, lengths: tuple[int, int], mask: str, pool: ConstantPool, conditional: bool = True
) -> list[onnx.NodeProto]:
    """Declare the output and return the nodes to append to the main graph; `mask`: graph input (B, K)."""
    e = Emitter("lengths", opset_of(model, ()), pool, {}, conditional=conditional)
    length = e.reduce("Sum", e.number(e.cast(mask, TensorProto.BOOL)), 1, keepdims=False, role="length")
    shorter = e.op("Less", length, e.constant(lengths[0] - 0.5))
    e.op("Or", shorter, e.op("Greater", length, e.constant(lengths[1] + 0.5)))
    e.nodes[-1].output[0] = LENGTH_UNSEEN
    model.graph.output.append(helper.make_tensor_value_info(LENGTH_UNSEEN, TensorProto.BOOL, [None]))
    return e.nodes


def _is_scalar(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and not tensor.shape.dim


def _samples(e: Emitter, per_map: str, batch: str) -> str:
    """B as a 1-D tensor: the batch of the request where it divides the maps (windows), else their own number."""
    maps = e.dims(per_map, 0, 1)
    whole = e.op("Equal", e.op("Mod", maps, batch), e.constant([0], np.int64))
    return e.op("Where", whole, batch, maps)
