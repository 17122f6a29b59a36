"""The alarm: outputs that say which requests have hidden states unlike those of clean ones.

`atpatch_alarm_score` (B,) float32 is the sum over layers of the distance to the nearest class mean, and `atpatch_alarm`
(B,) bool is true where it is above 1 and the patch is not turned off.

1. The states are found in this very model, site by site (`finding.hidden_states`). Where one is not shown, or has
   another width, the plan is refused.
2. Without a mask of padding, the mean over tokens is over all of them.
3. In two passes the states are those of the first run. Only reading nodes are added, so no other output changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, helper

from ..checks import opset_of
from ..emit import ConstantPool, Emitter
from ..errors import NOT_ADMITTED, PLAN_MISFIT, AtpatchError
from ..finding.hidden_states import LAST, HiddenState, hidden_states
from ..names import ALARM, ALARM_SCORE, ENABLED, first_run
from ..plan import Alarm, PatchPlan
from ..sites import Site
from .samples import sample_outputs

__all__ = ["add_alarm", "alarm_states"]


def alarm_states(model: onnx.ModelProto, plan: PatchPlan) -> dict[str, HiddenState] | AtpatchError:
    """The state of each layer of a plan's alarm, nothing without one; ATP015 or ATP023 where the model lacks it."""
    if plan.alarm is None:
        return {}
    found = hidden_states(model)
    for layer in plan.alarm.layers:
        state = found.get(layer.site)
        if state is None:
            what = "its last hidden state" if layer.site == LAST else f"the hidden state that {layer.site} reads"
            return NOT_ADMITTED(f"the graph does not prove {what}, (samples, tokens, width)", "patch without the alarm")
        if layer.weight.ndim != 2 or layer.weight.shape[0] != state.width:
            return PLAN_MISFIT(f"alarm: the weight of {layer.site!r} does not fit states of width {state.width}")
    return {layer.site: found[layer.site] for layer in plan.alarm.layers}


def add_alarm(
    model: onnx.ModelProto,
    plan: PatchPlan,
    alarm: Alarm,
    states: Mapping[str, HiddenState],
    sites: Sequence[Site],
    pool: ConstantPool,
) -> list[onnx.NodeProto]:
    """Declare the outputs and return the nodes to append to the main graph.

    Args:
        states: of `alarm_states`.
        sites: of the model; their mask of padding is used.
    """
    e = Emitter("alarm", opset_of(model, ()), pool, {}, conditional=plan.gating == "if")
    aside = set(sample_outputs(model)) if plan.passes == "two" else set()
    mask = next((site.key_mask for site in sites if site.id in states and site.key_mask), None)
    shares = None if alarm.pool == "first" or mask is None else _shares(e, mask)
    distances = []
    for layer in alarm.layers:
        state = states[layer.site]
        pooled = _pooled(e, first_run(state.name) if state.name in aside else state.name, state, alarm, shares)
        there = e.op("MatMul", pooled, e.constant(layer.weight), role="whitened")
        away = e.op("Sub", e.unsqueeze(there, 1), e.constant(layer.means))
        distances.append(e.reduce("Min", e.reduce("L2", away, 2, keepdims=False), 1, keepdims=False, role="distance"))
    e.op("Sum", *distances)
    e.nodes[-1].output[0] = ALARM_SCORE
    above = e.op("Greater", ALARM_SCORE, e.constant(1.0))
    if plan.controls != "none":
        e.op("And", above, ENABLED)
    e.nodes[-1].output[0] = ALARM
    for name, kind in ((ALARM, TensorProto.BOOL), (ALARM_SCORE, TensorProto.FLOAT)):
        model.graph.output.append(helper.make_tensor_value_info(name, kind, [None]))
    return e.nodes


def _shares(e: Emitter, mask: str) -> str:
    """(B, 1, T): what each token counts in the mean over valid ones."""
    valid = e.number(e.cast(mask, TensorProto.BOOL))
    return e.unsqueeze(e.op("Div", valid, e.at_least(e.reduce("Sum", valid, 1), 1.0), role="shares"), 1)


def _pooled(e: Emitter, name: str, state: HiddenState, alarm: Alarm, shares: str | None) -> str:
    """(B, D) float32."""
    if alarm.pool == "first":
        name = e.op("Gather", name, e.constant(0, "int64"), axis=1, role="first_token")
    if state.dtype != TensorProto.FLOAT:
        name = e.float(name)
    if alarm.pool == "first":
        return name
    if shares is None:
        return e.reduce("Mean", name, 1, keepdims=False, role="mean_token")
    return e.squeeze(e.op("MatMul", shares, name, role="mean_token"), 1)
