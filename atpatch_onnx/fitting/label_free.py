"""Fit on clean rows only. No trigger is known, so the fit learns what clean maps look like, and the threshold follows
from a share of clean requests.

In two passes the sites of a group decide together, by the sum of their scores (`PatchPlan.joint`). Where tokens move,
only the later half of the sites detects: over-attention to a moving trigger shows late, and early sites point at rare
words. The benign pair is the clean mean of attention and values, which hardly harms a request that is flagged by
mistake.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rewriters.choices import Passes
from rewriters.editing.admission import not_admitted
from rewriters.plan import Detector, OneClass, PatchPlan, SitePlan, Static, Statistic

from ..hotfix.evidence import Calibration
from ..inference.capture import Capture, SiteBatch
from ..inference.datasets import Ints
from ..inference.prediction import Served
from .accumulators import BenignSums, Visibility, content_columns
from .detectors.features import profile_features, statistic_scores
from .detectors.oneclass import Moments, describe, in_nats, surprise, tail
from .fitted import Fitted, spread
from .judge import rate
from .passes import Wanted
from .recipes import PROBES
from .training import Context, places, stream

__all__ = ["fit_label_free"]

ROUNDING = 1e-4
"""Relative; float32 leaves differences of large features with four digits."""

SINKS = (0, -1)
"""[CLS] and [SEP], BOS and EOS: where sequences vary in length, their first and last tokens always draw attention."""


def fit_label_free(context: Context, capture: Capture, kind: str, output: str, wanted: Wanted) -> Fitted:
    """Describe clean columns, and set the threshold on the selection part.

    Args:
        kind: one of `detectors.LABEL_FREE`.
        output: graph output whose argmax is the prediction.
        wanted: passes "auto" means two where the graph admits them. mend "auto" means redistribute, since no row
            shows that excision does better.

    Raises:
        AtpatchError: ATP023 where two passes or excision are asked for and the graph does not admit them.
    """
    fitting = _Fitting(context, capture, kind)
    if wanted.passes == "auto":
        two = wanted.mend == "excise" or fitting.admits_two_passes(wanted)
        return fitting.run(output, "two" if two else "one", wanted)
    return fitting.run(output, wanted.passes, wanted)


class _Fitting:
    def __init__(self, context: Context, capture: Capture, kind: str) -> None:
        self._context, self._capture = context, capture
        self._sites = {site.id: site for site in capture.sites}
        seen = {site.id: Visibility(site) for site in capture.sites}
        train = context.parts.train.clean
        stream(context, capture, train, "maps", lambda name, batch, _: seen[name].add(batch))
        self._by_place = places(capture, seen)
        benign = {site.id: BenignSums(site, self._by_place[site.id]) for site in capture.sites}
        moments: dict[str, Moments] = {}

        def gather(name: str, batch: SiteBatch, _: Ints) -> None:
            benign[name].add(batch)
            if kind == "oneclass":
                features = self._features(name, batch)
                places = features.shape[1] if self._by_place[name] else None
                moments.setdefault(name, Moments(places, features.shape[2])).add(features, self._scored(name, batch))

        stream(context, capture, train, "clean columns", gather)
        self._detectors: dict[str, Detector] = {name: self._described(name, kind, moments) for name in self._sites}
        self._scores = self._score()
        self._plans = {
            name: SitePlan(self._detectors[name], benign[name].pair(), seen[name].every_row_sees_every_column)
            for name in self._sites
        }

    def admits_two_passes(self, wanted: Wanted) -> bool:
        sites = [*self._sites.values()]
        return not_admitted(self._context.model, self._plan("two", wanted), sites) is None

    def run(self, output: str, passes: Passes, wanted: Wanted) -> Fitted:
        context, chosen = self._context, self._detecting()
        plan = self._plan(passes, wanted)
        peaks, clean = self._peaks(plan), context.parts.selection.clean
        sites = [self._sites[name] for name in plan.sites]
        served = Served(context.model, context.folder, plan, sites, output, context.threads, context.mask)
        skipped = {name: "moving triggers show late" for name in self._sites if name not in plan.sites}
        calibration: Calibration = {
            "clean_flagged": rate(peaks[clean] > plan.threshold),
            "joint": plan.joint,
            "passes": {"chosen": passes},
        }
        scores = {name: {"clean": spread(self._scores[name].max(1)[clean])} for name in chosen}
        together = {"clean": spread(peaks[clean])} if plan.joint == "sum" else {}
        return Fitted(plan, served, 1.0, frozenset(chosen), skipped, calibration, scores, together=together)

    def _plan(self, passes: Passes, wanted: Wanted) -> PatchPlan:
        """The threshold leaves the allowed share of the selection part's clean requests above it."""
        context, chosen = self._context, self._detecting()
        joint = passes == "two" and all(isinstance(self._detectors[name], OneClass) for name in chosen)
        names = list(self._sites) if passes == "two" else chosen
        plan = PatchPlan(
            {
                name: plan if name in chosen else replace(plan, detector=Static())
                for name, plan in self._plans.items()
                if name in names
            },
            passes=passes,
            groups=(tuple(names),),
            joint="sum" if joint else "any",
            mend="excise" if wanted.mend == "excise" else "redistribute",
            accept=wanted.accepted("always"),
        )
        clean = context.parts.selection.clean
        bar = float(np.sort(self._peaks(plan)[clean])[::-1][math.floor(context.most_flagged * len(clean))])
        # A little above: scores in the graph come from float32 sums of another order than ours.
        return replace(plan, threshold=float(np.float32(bar + ROUNDING * (1 + abs(bar)))))

    def _peaks(self, plan: PatchPlan) -> NDArray[np.float64]:
        """The highest score of each row (N,), or the highest sum over the sites."""
        together = np.sum if plan.joint == "sum" else np.max
        peaks: NDArray[np.float64] = together([self._scores[name] for name in self._detecting()], axis=0).max(1)
        return peaks

    def _described(self, name: str, kind: str, moments: Mapping[str, Moments]) -> Detector:
        exempt = () if self._by_place[name] else SINKS
        if kind == "statistic":
            return Statistic(exempt)
        return replace(describe(moments[name], exempt=exempt, probes=PROBES), every=self._context.every)

    def _detecting(self) -> Sequence[str]:
        """Ids of the sites that detect, in graph order."""
        names = list(self._sites)
        if all(self._by_place.values()):
            return names
        return names[len(names) // 2 :]

    def _score(self) -> dict[str, NDArray[np.float64]]:
        """Site id → scores (N, K) of the clean rows of train and selection part, -inf elsewhere.

        Also rescales the detectors, so that their scores are in nats.
        """
        context, parts = self._context, self._context.parts
        rows = np.sort(np.concatenate([parts.train.clean, parts.selection.clean]))
        found: dict[str, list[tuple[Ints, NDArray[np.float64]]]] = {name: [] for name in self._sites}

        def score(name: str, batch: SiteBatch, chunk: Ints) -> None:
            found[name].append((chunk, np.where(self._scored(name, batch), self._raw(name, batch), -np.inf)))

        stream(context, self._capture, rows, "scores", score)
        raw = {name: _assembled(parts, len(context.data)) for name, parts in found.items()}
        for name, detector in self._detectors.items():
            if isinstance(detector, OneClass):
                seen = raw[name][parts.train.clean]
                start, rate = tail(seen[np.isfinite(seen)])
                raw[name] = np.where(np.isfinite(raw[name]), np.maximum((raw[name] - start) * rate, 0.0), -np.inf)
                self._detectors[name] = in_nats(detector, start, rate)
        return raw

    def _raw(self, name: str, batch: SiteBatch) -> NDArray[np.float64]:
        detector = self._detectors[name]
        if isinstance(detector, Statistic):
            return statistic_scores(detector, batch.map, batch.valid, self_attention=self._sites[name].self_attention)
        assert isinstance(detector, OneClass)
        return surprise(detector, self._features(name, batch), self._scored(name, batch))

    def _scored(self, name: str, batch: SiteBatch) -> NDArray[np.bool_]:
        return batch.valid if self._by_place[name] else content_columns(batch.valid)

    def _features(self, name: str, batch: SiteBatch) -> NDArray[np.float32]:
        self_attention = self._sites[name].self_attention
        return profile_features(
            batch.map, batch.valid, self_attention=self_attention, probes=PROBES, every=self._context.every
        )


def _assembled(parts: Sequence[tuple[Ints, NDArray[np.float64]]], rows: int) -> NDArray[np.float64]:
    """(N, K) of batches that may differ in width, -inf where there is no score."""
    whole = np.full((rows, max(scores.shape[1] for _, scores in parts)), -np.inf)
    for chunk, scores in parts:
        whole[chunk, : scores.shape[1]] = scores
    return whole
