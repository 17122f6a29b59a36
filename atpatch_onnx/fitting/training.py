"""Detector and benign means for every site that fits the data, on one scale, so that one threshold serves all sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from rewriters.editing.row_claims import ShownRows
from rewriters.errors import AtpatchError
from rewriters.finding.cache_branches import MergedDecoder
from rewriters.finding.key_value import HealingPlaces
from rewriters.plan import PatchPlan, SitePlan, ValueNorms
from rewriters.sites import Site

from ..inference.capture import Capture, SiteBatch
from ..inference.datasets import DataSet, Ints
from ..inference.prediction import Served
from ..inference.reading import Classes, Reader
from .accumulators import BenignSums, Visibility
from .calibration import OperatingPoint, operating_point
from .options import Progress
from .recipes import Recipe
from .splits import Split

__all__ = [
    "Context",
    "TrainedSite",
    "anchor_sites",
    "batches",
    "observe_sites",
    "places",
    "stream",
    "train_observed",
    "train_sites",
]


@dataclass(frozen=True)
class Context:
    """What every step of a fit needs.

    Attributes:
        most_flagged: bound on the share of clean requests flagged anywhere.
        threads: of onnxruntime.
        every: of column means, see `Profile`.
        reader: how the answer is read off the output, of a causal decoder or an embedding.
        classes: made of that, where the output has no class scores.
        merged: where `model`, whose maps are read, is only the branch of a merged decoder that runs on prompts.
        mask: graph input that marks padding, where rows may be cut to their length (see `Runner.without_padding`).
    """

    model: onnx.ModelProto
    folder: Path
    data: DataSet
    parts: Split
    seed: int
    most_flagged: float
    threads: int | None
    progress: Progress
    mask: str | None = None
    every: int = 1
    norms: Mapping[str, ValueNorms] = field(default_factory=dict)
    reader: Reader | None = None
    classes: Classes | None = None
    merged: MergedDecoder | None = None

    @property
    def whole(self) -> onnx.ModelProto:
        """The model that is run, and that is to be patched."""
        return self.model if self.merged is None else self.merged.model

    @cached_property
    def rows(self) -> ShownRows:
        """Of `whole`, for all patches of a fit."""
        return ShownRows(self.whole)

    @property
    def columns(self) -> NDArray[np.bool_]:
        assert self.data.columns is not None  # `splitting.join` has seen to it
        return self.data.columns

    def serve(self, plan: PatchPlan, sites: Sequence[Site], output: str, places: HealingPlaces | None = None) -> Served:
        """A session on the graph patched by a plan; sites and places: of `model`."""
        merged = self.merged
        return Served(
            self.whole,
            self.folder,
            plan if merged is None else merged.spread(plan),
            sites if merged is None else merged.sites,
            output,
            self.threads,
            self.mask,
            self.reader,
            places if merged is None else None,
            self.classes,
            rows=self.rows,
            reported=len(plan.sites),
        )

    def labeled(self, rows: Ints, batch: SiteBatch) -> NDArray[np.bool_]:
        """(B, K): labels of some rows, as wide as their maps; columns beyond have no label."""
        return self.columns[rows, : batch.map.shape[3]]


@dataclass(frozen=True)
class TrainedSite:
    """A site with its plan, its operating point, and its peak logit on every row of the selection part (N,), -inf
    elsewhere.
    """

    site: Site
    plan: SitePlan
    point: OperatingPoint
    peaks: NDArray[np.float64]

    @property
    def by_place(self) -> bool:
        """Whether a column is the same place in every sample."""
        return not self.plan.benign.relative


def train_sites(context: Context, capture: Capture, recipe: Recipe) -> list[tuple[Site, SitePlan]]:
    """Both steps below.

    Raises:
        AtpatchError: ATP056 where the data do not admit the kind.
    """
    seen = observe_sites(context, capture, recipe)
    if isinstance(seen, AtpatchError):
        raise seen
    return train_observed(context, capture, recipe, seen)


def observe_sites(context: Context, capture: Capture, recipe: Recipe) -> dict[str, Visibility] | AtpatchError:
    """Hand the maps of the train part to the recipe; or the reason why the data do not admit its kind."""
    rows = context.parts.train.rows
    by_id = {site.id: site for site in capture.sites}
    seen = {site.id: Visibility(site) for site in capture.sites}
    # Asked before as well: the graph itself may rule a kind out, and maps take time.
    if (reason := recipe.unsuitable(places(capture, seen))) is not None:
        return reason

    def gather(name: str, batch: SiteBatch, chunk: Ints) -> None:
        recipe.observe(by_id[name], batch, context.labeled(chunk, batch))
        seen[name].add(batch)

    stream(context, capture, rows, "maps", gather)
    return recipe.unsuitable(places(capture, seen)) or seen


def train_observed(
    context: Context, capture: Capture, recipe: Recipe, seen: Mapping[str, Visibility]
) -> list[tuple[Site, SitePlan]]:
    """A detector for each site, and benign means of the clean rows of the train part."""
    by_place = places(capture, seen)
    benign = {site.id: BenignSums(site, by_place[site.id]) for site in capture.sites}
    stream(context, capture, context.parts.train.clean, "benign means", lambda name, batch, _: benign[name].add(batch))
    context.progress("training", 0, 1)
    detectors = recipe.train(by_place, lambda done, total: context.progress("training", done, total))
    context.progress("training", 1, 1)
    return [
        (site, SitePlan(detectors[site.id], benign[site.id].pair(), seen[site.id].every_row_sees_every_column))
        for site in capture.sites
    ]


def places(capture: Capture, seen: Mapping[str, Visibility]) -> dict[str, bool]:
    """Site id → a column is the same place in every sample: nothing is padded and the graph admits one shape."""
    return {
        site.id: capture.fixed_shape and site.key_mask is None and seen[site.id].no_padding for site in capture.sites
    }


def anchor_sites(
    context: Context, capture: Capture, recipe: Recipe, plans: Sequence[tuple[Site, SitePlan]]
) -> list[TrainedSite]:
    """One pass over the selection part: move the operating points of all sites to the same logit (see
    `operating_point`).
    """
    part = context.parts.selection
    by_id = {site.id: (site, plan.detector) for site, plan in plans}
    peaks = {name: np.full(len(context.data), -np.inf) for name in by_id}
    marked = {name: np.full(len(context.data), -np.inf) for name in by_id}
    beside = {name: np.full(len(context.data), -np.inf) for name in by_id}

    def score(name: str, batch: SiteBatch, chunk: Ints) -> None:
        logits = np.where(batch.valid, recipe.logits(*by_id[name], batch), -np.inf)
        peaks[name][chunk] = logits.max(1)
        labeled = context.labeled(chunk, batch)
        marked[name][chunk] = np.where(labeled, logits, -np.inf).max(1)
        beside[name][chunk] = np.where(labeled, -np.inf, logits).max(1)

    stream(context, capture, part.rows, "scores", score)
    trained = []
    for site, plan in plans:
        if recipe.always:
            trained.append(TrainedSite(site, plan, OperatingPoint(0.0, 1.0, 1.0), peaks[site.id]))
            continue
        point = operating_point(
            peaks[site.id][part.clean],
            marked[site.id][part.anomalous],
            context.most_flagged / len(plans),
            beside[site.id][part.anomalous],
        )
        moved = replace(plan, detector=recipe.anchored(plan.detector, point.center, point.scale))
        trained.append(TrainedSite(site, moved, point, (peaks[site.id] - point.center) * point.scale))
    return trained


def stream(
    context: Context, capture: Capture, rows: Ints, step: str, use: Callable[[str, SiteBatch, Ints], Any]
) -> None:
    """Call `use` with every batch of every site: the site's id, the batch, the row numbers."""
    for chunk, sites in batches(context, capture, rows, step):
        for name, batch in sites.items():
            use(name, batch, chunk)


def batches(
    context: Context, capture: Capture, rows: Ints, step: str
) -> Iterator[tuple[Ints, Mapping[str, SiteBatch]]]:
    """Row numbers and the batches of all sites, with progress."""
    done = 0
    context.progress(step, 0, len(rows))
    for chunk, sites in capture.batches(context.data, rows):
        yield chunk, sites
        done += len(chunk)
        context.progress(step, done, len(rows))
