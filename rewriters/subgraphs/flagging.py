"""Which columns are flagged: scores above the threshold, while the patch is on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from ..emit import Emitter
from ..plan import SitePlan, Static
from .context import MapContext
from .detectors import scores
from .gating import Branch, gate

__all__ = ["Controls", "flag", "where_enabled", "with_companions"]


@dataclass(frozen=True)
class Controls:
    """Value names of the runtime controls in the current body: `enabled` bool, `threshold` float32, both 0-d.

    companion: see `PatchPlan`. frozen: both are constants, and the patch is on.
    """

    enabled: str
    threshold: str
    companion: float = 1.0
    frozen: bool = False


def where_enabled(
    e: Emitter, controls: Controls, context: MapContext, decide: Callable[[Emitter], list[str]], roles: tuple[str, ...]
) -> list[str]:
    """Emit `decide` in an If on `atpatch_enabled`: columns (B, K) bool, and a 0-d bool for the role "any_flagged".

    So a patch that is switched off costs almost nothing. There is another reason: onnxruntime plans the memory of a
    body once for all runs. Small values between large ones, above all long-lived ones, may stop the large ones from
    sharing memory, and the model's own nodes get slower (MiniLM-L6, 8 × 128, onnxruntime 1.32: by 3 %; one more small
    output does it to the original too). A branch has its own memory for them. Small maps have small values only, and
    there a branch costs more than it saves: the threshold is infinite where the patch is off.
    """
    if not e.conditional or controls.frozen or context.small:
        return decide(e)
    # Not on the control itself: there onnxscript's optimizer would treat its default as a constant, and leave an input
    # without a default.
    off = e.shared("off", lambda body: body.op("Not", controls.enabled, role="switched_off"))
    then, otherwise = e.branch(), e.branch()
    made = decide(then)
    # False; a constant in a branch is something that onnxruntime's optimizer would fold
    nothing = [
        otherwise.op("Not", off) if role == "any_flagged" else context.no_columns(otherwise)
        for role in roles[: len(made)]
    ]
    kinds = [int(TensorProto.BOOL)] * len(made)
    outputs = [e.value(role) for role in roles[: len(made)]]
    gate(e, off, Branch(otherwise, nothing, kinds), Branch(then, made, kinds), outputs, "detection")
    return outputs


def flag(e: Emitter, plan: SitePlan, context: MapContext, controls: Controls) -> tuple[str, str | None]:
    """(B, K) bool: the columns above the threshold, and those above the lower threshold."""
    fixed = isinstance(plan.detector, Static)
    threshold = e.constant(0.0) if fixed else _threshold(e, context, controls)
    score = scores(e, context, plan.detector)
    # Else a branch or the threshold switches the patch off.
    switched = not controls.frozen and (not e.conditional or (context.small and fixed))
    enabled = controls.enabled if switched else None
    high = _above(e, score, threshold, context, enabled)
    if fixed or controls.companion == 1.0:
        return high, None
    lower = e.op("Mul", threshold, e.constant(controls.companion), role="companion_threshold")
    return high, _above(e, score, lower, context, enabled)


def _threshold(e: Emitter, context: MapContext, controls: Controls) -> str:
    """The threshold; of small maps, whose detection is in no branch, an infinite one while the patch is off."""
    if controls.frozen or not (e.conditional and context.small):
        return controls.threshold

    def either(body: Emitter) -> str:
        return body.op("Where", controls.enabled, controls.threshold, body.constant(np.inf), role="threshold")

    return e.ahead("threshold", either)


def _above(e: Emitter, score: str, threshold: str, context: MapContext, enabled: str | None) -> str:
    above = e.op("Greater", score, threshold)
    if context.valid is not None:
        above = e.op("And", above, context.valid)
    return above if enabled is None else e.op("And", above, enabled, role="flags")


def with_companions(e: Emitter, columns: str, companions: str) -> str:
    """Columns (B, K), and in samples with a flagged column also the companions."""
    sample = e.op("Greater", e.peak(e.number(columns), 1), e.constant(0.5), role="flagged_sample")
    return e.op("Or", columns, e.op("And", companions, sample), role="all_columns")
