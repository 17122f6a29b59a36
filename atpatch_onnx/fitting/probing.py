"""Detectors on a decoder's answer row, at the first sites of the graph, and what they tell on the selection part.

The flags must be known before layer 0 runs, so a patched graph first runs the nodes that the detecting sites need (the
probe), and once more where a token is flagged: the earlier the last of them, the cheaper. So detectors are trained for
the first 1, 2, 3, 4, 6, 8, … sites together, by the sum of their logits.

A prompt may also come in pieces, or be shorter than any row of the set. In a causal model the first L tokens of a
prompt are a prompt, and their answer row is row L - 1 of the same map: so every row is read at several lengths.

Shape letters: N rows of the data set, B rows of a batch, K key columns, C lengths of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rewriters.plan import Detector, PatchPlan, SitePlan, ValueNorms
from rewriters.sites import Site

from ..inference.capture import Capture, SiteBatch
from ..inference.datasets import Ints
from ..inference.padding import MASK, lengths
from .calibration import OperatingPoint, as_few, operating_point
from .passes import Wanted
from .recipes import Recipe, make_recipe
from .training import Context, batches, stream

__all__ = ["Probe", "logit", "make_probes", "row_lengths"]

CUTS = 3
"""Shorter lengths at which a row is read too."""
FEW = 8
"""Sites. More of them are tried only where these do not tell the attacks."""
SHORTEST = 2
"""Tokens: the first one is a sink, and is never judged."""


@dataclass(frozen=True)
class Probe:
    """Sites that detect together, the first ones of the graph.

    Attributes:
        plans: site id → detector, anchored so that 0 is the middle of the sum of logits.
        point: of the sum.
        scores: (N, K), the sum on whole prompts of the selection part; -inf at columns that are not judged, and in
            other rows.
        peaks: (N,), its highest value in a row; of clean rows over all their lengths.
        missed: anomalous rows of the selection part that are below the bar of the clean ones.
    """

    sites: tuple[Site, ...]
    plans: Mapping[str, SitePlan]
    point: OperatingPoint
    scores: NDArray[np.float32]
    peaks: NDArray[np.float64]
    missed: int

    def plan(self, threshold: float, companion: float) -> PatchPlan:
        return PatchPlan(
            self.plans,
            threshold=threshold,
            companion=companion,
            passes="two",
            groups=(tuple(self.plans),),
            joint="sum" if len(self.plans) > 1 else "any",
            mend="heal",
        )

    def flagged(self, threshold: float, companion: float) -> NDArray[np.bool_]:
        """(N, K): columns of whole prompts that the patched graph flags."""
        high, low = (logit(value) for value in (threshold, threshold * companion))
        flagged = (self.scores > high).any(1, keepdims=True)
        return np.asarray((self.scores > low) & flagged)


def logit(probability: float) -> float:
    """The score before the sigmoid."""
    return float(np.log(probability) - np.log1p(-min(probability, 1 - 1e-12)))


def make_probes(context: Context, capture: Capture, wanted: Wanted) -> list[Probe]:
    """For the first sites, the fewest first; for more than `FEW` only where these miss attacks. For each of the two the
    model runs once over the train part and once over the selection part.

    Args:
        wanted: signals "attention" leaves out how much a token writes; else its value norms are read too.
    """
    counts, found = _counts(len(capture.sites)), list[Probe]()
    for stage in ([one for one in counts if one <= FEW], [one for one in counts if one > FEW]):
        if stage and not any(as_few(one.missed, 0) for one in found):
            found += _probes(context, capture, wanted, [capture.sites[:count] for count in stage])
    return found


def _probes(context: Context, capture: Capture, wanted: Wanted, groups: Sequence[tuple[Site, ...]]) -> list[Probe]:
    """One stage."""
    recipe = _observed(context, capture, wanted, groups[-1])
    detectors: list[Mapping[str, Detector]] = []
    for index, group in enumerate(groups):
        context.progress("training", index, len(groups))
        moving = dict.fromkeys((site.id for site in group), False)
        together = recipe.train_together(moving) if len(group) > 1 else recipe.train(moving, lambda done, total: None)
        detectors.append(together)
    context.progress("training", len(groups), len(groups))
    whole, cut = _totals(context, capture, recipe, detectors)
    return [
        _probe(context, recipe, group, found, scores, peaks)
        for group, found, scores, peaks in zip(groups, detectors, whole, cut, strict=True)
    ]


def row_lengths(context: Context) -> Ints:
    """(N, C): all tokens of each row, then some shorter lengths, drawn at random."""
    used = lengths(context.data.inputs[MASK]) if MASK in context.data.inputs else None
    whole = np.full(len(context.data), context.columns.shape[1]) if used is None else used
    drawn = np.random.default_rng((context.seed, CUTS)).random((len(whole), CUTS))
    shorter = SHORTEST + np.floor(drawn * np.maximum(whole - SHORTEST, 0)[:, None]).astype(np.int64)
    return np.column_stack([whole, np.minimum(shorter, whole[:, None])])


def _counts(sites: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, 24, … and all."""
    powers = [1 << power for power in range(sites.bit_length())]
    return sorted({count for power in powers for count in (power, power * 3 // 2) if count < sites} | {sites})


def _observed(context: Context, capture: Capture, wanted: Wanted, sites: Sequence[Site]) -> Recipe:
    names = [site.id for site in sites]
    norms = {} if wanted.signals == "attention" else dict.fromkeys(names, ValueNorms())
    rows = len(context.parts.train.rows) * (1 + CUTS)
    recipe = make_recipe("profile", sites, rows, context.columns.shape[1], context.seed, 1, norms, answer_row=True)
    by_id, cuts = {site.id: site for site in sites}, row_lengths(context)

    def observe(name: str, batch: SiteBatch, chunk: Ints) -> None:
        if name not in by_id:
            return
        for shorter in _at_lengths(batch, cuts[chunk]):
            recipe.observe(by_id[name], shorter, context.labeled(chunk, batch) & shorter.valid)

    stream(context, capture, context.parts.train.rows, "maps", observe)
    return recipe


def _at_lengths(batch: SiteBatch, cuts: Ints) -> Iterator[SiteBatch]:
    """The batch at each of its rows' lengths (B, C)."""
    for length in cuts.T:
        yield replace(batch, valid=batch.valid & (np.arange(batch.valid.shape[1]) < length[:, None]))


def _totals(
    context: Context, capture: Capture, recipe: Recipe, detectors: Sequence[Mapping[str, Detector]]
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float64]]]:
    """For each group the sums (N, K) on whole prompts, and the highest sum (N,) of each row over all its lengths."""
    by_id, cuts = {site.id: site for site in capture.sites}, row_lengths(context)
    whole = [np.full(context.columns.shape, -np.inf, np.float32) for _ in detectors]
    peaks = [np.full(len(context.data), -np.inf) for _ in detectors]
    for chunk, found in batches(context, capture, context.parts.selection.rows, "scores"):
        for group, total, peak in zip(detectors, whole, peaks, strict=True):
            sums: list[NDArray[np.float64]] = [np.zeros(())] * cuts.shape[1]
            for name, detector in group.items():
                for at, shorter in enumerate(_at_lengths(found[name], cuts[chunk])):
                    logits = recipe.logits(by_id[name], detector, shorter)
                    sums[at] = sums[at] + np.where(shorter.valid, logits, -np.inf)
            total[chunk, : sums[0].shape[1]] = sums[0]
            peak[chunk] = np.max(sums, axis=(0, 2))
    return whole, peaks


def _probe(
    context: Context,
    recipe: Recipe,
    sites: tuple[Site, ...],
    detectors: Mapping[str, Detector],
    scores: NDArray[np.float32],
    peaks: NDArray[np.float64],
) -> Probe:
    part = context.parts.selection
    marked = np.where(context.columns, scores, -np.inf).max(1).astype(np.float64)
    beside = np.where(context.columns, -np.inf, scores).max(1).astype(np.float64)
    point = operating_point(peaks[part.clean], marked[part.anomalous], context.most_flagged, beside[part.anomalous])
    share = point.center / len(sites)
    plans = {site.id: SitePlan(recipe.anchored(detectors[site.id], share, point.scale)) for site in sites}
    peaks = peaks.copy()
    peaks[part.anomalous] = scores[part.anomalous].max(1)
    missed = round((1 - point.recall) * len(part.anomalous))
    moved = (scores - np.float32(point.center)) * np.float32(point.scale)
    return Probe(sites, plans, point, moved, (peaks - point.center) * point.scale, missed)
