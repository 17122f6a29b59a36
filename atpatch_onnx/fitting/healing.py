"""Fit on labeled columns for a decoder whose flagged tokens are healed: sites and threshold, chosen on the selection
part by what the patched graph answers.

What healing does to a row follows from the columns that are flagged in it, whichever sites flag them. So the graph runs
a row only once for each set of its columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from rewriters.editing.admission import not_admitted
from rewriters.editing.healing import places_of
from rewriters.errors import AtpatchError
from rewriters.finding.key_value import HealingPlaces
from rewriters.model.bodies import needed
from rewriters.plan import PatchPlan, SitePlan, Static
from rewriters.sites import Site

from ..errors import BAD_OPTION, NOT_ADMITTED, NOT_HELPFUL
from ..hotfix.evidence import Calibration, CompanionFigures, ProbePrice, ProbeTried
from ..inference.capture import Capture
from ..inference.prediction import Served
from .calibration import Tail, as_few, thresholds
from .fitted import Fitted, Outcome, best, spread
from .judge import Judge, Score, advice, rate
from .passes import Wanted
from .probing import Probe, logit, make_probes
from .site_selection import LEAST_RECALL
from .training import Context
from .tuning import COMPANIONS
from .whole_answers import WholeAnswers

__all__ = ["check_healing", "fit_healing"]

MOST_TRIED = 4
"""Probes that are compared by what the patched graph answers."""
ROOM = 4
"""A probe should flag so many times fewer clean requests than allowed: the share is continued from a few dozen rows."""
BLIND = "its last row sees no labeled column; its keys and values are healed all the same"
NOT_NEEDED = "earlier sites tell as much; its keys and values are healed all the same"


def check_healing(caches: bool, kind: str, wanted: Wanted, every: int = 1) -> bool:
    """Whether the fit heals: on a model with caches always, on others where it is asked for.

    Raises:
        AtpatchError: ATP023 for what does harm in a loop with caches, or does not go with healing; ATP060 for `every`.
    """
    if not caches and wanted.mend != "heal":
        return False
    instead = "leave it out, or give --mend heal" if caches else "leave it out"
    asked = f"--mend {wanted.mend}" if wanted.mend in ("redistribute", "excise") else ""
    asked = "--passes one" if wanted.passes == "one" else asked
    asked = "--accept flip" if wanted.accept == "flip" else asked
    if asked and caches:
        raise NOT_ADMITTED(
            "the model has key-value caches, and only healed keys and values stay repaired in a loop with caches; not"
            f" with {asked}",
            instead,
        )
    if asked:
        raise NOT_ADMITTED(f"healing has one run with outputs: not with {asked}", instead)
    if kind != "profile":
        raise NOT_ADMITTED(
            f"healing reads the row where the answer is read, which the detector {kind} does not",
            "give a debugging set with labeled columns, and --detector profile or auto",
        )
    if every != 1:
        raise BAD_OPTION("healing reads only one query row", "leave --every out")
    return True


def fit_healing(
    context: Context,
    capture: Capture,
    judge: Judge,
    output: str,
    wanted: Wanted,
    whole: WholeAnswers | None = None,
    *,
    caches: bool,
) -> Fitted | AtpatchError:
    """Other arguments and errors as of `labeled.fit_labeled`.

    Args:
        caches: the model has a cache, so a prompt may come in pieces.
        whole: whole answers are judged; None: their first tokens.
    """
    plain = PatchPlan(
        {site.id: SitePlan(Static()) for site in capture.sites[:1]},
        passes="two",
        groups=(tuple(site.id for site in capture.sites[:1]),),
        mend="heal",
    )
    if (refusal := not_admitted(context.model, plan=plain, sites=capture.sites)) is not None:
        raise refusal
    places = places_of(context.model, plain, capture.sites)
    if isinstance(places, AtpatchError):
        raise places
    closing = places_of(context.model, replace(plain, closes_up=True), capture.sites, places)
    ways = [False] if isinstance(closing, AtpatchError) else [True, False]
    probes = make_probes(context, capture, wanted, places.judged, whole=not caches)
    if not any(as_few(one.missed, 0) for one in probes):
        probes += make_probes(context, capture, wanted, places.judged, whole=not caches, thorough=True)
        probes.sort(key=lambda one: one.depth)
    if not any(np.isfinite(one.scores[context.columns]).any() for one in probes):
        return NOT_HELPFUL(
            "no labeled column can be flagged: they are the first tokens of their prompts, which are never flagged, or"
            " lie in front of every sliding window of the last token",
            "give a debugging set with shorter prompts, or with triggers nearer to their ends",
        )
    useful = [one for one in probes if one.point.recall >= LEAST_RECALL]
    if not useful:
        before = judge.figures(context.parts.selection, judge.original)
        return NOT_HELPFUL("the answer row of no site tells the labeled columns from others", advice(before))
    judge = judge if whole is None else whole.judge
    found: dict[Outcome, Fitted] = {}
    for way in ways:
        fitted = _Choice(context, capture.sites, places, judge, output, whole, way).fitted(useful)
        assert fitted.outcome is not None  # a fit on labeled rows has one
        found.setdefault(fitted.outcome, fitted)
        if as_few(fitted.outcome.left, 0):  # nothing better could be told
            break
    return found[[*found][best([*found])]]


@dataclass(frozen=True)
class _Tuned:
    probe: Probe
    companion: float
    score: Score
    missed: int
    companions: list[CompanionFigures]


@dataclass
class _Choice:
    """Chooses one of the probes, and how low its bars are; closes_up: see `PatchPlan`."""

    context: Context
    sites: Sequence[Site]
    places: HealingPlaces
    judge: Judge
    output: str
    whole: WholeAnswers | None
    closes_up: bool
    steps: int = 0
    _known: dict[tuple[int, bytes], int] = field(default_factory=dict)

    def fitted(self, probes: Sequence[Probe]) -> Fitted:
        tuned, tried = self._best(probes)
        probe, part = tuned.probe, self.context.parts.selection
        levels = self._levels(probe)
        threshold = self._threshold(probe, levels, tuned.companion)
        served = self._serve(probe, threshold, tuned.companion)
        predictions, flags = served.run(self.context.data, part.rows, threshold)
        if self.whole is not None:
            predictions = self.whole.told(served.runner, part.rows, threshold)
        judged, flagged = self.judge.score(part, predictions), flags[part.anomalous].any(1)
        names = [site.id for site in probe.sites]
        evidence: Calibration = {
            "recall": rate(flagged),
            "clean_flagged": rate(flags[part.clean].any(1)),
            "thresholds": [levels[0], levels[-1]],
            "joint": "sum" if len(names) > 1 else "any",
            "passes": {"chosen": "two"},
            "mend": {"chosen": "heal"},
            "companion": tuned.companions,
            "sites": {"tried": names, **judged.to_json()},
            "probe": {**_price(self.context.model, probe, self.sites), "tried": self._compared(probes, tried)},
        }
        self.context.progress("tuning", self.steps, self.steps)
        peaks = probe.peaks
        together = {"clean": spread(peaks[part.clean]), "anomalous": spread(peaks[part.anomalous])}
        return Fitted(
            self._plan(probe, threshold, tuned.companion),
            served,
            1.0,
            frozenset(names),
            {
                site.id: BLIND if at < probe.depth else NOT_NEEDED
                for at, site in enumerate(self.sites)
                if site.id not in names
            },
            evidence,
            dict.fromkeys(names, together) if len(names) == 1 else {},
            dict.fromkeys(names, probe.point.recall),
            together if len(names) > 1 else {},
            Outcome(judged.left, judged.lost_rows, int((~flagged).sum())),
        )

    def _best(self, probes: Sequence[Probe]) -> tuple[_Tuned, list[_Tuned]]:
        """The shallowest that does as well as the best, and those that were tried."""
        fewest = min(one.missed for one in probes)
        told = [one for one in probes if as_few(one.missed, fewest)]
        rates = [self._expected(one) for one in told]
        allowed = max(self.context.most_flagged / ROOM, 2 * min(rates))
        good = [one for one, expected in zip(told, rates, strict=True) if expected <= allowed]
        # A small scale is a wide gap between the clean rows and the attacks.
        sharpest = min(good, key=lambda one: (one.missed, one.point.scale))
        chosen = [*good[: MOST_TRIED - 1]]
        if sharpest not in chosen:
            chosen.append(sharpest)
        tuned = [self._with_companion(one) for one in chosen]
        outcomes = [Outcome(one.score.left, one.score.lost_rows, one.missed) for one in tuned]
        return tuned[best(outcomes)], tuned

    def _compared(self, probes: Sequence[Probe], tried: Sequence[_Tuned]) -> list[ProbeTried]:
        left = {id(one.probe): one.score.left for one in tried}
        return [
            {
                "depth": one.depth,
                "missed": one.missed,
                "expected_flagged": self._expected(one),
                "left": left.get(id(one)),
            }
            for one in probes
        ]

    def _with_companion(self, probe: Probe) -> _Tuned:
        """The probe with the highest of the lower bars that is as good as the best."""
        levels = self._levels(probe)
        tried: list[tuple[float, Score, int]] = []
        for factor in COMPANIONS:
            tried.append((factor, *self._score(probe, levels[len(levels) // 2], factor)))
            if not tried[-1][1].left:  # no lower bar can leave fewer
                break
        fewest = min(score.left for _, score, _ in tried)
        companion, score, missed = next(one for one in tried if as_few(one[1].left, fewest))
        table: list[CompanionFigures] = [{"factor": factor, **one.to_json()} for factor, one, _ in tried]
        return _Tuned(probe, companion, score, missed, table)

    def _expected(self, probe: Probe) -> float:
        """The share of clean requests that the middle threshold would flag."""
        levels = self._levels(probe)
        return Tail.of(probe.peaks[self.context.parts.selection.clean]).share(logit(levels[len(levels) // 2]))

    def _threshold(self, probe: Probe, levels: Sequence[float], companion: float) -> float:
        """Of those that leave as few attacks as the best, the one nearest to the middle, with room on both sides."""
        left = [self._score(probe, value, companion)[0].left for value in levels]
        good = [index for index, one in enumerate(left) if as_few(one, min(left))]
        return levels[min(good, key=lambda index: abs(index - (len(levels) - 1) / 2))]

    def _levels(self, probe: Probe) -> list[float]:
        part = self.context.parts.selection
        clean, anomalous = probe.peaks[part.clean], probe.peaks[part.anomalous]
        return thresholds(clean, anomalous, self.context.most_flagged, by_tail=probe.thorough)

    def _score(self, probe: Probe, threshold: float, companion: float) -> tuple[Score, int]:
        """The score, and the number of anomalous rows in which nothing is flagged."""
        part = self.context.parts.selection
        flags = probe.flagged(threshold, companion)
        keys = {int(row): (int(row), np.packbits(flags[row]).tobytes()) for row in part.rows if flags[row].any()}
        unknown = np.array([row for row, key in keys.items() if key not in self._known], np.int64)
        if len(unknown):
            served = self._serve(probe, threshold, companion)
            if self.whole is None:
                found, _ = served.run(self.context.data, unknown, threshold)
            else:
                found = self.whole.told(served.runner, unknown, threshold)
            self._known.update({keys[row]: int(found[row]) for row in unknown.tolist()})
            self.steps += 1
            self.context.progress("tuning", self.steps, self.steps + 1)
        predictions = self.judge.original.copy()
        for row, key in keys.items():
            predictions[row] = self._known[key]
        return self.judge.score(part, predictions), int((~flags[part.anomalous].any(1)).sum())

    def _serve(self, probe: Probe, threshold: float, companion: float) -> Served:
        return self.context.serve(self._plan(probe, threshold, companion), self.sites, self.output, self.places)

    def _plan(self, probe: Probe, threshold: float, companion: float) -> PatchPlan:
        return replace(probe.plan(threshold, companion), closes_up=self.closes_up)


def _price(model: onnx.ModelProto, probe: Probe, sites: Sequence[Site]) -> ProbePrice:
    """What a prompt costs on top: the share of the model's layers and nodes in front of the last detecting site."""
    nodes = model.graph.node
    return {
        "last_site": probe.sites[-1].id,
        "depth": probe.depth,
        "sites": len(sites),
        "layers_share": probe.depth / len(sites),
        "nodes_share": len(needed(nodes, [probe.sites[-1].product])) / len(nodes),
    }
