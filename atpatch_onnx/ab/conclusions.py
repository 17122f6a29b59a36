"""From the counts of a revision to verdicts (extra `report`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from ..decisions import ARMS
from ..statistics.sequential import ALPHA, SRM_ALPHA, evidence_path, evidence_so_far, srm
from ..statistics.units import Rate, difference, holm, mcnemar, rate
from .live import Live, Tested
from .paired import Bounds, Drift, Pairs
from .results import PERCENTILES, Arm, Revision
from .tally import ArmTally, Book, PairTally, RevisionTally

__all__ = ["conclude"]

MOST_CLASSES = 10
"""Predicted classes that are compared one by one, the most frequent first."""
MOST_MOVES = 12


def _rate(book: Book) -> Rate | None:
    return rate(book.kinds()) if book else None


def _bounds(book: Book, missing: Book) -> Bounds | None:
    """None where there should be no samples."""
    least, most = (_rate(book.with_missing(missing, hit)) for hit in (False, True))
    return Bounds(sum(count * n for (_, count), n in missing.kinds().items()), least, most) if least and most else None


def conclude(tally: RevisionTally) -> Revision:
    """Verdicts from the counts of one revision."""
    live = _live(tally) if tally.mode == "ab" else None
    invalid, problems = [], []
    if live and live.srm.alarm:
        invalid.append(
            f"sample-ratio mismatch: {live.srm.patched} of {live.srm.patched + live.srm.original} units in the patched"
            f" arm, where its weight is {live.srm.weight:g} (p = {live.srm.p_value:.1e} < {SRM_ALPHA:g}): the arms"
            " cannot be compared"
        )
    if live and live.crossed:
        invalid.append(
            f"{live.crossed} units were assigned to both arms: hashing is not sticky, or two salts wrote into one log"
        )
    if len(tally.settings) > 1:
        problems.append(
            f"{len(tally.settings)} settings (mode, salt, weight) under one revision; the last one was taken"
        )
    for name, arm in tally.arms.items():
        failed = Counter(arm.failures)
        if refused := failed.pop("alarm", 0):
            problems.append(f"{refused} of {arm.requests} requests of the {name} arm were refused for an alarm")
        if failed:
            why = ", ".join(f"{reason} {count}" for reason, count in failed.most_common())
            problems.append(
                f"{failed.total()} of {arm.requests} requests of the {name} arm got an error, not an answer ({why})"
            )
    lost = sum(count for state, count in tally.pairs.states.items() if state != "compared")
    if lost:
        problems.append(f"{lost} shadow requests gave no pair ({_listed(tally.pairs.states, without='compared')})")
    if tally.pairs.not_finite:
        problems.append(
            f"{tally.pairs.not_finite} differences of outputs are not finite, and are not among the quantiles"
        )
    return Revision(
        experiment=tally.experiment,
        revision=tally.revision,
        mode=tally.mode,
        weight=tally.weight,
        start=datetime.fromtimestamp(tally.start, UTC),
        end=datetime.fromtimestamp(tally.end, UTC),
        outside=tally.outside,
        paused=tally.paused,
        arms={name: _arm(arm) for name, arm in tally.arms.items() if arm.requests},
        flagged=_rate(tally.flagged),
        flag_bounds=_bounds(tally.flagged, tally.unjudged) if tally.flagged else None,
        alarms=_rate(tally.alarms),
        live=live,
        pairs=_pairs(tally.pairs) if tally.pairs.states else None,
        latency={name: _percentiles(np.asarray(values)) for name, values in tally.latency.items() if values},
        minutes=tally.minutes,
        invalid=tuple(invalid),
        problems=tuple(problems),
    )


def _listed(states: Mapping[str, int], without: str) -> str:
    return ", ".join(f"{state} {count}" for state, count in states.items() if state != without)


def _arm(arm: ArmTally) -> Arm:
    return Arm(
        arm.requests,
        arm.samples,
        len(arm.fallback),
        _rate(arm.fallback),
        dict(arm.reasons),
        dict(arm.failures),
        _rate(arm.outcome),
        _rate(arm.wrong),
    )


def _live(tally: RevisionTally) -> Live:
    original, patched = (tally.arms[name] for name in ARMS)
    tested = []
    for name, sides in (("outcome", tally.events), ("wrong", tally.errors)):
        found = difference(getattr(patched, name).kinds(), getattr(original, name).kinds())
        if found and 0 < tally.weight < 1:
            evidence, path = evidence_path(sides, tally.weight)
            tested.append(Tested(name, found, evidence, path))
    classes = {}
    for label, _ in (original.classes + patched.classes).most_common(MOST_CLASSES):
        found = difference(_first(patched.classes, label), _first(original.classes, label))
        if found:
            classes[label] = found
    return Live(
        srm(len(patched.fallback), len(original.fallback), tally.weight), len(tally.crossed), tuple(tested), classes
    )


def _first(classes: Counter[int], label: int) -> Counter[tuple[int, int]]:
    return Counter({(1, 1): classes[label], (0, 1): classes.total() - classes[label]})


def _pairs(tally: PairTally) -> Pairs:
    labels = sorted({label for move in tally.moves for label in move})
    found = {label: mcnemar(sum(sides), len(sides) - sum(sides)) for label, sides in sorted(tally.drift.items())}
    adjusted = dict(zip(found, holm([test.p_value for test in found.values()]), strict=True))
    drift = {
        label: Drift(
            test.patched,
            test.original,
            adjusted[label],
            evidence_path(tally.drift[label], 0.5, ALPHA / max(len(found), 1))[0],
        )
        for label, test in found.items()
    }
    verdict, path = evidence_path(tally.sides) if tally.table else (None, np.zeros(0))
    classes: dict[tuple[int, int], int] = {
        (label, label): tally.stayed[label] for label in {*tally.stayed, *labels}
    } | dict(tally.moves)
    known = tally.apart or not tally.states["compared"]
    moved, stayed, lost = (tally.first[first] for first in (True, False, None))
    return Pairs(
        states=dict(tally.states),
        apart=_rate(tally.apart),
        bounds=_bounds(tally.apart, tally.missing) if known else None,
        always=evidence_so_far(moved, stayed),
        always_bounds=(evidence_so_far(moved, stayed + lost).low, evidence_so_far(moved + lost, stayed).high),
        moves=dict(tally.moves.most_common(MOST_MOVES)),
        classes=classes,
        drift=drift,
        table=dict(tally.table),
        mcnemar=mcnemar(verdict.patched, verdict.original) if verdict else None,
        verdict=verdict,
        path=path,
        difference=_quantiles(np.asarray(tally.differences)) if tally.differences else None,
        not_finite=tally.not_finite,
    )


def _quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    return {f"p{percent}": float(np.percentile(values, percent)) for percent in PERCENTILES} | {
        "max": float(values.max())
    }


def _percentiles(values: NDArray[np.float64]) -> dict[str, float]:
    return _quantiles(values) | {"count": int(values.size)}
