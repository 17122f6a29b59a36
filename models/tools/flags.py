"""What a patch flags in the rows of a subject, at any threshold; and a threshold for the trial."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.patching.apply import patch_model

from .apart import largest

if TYPE_CHECKING:
    from .trial import Form, Subject

__all__ = ["Watched", "by_row"]

_STEPS = 48


def by_row(masks: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
    """Flags of all sites side by side, (B, columns of all sites): telemetry outputs have the samples first."""
    return np.concatenate([mask.reshape(len(mask), -1) for mask in masks], axis=1)


class Watched:
    """The default form of a patch, with telemetry and with the threshold as an input."""

    def __init__(self, subject: Subject, form: Form, folder: Path) -> None:
        import onnxruntime as ort

        path = folder / "told.onnx"
        patch_model(subject.model, path, telemetry=True, **form.options)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self._live = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._outputs = sum(not value.name.startswith("atpatch_") for value in self._live.get_outputs())
        self._name, self._feeds, self._reach = f"{subject.name}, {form.name}", subject.feeds, form.reach
        self._original = self._run(form.silent)[: self._outputs]

    def flags(self, threshold: float) -> NDArray[np.bool_]:
        """See `by_row`."""
        return by_row(self._run(threshold)[self._outputs :])

    def _run(self, threshold: float) -> list[NDArray[Any]]:
        outputs: list[NDArray[Any]] = self._live.run(
            None, {**self._feeds, "atpatch_threshold": np.array(threshold, np.float32)}
        )
        return outputs

    def near(self, threshold: float, margin: float) -> NDArray[np.bool_]:
        """(B,): rows that are flagged otherwise at a threshold higher or lower by this share."""
        here = self.flags(threshold)
        return np.any(
            [(self.flags(threshold * factor) != here).any(1) for factor in (1 + margin, 1 / (1 + margin))], axis=0
        )

    def threshold(self) -> float:
        """One that flags some rows and not all, and changes outputs, as far as may be from one that flags other
        columns.

        A tool that rounds moves scores a little; near a score a flag would come and go.
        """
        grid = np.geomspace(*self._reach, _STEPS)
        seen = []
        for threshold in grid:
            made = self._run(float(threshold))
            flags = by_row(made[self._outputs :])
            rows = flags.any(1)
            changed = largest(made[: self._outputs], self._original) > 0
            seen.append(flags.tobytes() if rows.any() and not rows.all() and changed else None)
        first = best = (0, 0)
        for index in range(1, len(grid) + 1):
            if index == len(grid) or seen[index] != seen[first[0]]:
                first = (first[0], index)
                if seen[first[0]] is not None and first[1] - first[0] > best[1] - best[0]:
                    best = first
                first = (index, index)
        assert best[1] > best[0], f"{self._name}: no threshold flags some rows and not all, and changes them"
        return float(grid[(best[0] + best[1] - 1) // 2])
