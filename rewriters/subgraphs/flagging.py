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
    score = scores(e, context, plan.detector)
    fixed = isinstance(plan.detector, Static)
    high = _above(e, score, 0.0 if fixed else 1.0, context, controls)
    if fixed or controls.companion == 1.0:
        return high, None
    return high, _above(e, score, controls.companion, context, controls)


def _above(e: Emitter, score: str, factor: float, context: MapContext, controls: Controls) -> str:
    """Where scores are above the threshold times a factor."""
    if not e.conditional:
        bar = _threshold(e, factor, controls)
        above = e.op("Greater", score, bar)
        above = above if context.valid is None else e.op("And", above, context.valid)
        return above if controls.frozen else e.op("And", above, controls.enabled, role="flags")
    return e.op("Greater", score, _bar(e, factor, context, controls), role="flags")


def _threshold(e: Emitter, factor: float, controls: Controls) -> str:
    if factor in (0.0, 1.0):
        return controls.threshold if factor else e.constant(0.0)
    return e.op("Mul", controls.threshold, e.constant(factor), role="companion_threshold")


def _bar(e: Emitter, factor: float, context: MapContext, controls: Controls) -> str:
    """The threshold, infinite at padding; once for all sites that have the same padding.

    Of small maps, whose detection is in no branch, it is also infinite while the patch is off.
    """

    def switched(body: Emitter) -> str:
        bar = _threshold(body, factor, controls)
        if controls.frozen or not context.small:
            return bar
        return body.op("Where", controls.enabled, bar, body.constant(np.inf), role="threshold")

    bar = e.ahead(f"threshold:{factor}:{context.small}", switched)
    valid = context.valid
    if valid is None:
        return bar
    return context.shared(
        e,
        f"bar:{factor}:{valid}",
        lambda body: body.op("Where", valid, bar, body.constant(np.inf), role="bar"),
    )


def with_companions(e: Emitter, columns: str, companions: str) -> str:
    """Columns (B, K), and in samples with a flagged column also the companions."""
    sample = e.op("Greater", e.peak(e.number(columns), 1), e.constant(0.5), role="flagged_sample")
    return e.op("Or", columns, e.op("And", companions, sample), role="all_columns")
