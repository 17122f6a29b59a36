"""Which requests the test sets of several seeds share: each run of images and of tables is judged on a split of its
own, each run of a text on the same file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..images import digits
from ..tables import data as tables
from .estimates import OVERLAPS
from .settings import SEEDS

__all__ = ["data_set", "marked", "overlaps"]

Rows = NDArray[np.int64]


def data_set(setting: str) -> str:
    """The first word of a setting's name. Settings of one data set are judged on the same requests."""
    return setting.partition("-")[0]


def overlaps(before: Mapping[str, Any]) -> dict[str, Any]:
    """Data set → seed → other seed → share, as JSON has it; data sets with the same test set for all seeds left out.

    Args:
        before: what was found earlier, for data that are not here now.
    """
    found = dict(before)
    for name, rows in _tests().items():
        try:
            parts = {seed: rows(seed) for seed in SEEDS}
        except FileNotFoundError:
            continue
        found[name] = {
            str(one): {str(other): round(float(np.isin(parts[one], parts[other]).mean()), 4) for other in SEEDS}
            for one in SEEDS
        }
    return found


def marked(figures: Mapping[str, Any], evidence: Mapping[str, Any], setting: str, seed: int) -> dict[str, Any]:
    """Figures of a run, each share with what its requests have in common with those of other seeds, where the evidence
    file says so of the whole test sets. A triggered set is made of a test set's rows of some classes, so it is taken to
    have as much in common.
    """
    known = evidence.get("test_sets", {}).get(data_set(setting), {}).get(str(seed))
    if known is None:
        return dict(figures)
    common = {int(other): share for other, share in known.items()}

    def told(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        found = {name: told(part) for name, part in value.items()}
        return {**found, OVERLAPS: common} if {"value", "count"} <= found.keys() else found

    return {name: told(value) for name, value in figures.items()}


def _tests() -> dict[str, Callable[[int], Rows]]:
    def digit(seed: int) -> Rows:
        return digits.rows(seed)["test"]

    def row(name: str, seed: int) -> Rows:
        return tables.rows(tables.READERS[name](), seed)["test"]

    return {"mnist": digit, **{name: partial(row, name) for name in tables.READERS}}
