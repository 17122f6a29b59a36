"""Detectors whose logits are added up over the sites in the graph (two passes, `joint = "sum"`): one detector for all
sites, or one per site, trained together.

Several sites may show together what none shows by itself. Three words that share a trigger's attention hardly stand out
at any one site, and a clean sample that stands out at one site does not at the others. The sum is calibrated, so no
site can be left out of it afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..inference.capture import Capture, SiteBatch
from ..inference.datasets import Ints
from .calibration import operating_point
from .recipes import Recipe
from .training import Context, TrainedSite, stream

__all__ = ["sites_together"]


def sites_together(
    context: Context, capture: Capture, recipe: Recipe, trained: Sequence[TrainedSite]
) -> list[TrainedSite]:
    """The sites with detectors whose sum has its operating point at 0. Each has the peaks of that sum. Empty where the
    kind has no sum.

    Args:
        recipe: has observed the train part.
        trained: the same sites with separate detectors.
    """
    by_place = {one.site.id: one.by_place for one in trained}
    detectors = recipe.train_together(by_place)
    if not detectors:
        return []
    sites = {one.site.id: one.site for one in trained}
    total = np.full(context.columns.shape, -np.inf)

    def score(name: str, batch: SiteBatch, chunk: Ints) -> None:
        width = batch.map.shape[3]
        logits = np.where(batch.valid, recipe.logits(sites[name], detectors[name], batch), -np.inf)
        before = 0.0 if name == trained[0].site.id else total[chunk, :width]
        total[chunk, :width] = before + logits

    part = context.parts.selection
    stream(context, capture, part.rows, "scores together", score)
    peaks, marked = total.max(1), np.where(context.columns, total, -np.inf).max(1)
    point = operating_point(peaks[part.clean], marked[part.anomalous], context.most_flagged)
    peaks = (peaks - point.center) * point.scale
    share = point.center / len(trained)
    return [
        replace(
            one,
            plan=replace(one.plan, detector=recipe.anchored(detectors[one.site.id], share, point.scale)),
            point=point,
            peaks=peaks,
        )
        for one in trained
    ]
