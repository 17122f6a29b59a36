"""Passes, excision, benign pair, sites and threshold: all chosen on the selection part,
by what the served graph does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriters.choices import Passes
from rewriters.editing.admission import not_admitted

from ..hotfix.evidence import (
    BenignFigures,
    Calibration,
    CompanionFigures,
    MendTried,
    PassesTried,
    ScoreFigures,
)
from ..inference.datasets import Ints
from ..inference.prediction import Served
from .calibration import BENIGN_CHOICES, BenignChoice, as_few, choose_benign, choose_threshold, thresholds
from .judge import Judge, Score, rate
from .passes import Wanted
from .site_selection import Key, Lineup, first_lineup, prune
from .training import Context, TrainedSite

__all__ = ["Tuned", "Tuner"]

MARGIN = 0.1
"""In logits: a row this close below the threshold is run all the same, since scores of graph and numpy differ in
rounding.
"""

LEAST_BEYOND = 2
"""Clean rows that the allowed flag rate has to leave beyond the edge for the edge to be more than the loudest row's
chance.
"""

COMPANIONS = (1.0, 0.3, 0.1, 0.03, 0.01)
"""Factors on the threshold, a probability: each step is about one logit."""


@dataclass(frozen=True)
class Tuned:
    """What came out. evidence: plain data for the hotfix's `calibration`."""

    lineup: Lineup
    choice: BenignChoice
    threshold: float
    served: Served
    evidence: Calibration


@dataclass(frozen=True)
class _Contender:
    lineup: Lineup
    choice: BenignChoice
    score: Score
    table: list[BenignFigures]
    missed: int
    elsewhere: int = 0
    """`short`, added up over all thresholds: of two that do equally well at their best, the one that hangs less on it
    is surer.
    """

    @property
    def short(self) -> int:
        """Attacked rows that got through, and those that nobody flagged, which may get through elsewhere."""
        return self.score.left + self.missed

    def to_json(self) -> ScoreFigures:
        return {**self.score.to_json(), "missed": self.missed, "elsewhere": self.elsewhere}


