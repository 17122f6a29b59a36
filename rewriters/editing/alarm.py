"""The alarm: outputs that say which requests have hidden states like those of known attacks.

`atpatch_alarm_score` (B,) float32 is the sum of what the layers say (see `plan.Alarm`), and `atpatch_alarm` (B,) bool
is true where it is above 0, or no finite number, and the patch is not turned off: nobody knows such states from clean
requests.

1. The states are found in this very model, site by site (`finding.hidden_states`). Where one is not shown, or has
   another width, the plan is refused.
2. Without a mask of padding, the mean over tokens is over all of them. With one, what a model computes at padding
   counts for nothing, even where that is no number: a row that sees only padding may have none.
3. A request whose mask has another number than 0 and 1 raises the alarm. Models differ in whether they read such a
   token; where one does not, it would be a way to fill up the mean without a change of the answer.
4. In two passes the states are those of the first run. Only reading nodes are added, so no other output changes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import onnx
from onnx import TensorProto, helper

from ..checks import opset_of
from ..emit import ConstantPool, Emitter
from ..errors import NOT_ADMITTED, PLAN_MISFIT, AtpatchError
from ..finding.hidden_states import HiddenState, hidden_states
from ..names import ALARM, ALARM_SCORE, ENABLED, first_run
from ..plan import Alarm, PatchPlan
from ..sites import Site
from .samples import sample_outputs

__all__ = ["add_alarm", "alarm_states", "pooled_states"]

_ODD = 1e6
"""The score of a request with an odd mask."""
_LEAST = 1e-6
"""Of a mask that differs from 0 and 1."""


def alarm_states(model: onnx.ModelProto, plan: PatchPlan) -> dict[str, HiddenState] | AtpatchError:
    """The state of each layer of a plan's alarm, nothing without one; ATP015 or ATP023 where the model lacks it."""
    if plan.alarm is None:
        return {}
    found = hidden_states(model)
    for layer in plan.alarm.layers:
        state = found.get(layer.site)
        if state is None:
            return NOT_ADMITTED(
                f"the graph does not prove which hidden state (samples, tokens, width) {layer.site} reads",
                "patch without the alarm",
            )
        if layer.weight.shape != (state.width,):
            return PLAN_MISFIT(f"alarm: the weight of {layer.site} does not fit a state of width {state.width}")
    return {layer.site: found[layer.site] for layer in plan.alarm.layers}


def pooled_states(
    model: onnx.ModelProto, sites: Sequence[Site], states: Mapping[str, HiddenState]
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A copy of the model with the mean of each state (B, D) float32 as a further output; site → its name.

    It is what an alarm reads, for those who fit one.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    e = Emitter("alarm", opset_of(made, ()), ConstantPool(None, "constant"), {})
    names = _means(e, states, sites, set())
    made.graph.node.extend(e.nodes)
    made.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names.values())
    return made, names


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
    means = _means(e, states, sites, aside)
    said = [e.op("MatMul", means[layer.site], e.constant(layer.weight), role="said") for layer in alarm.layers]
    score = e.op("Sum", *said, e.constant(alarm.bias), role="score")
    if (mask := _mask_of(states, sites)) is not None and not _is_bool(model, mask):
        given = e.float(mask)
        odd = e.op("Abs", e.op("Sub", given, e.number(e.cast(mask, TensorProto.BOOL))))
        # A NaN in the mask is neither above nor below anything.
        calm = e.op("Less", e.reduce("Sum", odd, 1, keepdims=False), e.constant(_LEAST))
        e.op("Where", calm, score, e.constant(_ODD))
    e.nodes[-1].output[0] = ALARM_SCORE
    unknown = e.op("IsNaN", e.op("Mul", ALARM_SCORE, e.constant(0.0)), role="unknown")  # infinity times 0 is NaN
    above = e.op("Or", e.op("Greater", ALARM_SCORE, e.constant(0.0)), unknown)
    if plan.controls != "none":
        e.op("And", above, ENABLED)
    e.nodes[-1].output[0] = ALARM
    for name, kind in ((ALARM, TensorProto.BOOL), (ALARM_SCORE, TensorProto.FLOAT)):
        model.graph.output.append(helper.make_tensor_value_info(name, kind, [None]))
    return e.nodes


def _mask_of(states: Mapping[str, HiddenState], sites: Sequence[Site]) -> str | None:
    """The graph input (B, K) that says which tokens are none of padding."""
    return next((site.key_mask for site in sites if site.id in states and site.key_mask), None)


def _is_bool(model: onnx.ModelProto, name: str) -> bool:
    return any(v.name == name and v.type.tensor_type.elem_type == TensorProto.BOOL for v in model.graph.input)


def _means(
    e: Emitter, states: Mapping[str, HiddenState], sites: Sequence[Site], aside: Collection[str]
) -> dict[str, str]:
    """Site → the mean of its state over valid tokens (B, D); `aside`: outputs whose first run has another name."""
    mask = _mask_of(states, sites)
    if mask is not None:
        shown = e.cast(mask, TensorProto.BOOL)
        valid, kept = e.number(shown), e.unsqueeze(shown, 2)
        shares = e.unsqueeze(e.op("Div", valid, e.at_least(e.reduce("Sum", valid, 1), 1.0), role="shares"), 1)
    means = {}
    for site, state in states.items():
        name = first_run(state.name) if state.name in aside else state.name
        tokens = name if state.dtype == TensorProto.FLOAT else e.float(name)
        if mask is None:
            mean = e.reduce("Mean", tokens, 1)
        else:
            tokens = e.op("Where", kept, tokens, e.constant(0.0), role="valid_tokens")
            mean = e.op("MatMul", shares, tokens, role="mean_token")
        means[site] = e.squeeze(mean, 1)
    return means
