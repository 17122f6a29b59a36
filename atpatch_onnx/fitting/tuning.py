"""One pass or two, the benign pair, the sites and the threshold: all chosen on the selection part, by what the served graph does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rewriters.errors import PLAN_MISFIT, AtpatchError

from ..datasets import Ints
from ..hotfix import Accept
from .calibrate import BenignChoice, choose_benign, choose_threshold, thresholds
from .judging import Judge, Score, rate
from .lineup import Key, Lineup, first_lineup, prune
from .served import Served
from .train import Context, TrainedSite

__all__ = ["PassesOption", "Tuned", "Tuner"]

PassesOption = Literal["one", "two", "auto"]

MARGIN = 0.1
"""In logits: a row this close below the threshold is run all the same, since scores of graph and numpy differ in rounding."""

LEAST_BEYOND = 2
"""Clean rows that the allowed flag rate has to leave beyond the edge for the edge to be more than the loudest row's chance."""

COMPANIONS = (1.0, 0.3, 0.1, 0.03, 0.01)
"""Factors on the threshold, a probability: each step is about one logit."""

LEAST_GAIN = 1
"""Attacked rows that two passes must save over one, for they cost flagged requests a second run."""


@dataclass(frozen=True)
class Tuned:
    """What came out. evidence: plain data for the hotfix's `calibration`."""

    lineup: Lineup
    choice: BenignChoice
    threshold: float
    served: Served
    evidence: dict[str, Any]


@dataclass(frozen=True)
class _Contender:
    lineup: Lineup
    choice: BenignChoice
    score: Score
    table: list[dict[str, Any]]


