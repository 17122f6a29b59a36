"""Groups of a protected attribute on the page and in the verdict: first how groups are treated, then single rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..statistics.proportions import Share
from .fairness import NAMES
from .figures import CLEAN
from .graph_runs import ORIGINAL, PATCHED
from .naming import Names
from .rivals import DROPPED, THRESHOLDS
from .table import Table, percent

if TYPE_CHECKING:
    from .result import Comparison

__all__ = ["fairness_first", "group_table", "group_tiles", "groups_told", "rival_notes"]

SHORT = {"spd": "parity", "average_odds": "odds", "equal_opportunity": "opportunity"}


def groups_told(comparison: Comparison, name: str) -> str:
    """One sentence on the differences between groups, before and after; "" where no attribute is named."""
    before, after = comparison.figures[ORIGINAL].fairness, comparison.figures[name].fairness
    attribute = Names.of(comparison.setup).attribute
    if not after or attribute is None:
        return ""
    told = [f"{SHORT[key]} {before[key] * 100:.1f} → {after[key] * 100:.1f} %" for key in NAMES if key in after]
    return f"Differences between groups by {attribute}: {', '.join(told)}."


def group_tiles(comparison: Comparison) -> Iterator[tuple[str, str, str, str]]:
    """What, before, after and a remark, of parity and of odds; nothing where no attribute is named."""
    before, after = (comparison.figures[name].fairness for name in (ORIGINAL, PATCHED))
    names = Names.of(comparison.setup)
    if names.attribute is None:
        return
    if "spd" in after:
        small = f"greatest difference of groups in the rate of {names.class_of(comparison.positive)}"
        yield "Statistical parity difference", _percent(before["spd"]), _percent(after["spd"]), small
    if "average_odds" in after:
        key = "equal_opportunity"
        small = f"equal opportunity: {_percent(before[key])} \N{RIGHTWARDS ARROW} {_percent(after[key])}"
        yield "Equalized odds difference", _percent(before["average_odds"]), _percent(after["average_odds"]), small


def _percent(value: float) -> str:
    return f"{value * 100:.1f} %"


def fairness_first(comparison: Comparison, figures: Iterable[str]) -> list[str]:
    """Of a named attribute: figures of groups, of single rows, then all others."""
    first = [*NAMES, "uf"] if Names.of(comparison.setup).attribute else []
    figures = list(figures)
    return [*(name for name in first if name in figures), *(name for name in figures if name not in first)]


def group_table(comparison: Comparison) -> Iterator[Table]:
    """Each group's rate of the favorable class; with labels, its true and false positive rates too."""
    truth = comparison.truths[CLEAN]
    if truth.protected is None or not comparison.classes:
        return
    names = Names.of(comparison.setup)
    positive = comparison.positive
    rows = []
    for value in (one for one in np.unique(truth.protected) if str(one)):
        mine = np.asarray(truth.protected == value)
        parts = {"": mine}
        if truth.labels is not None:
            parts |= {
                f", truly {names.label(positive)}": mine & (truth.labels == positive),
                ", truly other": mine & (truth.labels != positive),
            }
        for what, chosen in parts.items():
            given = [
                percent(Share.of(runs[CLEAN].predictions[chosen] == positive), interval=False)
                for runs in comparison.outputs.values()
            ]
            rows.append((f"{value}{what}", f"{int(chosen.sum()):,}", *given))
    title = f"rows that get {names.class_of(positive)}, by group" + (f" of {names.attribute}" * bool(names.attribute))
    yield Table("groups", title, ("group", "rows", *comparison.graphs), rows)


def rival_notes(comparison: Comparison) -> list[str]:
    """What the columns of the rivals mean."""
    found = []
    attribute = Names.of(comparison.setup).attribute or "the attribute"
    if any(name in comparison.outputs for name in THRESHOLDS):
        found.append(
            "thresholds: fairlearn's ThresholdOptimizer on the original's scores, fitted on other rows; it must know"
            f" {attribute} of every request"
        )
    if DROPPED in comparison.outputs and DROPPED not in comparison.setup["models"]:
        found.append(f"column dropped: the original, and every request gets the most frequent value of {attribute}")
    return found
