"""When a patched run fails: for which samples the original answers instead, and the error where it may not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .arms import ArmFault, ArmName, Result
from .limits import Refusal
from .tensors import Array, finite_samples

__all__ = ["Unanswered", "refusal", "stand_in"]


class Unanswered(Exception):
    """An arm failed or raised an alarm, and no other may answer for it."""

    def __init__(self, arm: ArmName, fault: ArmFault) -> None:
        super().__init__(arm, fault)
        self.arm = arm
        self.fault = fault


def refusal(fault: ArmFault) -> Refusal:
    """The error for a client when no arm may answer: 400 for what the model refuses, 422 for an alarm, else 503."""
    if fault.reason == "alarm":
        samples = "samples" if "," in fault.message else "sample"
        return Refusal(422, f"the request is refused for the alarm of {samples} {fault.message}", code="alarm")
    if fault.reason == "error":
        return Refusal(400, f"the model refuses the input: {fault.message}")
    return Refusal(503, f"the model cannot answer now: {fault.reason}")


def stand_in(patched: Result, original: Result) -> Result | None:
    """The patched result, with the original's answer for the samples that are finite only in the original's outputs.

    Args:
        patched: with `finite` (B,).
        original: of the same request.

    Returns: None where no sample of the patched result is left, or where their outputs have different shapes.
    """
    assert patched.finite is not None
    samples = len(patched.finite)
    keep: Array = patched.finite | ~finite_samples(original.outputs, samples)
    pairs = {name: (array, original.outputs[name]) for name, array in patched.outputs.items()}
    if not keep.any() or any(one.shape != two.shape for one, two in pairs.values()):
        return None
    outputs = {name: _mix(keep, one, two) for name, (one, two) in pairs.items()}
    return replace(patched, outputs=outputs, finite=patched.finite | ~keep)


def _mix(keep: Array, patched: Array, original: Array) -> Array:
    """Rows of one or the other; an array whose first axis does not divide into samples stays the patched one."""
    if patched.ndim == 0 or patched.shape[0] % len(keep):
        return patched
    rows = np.repeat(keep, patched.shape[0] // len(keep))
    mixed = original.copy()
    mixed[rows] = patched[rows]
    return mixed
