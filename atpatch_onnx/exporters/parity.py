"""Compares the exported graph with torch, at other sizes than the traced ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PARITY_LOST
from ..inference.sessions import session
from .subject import Subject
from .tracing import evaluate

__all__ = ["TOLERANCES", "Parity", "compare"]

TOLERANCES = {"float32": 1e-4, "float16": 1e-2}
"""Dtype → largest difference allowed.

Half precision has 11 bits; a few layers lose some of them, in torch and in onnxruntime.
"""


@dataclass(frozen=True)
class Parity:
    """The difference of one output from torch, over all probes.

    Attributes:
        difference: largest absolute difference; infinite where shapes differ or only one side is not finite.
        scale: largest absolute value of torch's output.
    """

    difference: float
    scale: float

    def within(self, tolerance: float) -> bool:
        """Rounding errors grow with the values, so the tolerance is absolute up to a scale of 1 and relative above."""
        return self.difference <= tolerance * max(1.0, self.scale)


def compare(subject: Subject, path: Path) -> dict[str, Parity]:
    """Output name → parity.

    Raises:
        AtpatchError: ATP050 without onnxruntime, ATP052 where it does not load the graph, ATP073 where it fails at the
            sizes of a probe.
    """
    live = session(path, threads=1)
    import onnxruntime  # missing onnxruntime is reported by the session

    # An exporter drops inputs that nothing reads.
    known = {value.name for value in live.get_inputs()}
    silent = onnxruntime.RunOptions()
    silent.log_severity_level = 4  # it would print what the error below says
    worst = dict.fromkeys(subject.outputs, Parity(0.0, 0.0))
    for probe in subject.probes:
        feeds = subject.feeds(probe)
        expected = [tensor.numpy() for tensor in evaluate(subject, feeds)]
        try:
            found = live.run(
                list(subject.outputs), {name: array for name, array in feeds.arrays().items() if name in known}, silent
            )
        except Exception as error:  # onnxruntime's exception classes share no base of their own
            sizes = ", ".join(f"{label} {size}" for label, size in probe.sizes.items())
            words = " ".join(str(error).split())[:300]
            raise PARITY_LOST(
                f"onnxruntime fails on the graph at {sizes}: {words}",
                "try the other --exporter or --attention, or another --opset",
            ) from error
        for name, ours, theirs in zip(subject.outputs, found, expected, strict=True):
            difference, scale = _distance(ours, theirs)
            worst[name] = Parity(max(worst[name].difference, difference), max(worst[name].scale, scale))
    return worst


def _distance(ours: NDArray[Any], theirs: NDArray[Any]) -> tuple[float, float]:
    if ours.shape != theirs.shape:
        return float("inf"), 0.0
    left, right = ours.astype(np.float64), theirs.astype(np.float64)
    finite = np.isfinite(right)
    scale = float(np.abs(right[finite]).max(initial=0.0))
    # Infinities and NaN have to be the same ones.
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True) or not np.isfinite(left[finite]).all():
        return float("inf"), scale
    return float(np.abs(left[finite] - right[finite]).max(initial=0.0)), scale
