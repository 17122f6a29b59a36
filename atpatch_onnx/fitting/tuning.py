"""Passes, excision, benign pair, sites and threshold: all chosen on the selection part,
by what the served graph does.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from rewriters.choices import Passes
from rewriters.editing.admission import not_admitted

from ..hotfix.evidence import (
    Calibration,
    CompanionFigures,
    EqualTokensTried,
    MendTried,
    PassesTried,
)
from .calibration import BENIGN_CHOICES, BenignChoice, as_few, choose_benign, choose_threshold
from .fitted import Outcome
from .judge import Judge, Score, rate
from .passes import Wanted
from .patched_runs import Outcomes, PatchedRuns, levels
from .scored import Scored, Tuned
from .second_runs import SecondRuns
from .site_selection import Candidate, Key, first_candidate, prune
from .training import Context, TrainedSite

__all__ = ["Tuned", "Tuner"]

LEAST_BEYOND = 2
"""The allowed flag rate must let at least so many clean rows through. With fewer, the edge depends on a single row."""

COMPANIONS = (1.0, 0.3, 0.1, 0.03, 0.01)
"""Factors on the threshold, a probability: each step is about one logit."""


class Tuner:
    """Chooses everything that follows training.

    Args:
        judge: knows the original model's predictions.
        output: graph output whose argmax is the prediction.
        together: makes the same sites with detectors that add up their logits, or none (see `sites_together`); for two
            passes.
        always: every request is flagged. Then the attribute can get through at each site that is left out, even if the
            selection part does not show it. Accuracy also changes by chance with every reference. So all sites stay,
            with the plain mean wherever it is good enough.
        tokens: the graph input with ids, where columns of equal tokens may be judged together (see `Profile.tokens`).
        runs: of an earlier fit of the same model on the same rows.
    """

    def __init__(
        self,
        context: Context,
        judge: Judge,
        output: str,
        together: Callable[[], Sequence[TrainedSite]],
        *,
        always: bool = False,
        tokens: str | None = None,
        runs: SecondRuns | None = None,
    ) -> None:
        self._context, self._judge = context, judge
        self._runs = PatchedRuns(context, judge.original, output, SecondRuns(context, output) if runs is None else runs)
        self._together, self._always, self._tokens = together, always, tokens
        self._steps = 0
        self._scores: dict[Hashable, tuple[Score, int]] = {}

    def tune(self, trained: Sequence[TrainedSite], wanted: Wanted) -> Tuned:
        """See the docstring of the module. Passes "auto": two where one pass misses attacks and two passes miss fewer.

        Raises:
            AtpatchError: ATP023 where two passes or excision are asked for and the graph does not admit them.
        """
        if wanted.passes == "auto":
            scored, comparison = self._compare(trained, wanted)
        else:
            scored = self._scored(self._all_sites(trained, wanted.passes, wanted))
            score = scored.score.to_json()
            comparison = {"one": score} if wanted.passes == "one" else {"two": score}
        choice = scored.choice
        candidate, mends = self._with_mend(scored.candidate, choice, wanted)
        companions: list[CompanionFigures] = []
        alike: EqualTokensTried = {}
        if not self._always:
            candidate, alike = self._with_equal_tokens(candidate, choice)
            candidate, companions = self._with_companions(candidate, choice)
            # with more of the trigger removed, another pair may be better
            if candidate.companion < 1 and candidate.mend == "redistribute":
                scored = self._scored(candidate)
                choice = scored.choice
            if candidate.joint == "any":
                candidate = prune(candidate, lambda other: self._key(other, choice))
        levels = self._thresholds(candidate)
        part = self._context.parts.selection
        edge_known = self._context.most_flagged * len(part.clean) >= LEAST_BEYOND
        threshold = choose_threshold(
            levels, lambda value: self._score(candidate, choice, value)[0], edge_known=edge_known
        )
        found = self._run(candidate, choice, threshold, served=True)
        judged, flagged = self._judge.score(part, found.predictions), found.flagged[part.anomalous]
        evidence: Calibration = {
            "recall": rate(flagged),
            "clean_flagged": rate(found.flagged[part.clean]),
            "thresholds": [levels[0], levels[-1]],
            "benign": scored.table,
            "passes": {"chosen": candidate.passes, **comparison},
            "mend": {"chosen": candidate.mend, **mends},
            "equal_tokens": {"chosen": candidate.tokens is not None, **alike},
            "companion": companions,
            "sites": {"tried": list(scored.candidate.group), **judged.to_json()},
        }
        self._context.progress("tuning", self._steps, self._steps)
        outcome = Outcome(judged.left, judged.lost_rows, int((~flagged).sum()))
        return Tuned(candidate, choice, threshold, self._runs.serve(candidate, choice), evidence, outcome)

    def _with_mend(self, candidate: Candidate, choice: BenignChoice, wanted: Wanted) -> tuple[Candidate, MendTried]:
        """Excision where the graph admits it and it is as good, and the scores of both ways.

        Where a few hundred rows show no difference, excision is preferred: it answers as if the tokens had never been
        there.
        """
        if candidate.passes == "one" or wanted.mend == "redistribute" or self._always:
            return candidate, {}
        excising = replace(candidate, mend="excise")
        if wanted.mend == "excise":
            return excising, {"excise": self._at_middle(excising, choice)[0].to_json()}
        before = self._at_middle(candidate, choice)[0]
        if (reason := self._not_admitted(excising)) is not None:
            return candidate, {"redistribute": before.to_json(), "excise": {"not_tried": reason}}
        after = self._at_middle(excising, choice)[0]
        as_well = as_few(after.left, before.left) and after.lost <= before.lost
        return (excising if as_well else candidate), {"redistribute": before.to_json(), "excise": after.to_json()}

    def _with_equal_tokens(self, candidate: Candidate, choice: BenignChoice) -> tuple[Candidate, EqualTokensTried]:
        """Columns of equal tokens judged together, unless that leaves more attacks, or attacks nearer to success, or
        costs answers; and the scores of both ways.

        The rows at hand may not repeat their trigger as the next attacker does. But of a trigger that is a sentence,
        ordinary words stand elsewhere as well, and answers lean towards the target without them.
        """
        if self._tokens is None or candidate.joint != "sum" or any(one.by_place for one in candidate.sites):
            return candidate, {}
        together = replace(candidate, tokens=self._tokens)
        if self._not_admitted(together) is not None:
            return candidate, {}
        before, after = (self._at_middle(one, choice)[0] for one in (candidate, together))
        no_worse = (after.left, after.leaning) <= (before.left, before.leaning) and after.lost <= before.lost
        return (together if no_worse else candidate), {"apart": before.to_json(), "together": after.to_json()}

    def _with_companions(self, candidate: Candidate, choice: BenignChoice) -> tuple[Candidate, list[CompanionFigures]]:
        """The highest of the lower bars (for further columns of a flagged sample) that is as good as the best, and the
        table of those that were tried.
        """
        tried: list[Candidate] = []
        scores: list[Score] = []
        for factor in COMPANIONS:
            tried.append(replace(candidate, companion=factor))
            scores.append(self._at_middle(tried[-1], choice)[0])
            if not scores[-1].left:  # no lower bar can leave fewer
                break
        fewest = min(score.left for score in scores)
        best = next(index for index, score in enumerate(scores) if as_few(score.left, fewest))
        return tried[best], [
            {"factor": one.companion, **score.to_json()} for one, score in zip(tried, scores, strict=True)
        ]

    def _compare(self, trained: Sequence[TrainedSite], wanted: Wanted) -> tuple[Scored, PassesTried]:
        one = self._scored(self._all_sites(trained, "one", wanted))
        if not one.short:
            return one, {"one": one.score.to_json(), "two": {"not_tried": "one pass leaves too little to gain"}}
        if len(trained) == 1:
            return one, {
                "one": one.score.to_json(),
                "two": {"not_tried": "a single site acts the same in one pass and in two"},
            }
        candidate = self._all_sites(trained, "two", wanted)
        if (reason := self._not_admitted(candidate)) is not None:
            return one, {"one": one.score.to_json(), "two": {"not_tried": reason}}
        ways = [candidate, *self._excising(candidate, wanted)]
        one, *ways_of_two = (self._at_best(one), *(self._at_best(self._scored(way)) for way in ways))
        two = min(ways_of_two, key=lambda way: (way.short, way.elsewhere))
        tried: PassesTried = {"one": one.to_json(), "two": two.to_json()}
        better = (two.short, two.elsewhere) < (one.short, one.elsewhere)
        return (replace(two, candidate=candidate) if better else one), tried

    def _excising(self, candidate: Candidate, wanted: Wanted) -> list[Candidate]:
        """The same with excision, where that is to be tried and the graph admits it."""
        excising = replace(candidate, mend="excise")
        return [excising] if wanted.tries_excision and self._not_admitted(excising) is None else []

    def _all_sites(self, trained: Sequence[TrainedSite], passes: Passes, wanted: Wanted) -> Candidate:
        """All sites. In two passes their logits are added up where the kind has such detectors."""
        together = self._together() if passes == "two" and not self._always else []
        return (
            Candidate(tuple(together), passes, wanted.accepted("always"), joint="sum")
            if together
            else first_candidate(trained, passes, wanted.accepted("always"))
        )

    def _not_admitted(self, candidate: Candidate) -> str | None:
        """Why the graph does not admit a candidate; None where it does. The benign pair makes no difference."""
        plan, sites = candidate.plan(BENIGN_CHOICES[0]), [one.site for one in candidate.sites]
        reason = not_admitted(self._context.model, plan, sites)
        return None if reason is None else reason.what

    def _scored(self, candidate: Candidate) -> Scored:
        """A candidate with its best benign pair, at the middle of its thresholds."""
        outcomes = {choice: self._at_middle(candidate, choice) for choice in BENIGN_CHOICES}
        choice, score, table = choose_benign(lambda option: outcomes[option][0], by_attack_alone=self._always)
        return Scored(candidate, choice, score, table, missed=outcomes[choice][1])

    def _at_best(self, scored: Scored) -> Scored:
        """The same, scored at its best threshold."""
        candidate = scored.candidate
        tried = [self._score(candidate, scored.choice, value) for value in self._thresholds(candidate)]
        score, missed = min(tried, key=lambda pair: (pair[0].key, pair[1]))
        return replace(
            scored, score=score, missed=missed, elsewhere=sum(score.left + missed for score, missed in tried)
        )

    def _key(self, candidate: Candidate, choice: BenignChoice) -> Key:
        score, missed = self._at_middle(candidate, choice)
        return (*score.key, missed)

    def _at_middle(self, candidate: Candidate, choice: BenignChoice) -> tuple[Score, int]:
        """The score, and the number of anomalous rows that no site flags, at the middle threshold."""
        levels = self._thresholds(candidate)
        return self._score(candidate, choice, levels[len(levels) // 2])

    def _score(self, candidate: Candidate, choice: BenignChoice, threshold: float) -> tuple[Score, int]:
        """The same at a given threshold. The same question comes up several times, so results are kept."""
        key, part = (candidate.key, choice, threshold), self._context.parts.selection
        if key not in self._scores:
            found = self._run(candidate, choice, threshold)
            self._scores[key] = (
                self._judge.score(part, found.predictions, found.probabilities),
                int((~found.flagged[part.anomalous]).sum()),
            )
        return self._scores[key]

    def _run(self, candidate: Candidate, choice: BenignChoice, threshold: float, *, served: bool = False) -> Outcomes:
        """See `PatchedRuns.outcomes`."""
        self._steps += 1
        found = self._runs.outcomes(candidate, choice, threshold, served=served)
        # The number of steps is not known in advance.
        self._context.progress("tuning", self._steps, self._steps + 1)
        return found

    def _thresholds(self, candidate: Candidate) -> list[float]:
        return levels(self._context, candidate)