class Tuner:
    """Chooses everything that follows training.

    Args:
        judge: knows the original model's predictions.
        output: graph output whose argmax is the prediction.
        together: makes the same sites with detectors that add up their logits, or none (see `sites_together`); for two
            passes.
        always: every request is flagged. Then each site that is left out is a way for the attribute to get through,
            seen on the selection part or not, and accuracy moves by chance with every reference; so all sites stay,
            with the plain mean wherever that does.
    """

    def __init__(
        self,
        context: Context,
        judge: Judge,
        output: str,
        together: Callable[[], Sequence[TrainedSite]],
        *,
        always: bool = False,
    ) -> None:
        self._context, self._judge, self._output, self._together, self._always = (
            context,
            judge,
            output,
            together,
            always,
        )
        self._steps = 0
        self._scores: dict[Hashable, tuple[Score, int]] = {}
        self._live: tuple[Hashable, Served] | None = None

    def tune(self, trained: Sequence[TrainedSite], wanted: Wanted) -> Tuned:
        """See the module's text; passes "auto": two where one pass lets rows through and two do better.

        Raises:
            AtpatchError: ATP023 where two passes or excision are asked for and the graph does not admit them.
        """
        if wanted.passes == "auto":
            contender, comparison = self._compare(trained, wanted)
        else:
            contender = self._contender(self._lineup(trained, wanted.passes, wanted))
            score = contender.score.to_json()
            comparison = {"one": score} if wanted.passes == "one" else {"two": score}
        choice = contender.choice
        lineup, mends = self._with_mend(contender.lineup, choice, wanted)
        companions: list[CompanionFigures] = []
        if not self._always:
            lineup, companions = self._with_companions(lineup, choice)
            # with more of the trigger gone, another pair may do better
            if lineup.companion < 1 and lineup.mend == "redistribute":
                contender = self._contender(lineup)
                choice = contender.choice
            if lineup.joint == "any":
                lineup = prune(lineup, lambda candidate: self._key(candidate, choice))
        candidates = self._thresholds(lineup)
        part = self._context.parts.selection
        edge_known = self._context.most_flagged * len(part.clean) >= LEAST_BEYOND
        threshold = choose_threshold(
            candidates, lambda value: self._score(lineup, choice, value)[0], edge_known=edge_known
        )
        predictions, flags, _ = self._run(lineup, choice, threshold)
        evidence: Calibration = {
            "recall": rate(flags[part.anomalous].any(1)),
            "clean_flagged": rate(flags[part.clean].any(1)),
            "thresholds": [candidates[0], candidates[-1]],
            "benign": contender.table,
            "passes": {"chosen": lineup.passes, **comparison},
            "mend": {"chosen": lineup.mend, **mends},
            "companion": companions,
            "sites": {"tried": list(contender.lineup.group), **self._judge.score(part, predictions).to_json()},
        }
        self._context.progress("tuning", self._steps, self._steps)
        return Tuned(lineup, choice, threshold, self._serve(lineup, choice), evidence)

    def _with_mend(self, lineup: Lineup, choice: BenignChoice, wanted: Wanted) -> tuple[Lineup, MendTried]:
        """Excision where the graph admits it and it does as well, and both ways' scores.

        Of two ways that a few hundred rows do not tell apart, the one that answers as if the tokens had never been
        there is surer.
        """
        if lineup.passes == "one" or wanted.mend == "redistribute" or self._always:
            return lineup, {}
        excising = replace(lineup, mend="excise")
        if wanted.mend == "excise":
            return excising, {"excise": self._middling(excising, choice)[0].to_json()}
        before = self._middling(lineup, choice)[0]
        if (reason := self._not_admitted(excising)) is not None:
            return lineup, {"redistribute": before.to_json(), "excise": {"not_tried": reason}}
        after = self._middling(excising, choice)[0]
        as_well = as_few(after.left, before.left) and after.lost <= before.lost
        return (excising if as_well else lineup), {"redistribute": before.to_json(), "excise": after.to_json()}

    def _with_companions(self, lineup: Lineup, choice: BenignChoice) -> tuple[Lineup, list[CompanionFigures]]:
        """The highest lower bar for further columns of a flagged sample that is as good as the best, and the table of
        all.
        """
        tried = [replace(lineup, companion=factor) for factor in COMPANIONS]
        scores = [self._middling(candidate, choice)[0] for candidate in tried]
        fewest = min(score.left for score in scores)
        best = next(index for index, score in enumerate(scores) if as_few(score.left, fewest))
        return tried[best], [
            {"factor": factor, **score.to_json()} for factor, score in zip(COMPANIONS, scores, strict=True)
        ]

    def _compare(self, trained: Sequence[TrainedSite], wanted: Wanted) -> tuple[_Contender, PassesTried]:
        one = self._contender(self._lineup(trained, "one", wanted))
        if not one.short:
            return one, {"one": one.score.to_json(), "two": {"not_tried": "one pass leaves too little to gain"}}
        if len(trained) == 1:
            return one, {
                "one": one.score.to_json(),
                "two": {"not_tried": "one site alone acts the same in one pass and in two"},
            }
        lineup = self._lineup(trained, "two", wanted)
        if (reason := self._not_admitted(lineup)) is not None:
            return one, {"one": one.score.to_json(), "two": {"not_tried": reason}}
        one, two = self._at_best(one), self._at_best(self._contender(lineup))
        told: PassesTried = {"one": one.to_json(), "two": two.to_json()}
        surer = (two.short, two.elsewhere) < (one.short, one.elsewhere)
        return (two if surer else one), told

    def _lineup(self, trained: Sequence[TrainedSite], passes: Passes, wanted: Wanted) -> Lineup:
        """All sites; in two passes with detectors that add up, where the kind has them."""
        together = self._together() if passes == "two" and not self._always else []
        return (
            Lineup(tuple(together), passes, wanted.accepted("always"), joint="sum")
            if together
            else first_lineup(trained, passes, wanted.accepted("always"))
        )

    def _not_admitted(self, lineup: Lineup) -> str | None:
        """Why the graph does not admit what a lineup asks for; None where it does. The benign pair has no say in it."""
        plan, sites = lineup.plan(BENIGN_CHOICES[0]), [one.site for one in lineup.sites]
        reason = not_admitted(self._context.model, plan, sites)
        return None if reason is None else reason.what

    def _contender(self, lineup: Lineup) -> _Contender:
        """A lineup with the benign pair that suits it, at the middle of its thresholds."""
        outcomes = {choice: self._middling(lineup, choice) for choice in BENIGN_CHOICES}
        choice, score, table = choose_benign(lambda option: outcomes[option][0], by_attack_alone=self._always)
        return _Contender(lineup, choice, score, table, missed=outcomes[choice][1])

    def _at_best(self, contender: _Contender) -> _Contender:
        """The same with the score at the best of the thresholds."""
        lineup = contender.lineup
        tried = [self._score(lineup, contender.choice, value) for value in self._thresholds(lineup)]
        score, missed = min(tried, key=lambda pair: (pair[0].key, pair[1]))
        return replace(
            contender, score=score, missed=missed, elsewhere=sum(score.left + missed for score, missed in tried)
        )

    def _key(self, lineup: Lineup, choice: BenignChoice) -> Key:
        score, missed = self._middling(lineup, choice)
        return (*score.key, missed)

    def _middling(self, lineup: Lineup, choice: BenignChoice) -> tuple[Score, int]:
        """Score and number of anomalous rows that nobody flags, at the middle threshold."""
        candidates = self._thresholds(lineup)
        return self._score(lineup, choice, candidates[len(candidates) // 2])

    def _score(self, lineup: Lineup, choice: BenignChoice, threshold: float) -> tuple[Score, int]:
        """The same at some threshold. Questions overlap, so answers are kept."""
        key, part = (lineup.key, choice, threshold), self._context.parts.selection
        if key not in self._scores:
            predictions, flags, probabilities = self._run(lineup, choice, threshold)
            self._scores[key] = (
                self._judge.score(part, predictions, probabilities),
                int((~flags[part.anomalous].any(1)).sum()),
            )
        return self._scores[key]

    def _run(
        self, lineup: Lineup, choice: BenignChoice, threshold: float
    ) -> tuple[Ints, NDArray[np.bool_], NDArray[np.floating[Any]] | None]:
        """Predictions, flags and probabilities on the selection part. Rows that nobody flags are not run."""
        from scipy.special import softmax

        rows = self._context.parts.selection.rows
        flagged = (
            rows[lineup.peaks[rows] > math.log(threshold / (1 - threshold)) - MARGIN] if 0 < threshold < 1 else rows
        )
        scores, flags = self._serve(lineup, choice).scores(self._context.data, flagged, threshold)
        self._step()
        if not len(flagged):
            return self._judge.original, flags, None
        ran = np.isin(np.arange(len(scores)), flagged)
        predictions = np.where(ran, scores.argmax(1), self._judge.original)
        # Of rows not run the prediction alone is known: as good as certain.
        certain = np.eye(scores.shape[1])[self._judge.original]
        return predictions, flags, np.where(ran[:, None], softmax(scores, axis=1), certain)

    def _serve(self, lineup: Lineup, choice: BenignChoice) -> Served:
        """The session, kept until another is asked for."""
        context, key = self._context, (lineup.key, choice)
        if self._live is None or self._live[0] != key:
            sites = [one.site for one in lineup.sites]
            served = Served(
                context.model, context.folder, lineup.plan(choice), sites, self._output, context.threads, context.mask
            )
            self._live = key, served
        return self._live[1]

    def _thresholds(self, lineup: Lineup) -> list[float]:
        part, peaks = self._context.parts.selection, lineup.peaks
        return thresholds(peaks[part.clean], peaks[part.anomalous], self._context.most_flagged)

    def _step(self) -> None:
        # How many there will be is not known beforehand.
        self._steps += 1
        self._context.progress("tuning", self._steps, self._steps + 1)
