"""What columns of clean rows look like at each site, and how far each column of a row is from that.

Shape letters: N rows of the data set, B rows of a batch, K key columns, F features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rewriters.plan import Detector, NormDistance, OneClass, PatchPlan, SitePlan, Statistic, ValueNorms

from ..inference.capture import Capture, SiteBatch
from ..inference.datasets import Ints
from .accumulators import BenignSums, Visibility, content_columns
from .clean_levels import length_factors
from .detectors.features import norm_features, profile_features, statistic_scores
from .detectors.oneclass import STARTS, STARTS_AT_PLACE, Moments, describe, describe_norms, in_nats, surprise, tail
from .recipes import PROBES
from .token_ids import token_ids
from .training import Context, places, stream

__all__ = ["CleanColumns", "most_attacks"]

Scores = NDArray[np.float64]

SINKS = (0, -1)
"""[CLS] and [SEP], BOS and EOS: where sequences vary in length, their first and last tokens always draw attention."""
LATE = 2
"""Where tokens move, the later half of the sites detects. Early sites point at rare words, the last ones also at the
words that decide: with the last third, as many attacks are caught for twice as many changed answers (SST-2, six
sites, clean rows and random tokens).
"""
ROUNDS = 2
"""How often rows are set aside. Attacks widen what passes for clean, so the second choice is better than the first."""


def most_attacks(rows: int, share: float) -> int:
    """Rows to set aside where about this share are attacks: two standard errors more than the mean, since a part that
    is drawn may hold more than its share.
    """
    return min(rows, math.ceil(rows * share + 2 * math.sqrt(rows * share * (1 - share))))


class CleanColumns:
    """Learned on the train part's clean rows; scores of these and of the selection part's.

    Args:
        kind: one of `detectors.LABEL_FREE`.
        trim: share of the rows that may be attacks, see `FitOptions`.

    Attributes:
        plans: site id → detector and benign pair.
        scores: site id → scores (N, K), -inf at padding, at sinks and in other rows.
        detecting: ids of the sites that detect, in graph order.
        by_place: a column is the same place in every row.
        set_aside: rows of the train part that were taken for attacks.
    """

    def __init__(self, context: Context, capture: Capture, kind: str, trim: float = 0.0) -> None:
        self._context, self._capture, self._kind = context, capture, kind
        self._sites = {site.id: site for site in capture.sites}
        self._seen = {site.id: Visibility(site) for site in capture.sites}
        train, selection = context.parts.train.clean, context.parts.selection.clean
        stream(context, capture, train, "maps", lambda name, batch, _: self._seen[name].add(batch))
        self._by_place = places(capture, self._seen)
        names = list(self._sites)
        self._tokens = token_ids(context, capture) if kind == "oneclass" else None
        self.by_place = all(self._by_place.values())
        self.detecting = names if self.by_place else names[-math.ceil(len(names) / LATE) :]
        self.set_aside = train[:0]
        self._outlying: NDArray[np.bool_] | None = None
        for _ in range(ROUNDS if trim else 0):
            self._learn(np.setdiff1d(train, self.set_aside))
            scores = self._score(train, np.setdiff1d(train, self.set_aside))
            together = (np.sum if kind == "oneclass" else np.max)([scores[name] for name in self.detecting], axis=0)
            count = most_attacks(len(train), trim)
            self.set_aside = train[np.argsort(-together.max(1)[train], kind="stable")[:count]]
            if self.by_place:
                self._outlying = _highest(together, train, count)
        self._outlying = None
        kept = np.setdiff1d(train, self.set_aside)
        self._learn(kept)
        self.scores = self._score(np.sort(np.concatenate([kept, selection])), kept)
        self.plans = {
            name: SitePlan(
                self._detectors[name], self._benign[name].pair(), self._seen[name].every_row_sees_every_column
            )
            for name in names
        }

    def peaks(self, plan: PatchPlan) -> Scores:
        """The highest score of each row (N,), or the highest sum over the sites where the plan adds them up."""
        together = np.sum if plan.joint == "sum" else np.max
        peaks: Scores = together([self.scores[name] for name in self.detecting], axis=0).max(1)
        return peaks

    def level_lengths(self, lengths: Ints) -> None:
        """Take out of the scores how the highest sum of a row grows with its length (N,), see `length_factors`."""
        peaks = np.sum([self.scores[name] for name in self.detecting], axis=0).max(1)
        rows = np.flatnonzero(np.isfinite(peaks))
        known = length_factors(peaks[rows], lengths[rows])
        for name in self.detecting if known is not None else ():
            detector = self._detectors[name]
            assert isinstance(detector, OneClass)
            detector = replace(detector, by_length=known)
            self.plans[name] = replace(self.plans[name], detector=detector)
            self.scores[name] = self.scores[name] * detector.factors(lengths)[:, None]

    def _learn(self, rows: Ints) -> None:
        """Detectors, not yet in nats, and benign pairs of some rows."""
        benign = {name: BenignSums(site, self._by_place[name]) for name, site in self._sites.items()}
        moments: dict[tuple[str, str], Moments] = {}

        def gather(name: str, batch: SiteBatch, chunk: Ints) -> None:
            benign[name].add(batch)
            if self._kind != "oneclass":
                return
            for signal, features in self._features(name, batch, self._equal(name, batch, chunk)).items():
                places = features.shape[1] if self._by_place[name] else None
                sums = moments.setdefault((name, signal), Moments(places, features.shape[2]))
                counted = self._scored(name, batch)
                sums.add(features, counted if self._outlying is None else counted & ~self._outlying[chunk])

        stream(self._context, self._capture, rows, "clean columns", gather)
        self._benign = benign
        self._detectors: dict[str, Detector] = {}
        for name in self._sites:
            exempt = () if self._by_place[name] else SINKS
            if self._kind == "statistic":
                self._detectors[name] = Statistic(exempt)
                continue
            norms = self._context.norms.get(name)
            second = None if norms is None else describe_norms(moments[name, "norms"], norms)
            found = describe(moments[name, "attention"], exempt=exempt, probes=PROBES)
            tokens = None if self._by_place[name] else self._tokens
            self._detectors[name] = replace(found, every=self._context.every, norms=second, tokens=tokens)

    def _score(self, rows: Ints, clean: Ints) -> dict[str, Scores]:
        """Scores of some rows; also rescales the detectors to nats, by the `clean` ones among these rows."""
        found: dict[tuple[str, str], list[tuple[Ints, Scores]]] = {}

        def score(name: str, batch: SiteBatch, chunk: Ints) -> None:
            for signal, scores in self._raw(name, batch, chunk).items():
                found.setdefault((name, signal), []).append((chunk, scores))

        stream(self._context, self._capture, rows, "scores", score)
        total: dict[str, Scores] = {}
        for (name, signal), parts in found.items():
            raw = _assembled(parts, len(self._context.data))
            if isinstance(self._detectors[name], OneClass):
                raw = self._in_nats(name, signal, raw, clean)
            total[name] = total[name] + raw if name in total else raw
        return total

    def _in_nats(self, name: str, signal: str, raw: Scores, clean: Ints) -> Scores:
        seen = raw[clean]
        start, rate = tail(seen[np.isfinite(seen)], STARTS_AT_PLACE if self._by_place[name] else STARTS)
        detector = self._detectors[name]
        assert isinstance(detector, OneClass)
        if signal == "norms":
            assert detector.norms is not None
            self._detectors[name] = replace(detector, norms=in_nats(detector.norms, start, rate))
        else:
            self._detectors[name] = in_nats(detector, start, rate)
        return np.where(np.isfinite(raw), np.maximum((raw - start) * rate, 0.0), -np.inf)

    def _raw(self, name: str, batch: SiteBatch, rows: Ints) -> dict[str, Scores]:
        """Signal → scores (B, K) without the cut at zero."""
        detector, scored = self._detectors[name], self._scored(name, batch)
        if isinstance(detector, Statistic):
            self_attention = self._sites[name].self_attention
            scores = statistic_scores(detector, batch.map, batch.valid, self_attention=self_attention)
            return {"attention": np.where(scored, scores, -np.inf)}
        assert isinstance(detector, OneClass)
        reference: dict[str, OneClass | NormDistance | None] = {"attention": detector, "norms": detector.norms}
        equal = self._equal(name, batch, rows)
        repeated = None if equal is None else equal.argmax(2) < np.arange(equal.shape[2])
        return {
            signal: surprise(found, features, scored, repeated)
            for signal, features in self._features(name, batch, equal).items()
            if (found := reference[signal]) is not None
        }

    def _features(self, name: str, batch: SiteBatch, equal: NDArray[np.bool_] | None) -> dict[str, NDArray[np.float32]]:
        """Signal → features (B, K, F); equal: of `_equal`."""
        found = {
            "attention": profile_features(
                batch.map,
                batch.valid,
                self_attention=self._sites[name].self_attention,
                probes=PROBES,
                every=self._context.every,
                together=None if equal is None else equal & self._scored(name, batch)[:, :, None],
            )
        }
        norms: ValueNorms | None = self._context.norms.get(name)
        if norms is not None:
            found["norms"] = norm_features(batch.values, norms, batch=len(batch.map), heads=batch.map.shape[1])
        return found

    def _equal(self, name: str, batch: SiteBatch, rows: Ints) -> NDArray[np.bool_] | None:
        """(B, K, K): which columns hold the same token; None where tokens are not known or do not move."""
        if self._tokens is None or self._by_place[name]:
            return None
        ids = self._context.data.inputs[self._tokens][rows, : batch.map.shape[3]]
        equal: NDArray[np.bool_] = ids[:, :, None] == ids[:, None, :]
        return equal

    def _scored(self, name: str, batch: SiteBatch) -> NDArray[np.bool_]:
        """(B, K): the columns that count."""
        return batch.valid if self._by_place[name] else content_columns(batch.valid)


def _highest(scores: Scores, rows: Ints, count: int) -> NDArray[np.bool_]:
    """(N, K): in each column the `count` of the rows with the highest scores.

    Attacks agree in their columns and hide there: among 400 rows a place that is otherwise always empty has seen
    nothing but them. Elsewhere rare strokes of clean images score as high, so whole rows are no measure at first.
    """
    found = np.zeros(scores.shape, bool)
    order = np.argsort(-scores[rows], axis=0, kind="stable")[:count]
    np.put_along_axis(found, rows[order], True, axis=0)
    return found


def _assembled(parts: Sequence[tuple[Ints, Scores]], rows: int) -> Scores:
    """(N, K) of batches that may differ in width, -inf where there is no score."""
    whole = np.full((rows, max(scores.shape[1] for _, scores in parts)), -np.inf)
    for chunk, scores in parts:
        whole[chunk, : scores.shape[1]] = scores
    return whole
