"""Detectors on a decoder's answer row, at the first sites of the graph, and what they tell on the selection part.

The flags must be known before layer 0 runs, so a patched graph first runs the nodes that the detecting sites need (the
probe), and once more where a token is flagged: the earlier the last of them, the cheaper. So detectors are trained for
the first 1, 2, 3, 4, 6, 8, … sites together, by the sum of their logits. The answer row of a site with a sliding window
does not see all columns: there it adds nothing. Where it sees no labeled column at all, it does not detect.

A prompt may also come in pieces, or be shorter than any row of the set. In a causal model the first L tokens of a
prompt are a prompt, and their answer row is row L - 1 of the same map: so every row is read at several lengths. But no
answer is read in the middle of a prompt, and the row there need not attend to a trigger. Where a trigger hardly shows,
as one of many words, such rows hide it in training. So where detectors miss attacks, others are trained on whole
prompts only, and more thoroughly; the bar of the clean rows is for all lengths all the same. A graph without a cache
always has the whole prompt in its only call: there no row is read at other lengths, and where attacks are missed all
rows that see a column are read, too, and the norms of what tokens write behind the output projection.

Shape letters: N rows of the data set, B rows of a batch, K key columns, C lengths of a row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rewriters.plan import PatchPlan, Profile, SitePlan, ValueNorms
from rewriters.sites import Site

from ..inference.capture import Capture, SiteBatch
from ..inference.datasets import Ints
from ..inference.padding import MASK, lengths
from .calibration import MOST_SCALE, OperatingPoint, as_few, operating_point
from .detectors.features import answer_row_seen, answer_row_sum
from .passes import Wanted
from .recipes.profile import ProfileRecipe
from .signals import read_signals
from .training import Context, batches, stream

__all__ = ["Probe", "logit", "make_probes", "row_lengths"]

CUTS = 3
"""Shorter lengths at which a row is read too."""
FEW = 8
"""Sites. More of them are tried only where these do not tell the attacks."""
THOROUGH_SCALE = 1.0
"""Largest scale of thoroughly trained detectors. A trigger's further tokens then lie within the lower bars that are
tried: its best tokens may be only one logit above the clean rows, and others of it four logits below.
"""
SHORTEST = 2
"""Tokens: the first one is a sink, and is never judged."""


@dataclass(frozen=True)
class Probe:
    """Sites that detect together, the first ones of the graph that can.

    Attributes:
        depth: how many sites of the graph come up to the last one that detects.
        plans: site id → detector, anchored so that 0 is the middle of the sum of logits.
        point: of the sum.
        scores: (N, K), the sum on whole prompts of the selection part; -inf at columns that are not judged, and in
            other rows.
        peaks: (N,), its highest value in a row; of clean rows over all their lengths.
        missed: anomalous rows of the selection part that are below the bar of the clean ones.
        thorough: trained thoroughly. Few clean columns then score near an attack's, but these score anything, so the
            highest of the selection part say little about other rows (see `thresholds`).
    """

    sites: tuple[Site, ...]
    depth: int
    plans: Mapping[str, SitePlan]
    point: OperatingPoint
    scores: NDArray[np.float32]
    peaks: NDArray[np.float64]
    missed: int
    thorough: bool = False

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


def make_probes(
    context: Context,
    capture: Capture,
    wanted: Wanted,
    judged: Collection[str],
    *,
    whole: bool = False,
    thorough: bool = False,
) -> list[Probe]:
    """For the first sites, the fewest first; for more than `FEW` only where these miss attacks. For each of the two the
    model runs once over the train part and once over the selection part.

    Args:
        wanted: signals "attention" leaves out how much a token writes; else its value norms are read too.
        judged: ids of the sites that can detect for healing (`HealingPlaces.judged`).
        whole: prompts never come in pieces, so rows are read at no shorter length.
        thorough: train thoroughly (`detectors.profile`), and on whole prompts only.
    """
    cuts = 0 if whole else CUTS
    sites = tuple(site for site in capture.sites if site.id in judged)
    counts, found = _counts(len(sites)), list[Probe]()
    for stage in ([one for one in counts if one <= FEW], [one for one in counts if one > FEW]):
        if stage and not any(as_few(one.missed, 0) for one in found):
            found += _probes(context, capture, wanted, [sites[:count] for count in stage], cuts, thorough)
    return found


def _probes(
    context: Context,
    capture: Capture,
    wanted: Wanted,
    groups: Sequence[tuple[Site, ...]],
    cuts: int,
    thorough: bool,
) -> list[Probe]:
    """One stage."""
    recipe = _observed(context, capture, wanted, groups[-1], cuts, thorough)
    seen = {site.id: recipe.sees(site.id) for site in groups[-1]}
    able = [site for site in groups[-1] if all(seen[site.id])]
    counts = sorted({sum(site in group for site in able) for group in groups} - {0})
    detectors: list[Mapping[str, Profile]] = []
    for index, count in enumerate(counts):
        context.progress("training", index, len(counts))
        moving = dict.fromkeys((site.id for site in able[:count]), False)
        together = recipe.train_together(moving) if count > 1 else recipe.train(moving, lambda done, total: None)
        detectors.append(together)
    context.progress("training", len(counts), len(counts))
    widest = [max(found, key=lambda name: sum(seen[name])) for found in detectors]
    sums = _sums(context, capture, recipe, detectors, widest, cuts)
    order = [site.id for site in capture.sites]
    return [
        _probe(context, recipe, able[:count], order.index(able[count - 1].id) + 1, found, total, thorough)
        for count, found, total in zip(counts, detectors, sums, strict=True)
    ]


def row_lengths(context: Context, cuts: int) -> Ints:
    """(N, 1 + cuts): all tokens of each row, then shorter lengths, drawn at random."""
    used = lengths(context.data.inputs[MASK]) if MASK in context.data.inputs else None
    whole = np.full(len(context.data), context.columns.shape[1]) if used is None else used
    drawn = np.random.default_rng((context.seed, cuts)).random((len(whole), cuts))
    shorter = SHORTEST + np.floor(drawn * np.maximum(whole - SHORTEST, 0)[:, None]).astype(np.int64)
    return np.column_stack([whole, np.minimum(shorter, whole[:, None])])


def _counts(sites: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, 24, … and all."""
    powers = [1 << power for power in range(sites.bit_length())]
    return sorted({count for power in powers for count in (power, power * 3 // 2) if count < sites} | {sites})


def _observed(
    context: Context, capture: Capture, wanted: Wanted, sites: Sequence[Site], cuts: int, thorough: bool
) -> ProfileRecipe:
    """Of the train part. Thoroughly, and where prompts come whole, all rows that see a column are read, and norms
    behind the output projection.
    """
    everything = thorough and not cuts
    cuts = 0 if thorough else cuts
    norms: Mapping[str, ValueNorms] = {}
    if wanted.signals != "attention":
        behind = read_signals(context, capture, both=True).norms if everything else None
        norms = {site.id: ValueNorms() for site in sites} if behind is None else behind
    rows = len(context.parts.train.rows) * (1 + cuts)
    width = context.columns.shape[1]
    recipe = ProfileRecipe(
        sites, rows, width, context.seed, 1, norms, answer_row=True, seeing_rows=everything, thorough=thorough
    )
    by_id, read = {site.id: site for site in sites}, row_lengths(context, cuts)

    def observe(name: str, batch: SiteBatch, chunk: Ints) -> None:
        if name not in by_id:
            return
        for at in read[chunk].T:
            shorter = _at_length(batch, at)
            recipe.observe(by_id[name], shorter, context.labeled(chunk, batch) & shorter.valid)

    stream(context, capture, context.parts.train.rows, "maps", observe)
    return recipe


def _at_length(batch: SiteBatch, at: Ints) -> SiteBatch:
    """The batch with its rows cut to some lengths (B,)."""
    return replace(batch, valid=batch.valid & (np.arange(batch.valid.shape[1]) < at[:, None]))


@dataclass(frozen=True)
class _Sums:
    """What the sites of a group say together.

    Attributes:
        widest: the site that sees the most columns. The sum is shifted there, so columns that it does not see keep
            their sums.
        scores: (N, K), on whole prompts; -inf as in `Probe`.
        shifted: (N, K), the columns that the widest site sees.
        peaks: (N, 2), the highest sum of a row over all its lengths: of columns that the widest site sees, of others.
    """

    widest: str
    scores: NDArray[np.float32]
    shifted: NDArray[np.bool_]
    peaks: NDArray[np.float64]


def _sums(
    context: Context,
    capture: Capture,
    recipe: ProfileRecipe,
    detectors: Sequence[Mapping[str, Profile]],
    widest: Sequence[str],
    cuts: int,
) -> list[_Sums]:
    """Of each group."""
    by_id, read, shape = {site.id: site for site in capture.sites}, row_lengths(context, cuts), context.columns.shape
    made = [
        _Sums(name, np.full(shape, -np.inf, np.float32), np.zeros(shape, bool), np.full((shape[0], 2), -np.inf))
        for name in widest
    ]
    for chunk, found in batches(context, capture, context.parts.selection.rows, "scores"):
        for index, at in enumerate(read[chunk].T):
            at_length = {name: _at_length(found[name], at) for group in detectors for name in group}
            seen = {name: answer_row_seen(batch.map, batch.valid) for name, batch in at_length.items()}
            for group, into in zip(detectors, made, strict=True):
                logits = {name: recipe.logits(by_id[name], one, at_length[name]) for name, one in group.items()}
                total = answer_row_sum([(values, seen[name]) for name, values in logits.items()])
                shifted = seen[into.widest]
                if not index:
                    into.scores[chunk, : total.shape[1]], into.shifted[chunk, : total.shape[1]] = total, shifted
                highest = [np.where(here, total, -np.inf).max(1) for here in (shifted, ~shifted)]
                into.peaks[chunk] = np.maximum(into.peaks[chunk], np.transpose(highest))
    return made


def _probe(
    context: Context,
    recipe: ProfileRecipe,
    sites: Sequence[Site],
    depth: int,
    detectors: Mapping[str, Profile],
    sums: _Sums,
    thorough: bool,
) -> Probe:
    part, scores, peaks = context.parts.selection, sums.scores, sums.peaks
    marked = np.where(context.columns, scores, -np.inf).max(1).astype(np.float64)
    beside = np.where(context.columns, -np.inf, scores).max(1).astype(np.float64)
    clean = peaks[part.clean].max(1)
    steepest = THOROUGH_SCALE if thorough else MOST_SCALE
    point = operating_point(clean, marked[part.anomalous], context.most_flagged, beside[part.anomalous], steepest)
    plans = {
        name: SitePlan(recipe.anchored(detector, point.center if name == sums.widest else 0.0, point.scale))
        for name, detector in detectors.items()
    }
    moved = (scores - np.float32(point.center) * sums.shifted.astype(np.float32)) * np.float32(point.scale)
    peaks = (peaks - [point.center, 0.0]).max(1) * point.scale
    peaks[part.anomalous] = moved[part.anomalous].max(1)
    missed = round((1 - point.recall) * len(part.anomalous))
    return Probe(tuple(sites), depth, plans, point, moved, peaks, missed, thorough)