class Tuner:
    """Chooses everything that follows training.

    Args:
        judge: knows the original model's predictions.
        output: graph output whose argmax is the prediction.
        always: every request is flagged. Then each site that is left out is a way for the attribute to get through, seen on the selection
            part or not, and accuracy moves by chance with every reference; so all sites stay, with the plain mean wherever that does.
    """

    def __init__(self, context: Context, judge: Judge, output: str, *, always: bool = False) -> None:
        self._context, self._judge, self._output, self._always = context, judge, output, always
        self._steps = 0

    def tune(self, trained: Sequence[TrainedSite], passes: PassesOption, accept: Accept) -> Tuned:
        """See the module's text; passes "auto": two where they save `LEAST_GAIN` rows or more.

        Raises:
            AtpatchError: ATP015 where two passes are asked for and the graph does not admit them.
        """
        if passes == "auto":
            contender, comparison = self._compare(trained, accept)
        else:
            contender = self._contender(first_lineup(trained, passes, accept))
            comparison = {passes: contender.score.to_json()}
        choice = contender.choice
        lineup = contender.lineup
        companions: list[dict[str, float]] = []
        if not self._always:
            lineup, companions = self._with_companions(lineup, choice)
            lineup = prune(lineup, lambda candidate: self._key(candidate, choice))
        served, candidates = self._serve(lineup, choice), self._thresholds(lineup)
        part = self._context.parts.selection
        edge_known = self._context.most_flagged * len(part.clean) >= LEAST_BEYOND
        threshold = choose_threshold(candidates, lambda value: self._score(served, lineup, value), edge_known=edge_known)
        predictions, flags = self._run(served, lineup, threshold)
        evidence = {
            "recall": rate(flags[part.anomalous].any(1)),
            "clean_flagged": rate(flags[part.clean].any(1)),
            "thresholds": [candidates[0], candidates[-1]],
            "benign": contender.table,
            "passes": {"chosen": lineup.passes, **comparison},
            "companion": companions,
            "sites": {"tried": list(contender.lineup.group), **self._judge.score(part, predictions).to_json()},
        }
        self._context.progress("tuning", self._steps, self._steps)
        return Tuned(lineup, choice, threshold, served, evidence)

    def _with_companions(self, lineup: Lineup, choice: BenignChoice) -> tuple[Lineup, list[dict[str, float]]]:
        """The highest lower bar for further columns of a flagged sample that does best, and the table of all."""
        tried = [replace(lineup, companion=factor) for factor in COMPANIONS]
        scores = [self._middling(candidate, choice)[0] for candidate in tried]
        best = min(range(len(tried)), key=lambda index: (*scores[index].key, index))
        return tried[best], [{"factor": factor, **score.to_json()} for factor, score in zip(COMPANIONS, scores, strict=True)]

    def _compare(self, trained: Sequence[TrainedSite], accept: Accept) -> tuple[_Contender, dict[str, Any]]:
        one = self._contender(first_lineup(trained, "one", accept))
        if one.score.left < LEAST_GAIN:
            return one, {"one": one.score.to_json(), "two": {"not_tried": "one pass leaves too little to gain"}}
        if len(trained) == 1:
            return one, {"one": one.score.to_json(), "two": {"not_tried": "one site alone acts the same in one pass and in two"}}
        try:
            two = self._contender(first_lineup(trained, "two", accept))
        except AtpatchError as error:
            if error.code != PLAN_MISFIT.code:
                raise
            return one, {"one": one.score.to_json(), "two": {"not_tried": error.what}}
        scores = {contender.lineup.passes: self._best(contender) for contender in (one, two)}
        winner = two if scores["one"].left - scores["two"].left >= LEAST_GAIN else one
        return winner, {name: score.to_json() for name, score in scores.items()}

    def _contender(self, lineup: Lineup) -> _Contender:
        """A lineup with the benign pair that suits it, at the middle of its thresholds."""
        choice, score, table = choose_benign(lambda option: self._middling(lineup, option)[0], by_attack_alone=self._always)
        return _Contender(lineup, choice, score, table)

    def _best(self, contender: _Contender) -> Score:
        """The score at the best of the thresholds."""
        lineup = contender.lineup
        served = self._serve(lineup, contender.choice)
        return min((self._score(served, lineup, value) for value in self._thresholds(lineup)), key=lambda score: score.key)

    def _key(self, lineup: Lineup, choice: BenignChoice) -> Key:
        score, missed = self._middling(lineup, choice)
        return (*score.key, missed)

    def _middling(self, lineup: Lineup, choice: BenignChoice) -> tuple[Score, int]:
        """Score and number of anomalous rows that nobody flags, at the middle threshold."""
        part, candidates = self._context.parts.selection, self._thresholds(lineup)
        predictions, flags = self._run(self._serve(lineup, choice), lineup, candidates[len(candidates) // 2])
        return self._judge.score(part, predictions), int((~flags[part.anomalous].any(1)).sum())

    def _score(self, served: Served, lineup: Lineup, threshold: float) -> Score:
        return self._judge.score(self._context.parts.selection, self._run(served, lineup, threshold)[0])

    def _run(self, served: Served, lineup: Lineup, threshold: float) -> tuple[Ints, NDArray[np.bool_]]:
        """As `Served.run` on the selection part. Rows that nobody flags are what they were, so only the others are run."""
        rows = self._context.parts.selection.rows
        flagged = rows[lineup.peaks[rows] > math.log(threshold / (1 - threshold)) - MARGIN] if 0 < threshold < 1 else rows
        predictions, flags = served.run(self._context.data, flagged, threshold)
        ran = np.isin(np.arange(len(predictions)), flagged)
        self._step()
        return np.where(ran, predictions, self._judge.original), flags

    def _serve(self, lineup: Lineup, choice: BenignChoice) -> Served:
        context = self._context
        sites = [one.site for one in lineup.sites]
        return Served(context.model, context.folder, lineup.plan(choice), sites, self._output, context.threads)

    def _thresholds(self, lineup: Lineup) -> list[float]:
        part, peaks = self._context.parts.selection, lineup.peaks
        return thresholds(peaks[part.clean], peaks[part.anomalous], self._context.most_flagged)

    def _step(self) -> None:
        # How many there will be is not known beforehand.
        self._steps += 1
        self._context.progress("tuning", self._steps, self._steps + 1)
