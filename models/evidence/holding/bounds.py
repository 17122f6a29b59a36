"""Whether a row's figures lie within its bounds, judged by intervals as on the page of evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from atpatch_onnx.statistics.proportions import CONFIDENCE

from ..estimates import Estimate, combined, of_shares
from ..measures import LOST, mean_of
from ..verdicts import Verdict, joint, together
from .rows import Bound, at

__all__ = ["Runs", "judge"]

Runs = Sequence[Mapping[str, Any]]
"""Of one row, one a seed."""


def judge(runs: Runs, bound: Bound) -> tuple[Verdict, str]:
    """The verdict on all figures that the path leads to, and how the worst of them is shown.

    Several figures (forms of a trigger, say) are judged with Holm's method; the bound is met where all of them meet it.
    """
    several = list(_several(runs, bound))
    if not several:
        return Verdict.NOT_JUDGED, "–"
    worst = max((at_level(CONFIDENCE) for at_level in several), key=lambda estimate: estimate.mean)
    most = bound.most / 100 if bound.in_points else bound.most
    verdict = joint(one.verdict for one in together(several, most))
    shown = worst.percent() + ("" if bound.in_points else " %")
    if bound.told:
        told = [next(at(run["figures"], bound.told)) for run in runs]
        shown += "; told " + ", ".join(f"{one['k']}/{one['n']}" for one in told)
        if all(2 * one["k"] > one["n"] for one in told):
            verdict = Verdict.MET
    return verdict, shown


def _several(runs: Runs, bound: Bound) -> Iterator[Callable[[float], Estimate]]:
    """Of each figure, the estimate over the seeds with an interval of some level."""
    if bound.in_points:
        clean = {run["seed"]: _as_evidence(next(at(run["figures"], bound.path[:-1]))) for run in runs}
        yield lambda level: _measured(mean_of({"": clean}, LOST, level))
        return
    columns = [list(at(run["figures"], bound.path[:-1])) for run in runs]
    for cells in zip(*columns, strict=True):
        if of_shares(cells) is None:
            continue
        if not bound.above:
            yield lambda level, cells=cells: _measured(of_shares(cells, level))
            continue
        floors = [next(at(run["figures"], bound.above[:-1])) for run in runs]
        yield lambda level, cells=cells, floors=floors: combined(
            [(1, _measured(of_shares(cells, level))), (-1, _measured(of_shares(floors, level)))]
        )


def _as_evidence(clean: Mapping[str, Any]) -> Mapping[str, Any]:
    """Figures of clean rows under the keys that the evidence file has."""
    return {
        "original": {"accuracy": clean["original"]},
        "patched": {"accuracy": clean["accuracy"], "clean_changed": clean["changed"]},
    }


def _measured(estimate: Estimate | None) -> Estimate:
    assert estimate is not None
    return estimate
