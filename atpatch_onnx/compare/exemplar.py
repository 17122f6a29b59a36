"""One triggered sample followed through both models, beside its clean twin: scores and attention maps, site by site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from rewriters.plan import PatchPlan
from rewriters.sites import Site

from ..datasets import DataSet
from .attention import capture_maps, effective_map
from .trial import Trial

__all__ = ["Exemplar", "SiteView", "choose_row", "follow", "softmax"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SiteView:
    """Head means (Q, K) of one site, and the columns it flagged (K,).

    Attributes:
        clean, before: the original model on the clean twin and on the triggered sample.
        after: the patched model on the triggered sample, as `effective_map` gives it.
    """

    site: str
    clean: Floats
    before: Floats
    after: Floats
    flagged: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Exemplar:
    """Row of the triggered set, its true class, class probabilities (C,) and the views of all sites."""

    row: int
    label: int
    clean: Floats
    before: Floats
    after: Floats
    sites: tuple[SiteView, ...]


def choose_row(original: Trial, patched: Trial, triggered: DataSet) -> int:
    """The first triggered row that the original sends to the target and the patched model to its true class; 0 where there is none."""
    assert triggered.labels is not None
    fooled = original.triggered.argmax(1) == triggered.target
    rescued = fooled & (patched.triggered.argmax(1) == triggered.labels)
    return int(np.argmax(rescued))


def follow(
    models: tuple[onnx.ModelProto, onnx.ModelProto],
    folder: Path,
    sites: Sequence[Site],
    plan: PatchPlan,
    trials: tuple[Trial, Trial],
    data: tuple[DataSet, DataSet],
    row: int,
) -> Exemplar:
    """Capture everything about one row of the triggered set.

    Args:
        models, trials: original and patched (with telemetry).
        plan: what was patched in.
        data: clean and triggered set.
    """
    (original, patched), (before, after), (clean, triggered) = models, trials, data
    assert triggered.clean_row is not None and triggered.labels is not None
    twin, here = triggered.clean_row[[row]], np.array([row])
    calm = capture_maps(original, folder, sites, clean, twin)
    fooled = capture_maps(original, folder, sites, triggered, here)
    mended = capture_maps(patched, folder, sites, triggered, here)
    views = []
    for site in sites:
        maps, flagged = mended[site.id].probabilities[0], mended[site.id].flagged[0]
        if site.id in plan.sites:
            maps = effective_map(maps, flagged, plan.sites[site.id].benign)
        views.append(
            SiteView(
                site.id,
                clean=calm[site.id].probabilities[0].mean(0),
                before=fooled[site.id].probabilities[0].mean(0),
                after=maps.mean(0),
                flagged=flagged,
            )
        )
    return Exemplar(
        row,
        int(triggered.labels[row]),
        clean=softmax(before.clean[twin[0]]),
        before=softmax(before.triggered[row]),
        after=softmax(after.triggered[row]),
        sites=tuple(views),
    )


def softmax(scores: Floats) -> Floats:
    """Class probabilities from logits (..., C)."""
    shifted = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True), np.float32)
