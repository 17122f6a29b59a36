"""Detector and benign means for every site that fits, brought to one scale so that a single threshold serves them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from rewriters.plan import Profile, SitePlan
from rewriters.sites import Site

from ..datasets import DataSet, Ints
from ..detectors.features import profile_features, profile_logits
from .calibrate import OperatingPoint, operating_point
from .capture import Capture, SiteBatch
from .gather import BenignSums, ColumnSample, Visibility
from .splitting import Split

__all__ = ["Context", "Progress", "TrainedSite", "anchor_sites", "train_sites"]

Progress = Callable[[str, int, int], None]
"""Called with the name of a step, how much of it is done, and how much there is."""

PROBES = (0,)
"""Query rows whose own attention is a feature: the first, [CLS] or its like, is where a classifier reads."""


@dataclass(frozen=True)
class Context:
    """What every step of a fit reads.

    Attributes:
        most_flagged: bound on the share of clean requests flagged anywhere.
        threads: of onnxruntime.
    """

    model: onnx.ModelProto
    folder: Path
    data: DataSet
    parts: Split
    seed: int
    most_flagged: float
    threads: int | None
    progress: Progress

    @property
    def columns(self) -> NDArray[np.bool_]:
        assert self.data.columns is not None  # `splitting.join` has seen to it
        return self.data.columns


@dataclass(frozen=True)
class TrainedSite:
    """A site with its plan, its operating point, and its peak logit on every row of the selection part (N,), -inf elsewhere."""

    site: Site
    plan: SitePlan
    point: OperatingPoint
    peaks: NDArray[np.float64]


def train_sites(context: Context, capture: Capture) -> list[tuple[Site, SitePlan]]:
    """Two passes over the train part: features of all rows, then benign means of the clean ones, whose form the first pass decides."""
    from ..detectors.profile import train_profile

    rows, keys = context.parts.train.rows, context.columns.shape[1]
    generators = [np.random.default_rng((context.seed, index)) for index in range(len(capture.sites))]
    samples = {site.id: ColumnSample(site, len(rows), keys, PROBES, generators[index]) for index, site in enumerate(capture.sites)}
    seen = {site.id: Visibility(site) for site in capture.sites}

    def gather(name: str, batch: SiteBatch, chunk: Ints) -> None:
        samples[name].add(batch, context.columns[chunk])
        seen[name].add(batch)

    _stream(context, capture, rows, "maps", gather)
    # A place means the same in every sample only where nothing is padded and the graph admits one shape.
    by_place = {site.id: capture.fixed_shape and site.key_mask is None and seen[site.id].no_padding for site in capture.sites}
    benign = {site.id: BenignSums(site, by_place[site.id]) for site in capture.sites}
    _stream(context, capture, context.parts.train.clean, "benign means", lambda name, batch, _: benign[name].add(batch))

    plans = []
    for index, site in enumerate(capture.sites):
        context.progress("training", index, len(capture.sites))
        seed = int(generators[index].integers(2**31))
        detector = train_profile(samples[site.id].columns(by_place=by_place[site.id]), probes=PROBES, seed=seed)
        plans.append((site, SitePlan(detector, benign[site.id].pair(), seen[site.id].every_row_sees_every_column)))
    context.progress("training", len(plans), len(plans))
    return plans


def anchor_sites(context: Context, capture: Capture, plans: Sequence[tuple[Site, SitePlan]]) -> list[TrainedSite]:
    """One pass over the selection part: bring every site's own operating point to one place (see `operating_point`)."""
    from ..detectors.profile import anchor

    part = context.parts.selection
    by_id = {site.id: (site, plan.detector) for site, plan in plans}
    peaks = {name: np.full(len(context.data), -np.inf) for name in by_id}
    marked = {name: np.full(len(context.data), -np.inf) for name in by_id}

    def score(name: str, batch: SiteBatch, chunk: Ints) -> None:
        site, detector = by_id[name]
        assert isinstance(detector, Profile)
        features = profile_features(batch.map, batch.valid, self_attention=site.self_attention, probes=detector.probes)
        logits = np.where(batch.valid, profile_logits(detector, features), -np.inf)
        peaks[name][chunk] = logits.max(1)
        marked[name][chunk] = np.where(context.columns[chunk], logits, -np.inf).max(1)

    _stream(context, capture, part.rows, "scores", score)
    trained = []
    for site, plan in plans:
        assert isinstance(plan.detector, Profile)
        point = operating_point(peaks[site.id][part.clean], marked[site.id][part.anomalous], context.most_flagged / len(plans))
        moved = replace(plan, detector=anchor(plan.detector, point.centre, point.scale))
        trained.append(TrainedSite(site, moved, point, (peaks[site.id] - point.centre) * point.scale))
    return trained


def _stream(context: Context, capture: Capture, rows: Ints, step: str, use: Callable[[str, SiteBatch, Ints], Any]) -> None:
    done = 0
    context.progress(step, 0, len(rows))
    for chunk, batches in capture.batches(context.data, rows):
        for name, batch in batches.items():
            use(name, batch, chunk)
        done += len(chunk)
        context.progress(step, done, len(rows))
