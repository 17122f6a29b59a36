"""Detectors judged map by map, as in the paper: a map is right only where exactly the labeled columns are flagged.

Half of the maps are clean, half anomalous. A clean map with a flag is a false positive; an anomalous map whose flagged
columns are not exactly the labeled ones is a false negative. Every detecting site is asked by itself, so that it reads
the original's maps.
"""

from __future__ import annotations

from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.inference.datasets import DataSet, Ints
from atpatch_onnx.statistics.proportions import unfair
from rewriters.names import columns_output
from rewriters.plan import PatchPlan, Static

from .case import Case

__all__ = ["labeled_columns", "map_scores"]

Bools = NDArray[np.bool_]


def map_scores(case: Case, served: PatchPlan) -> dict[str, Any]:
    """Of a plan; sites that flag the same columns always are no detectors, and do not count.

    Precision, recall and false positive rate over the maps of all detecting sites, and by site; `touched`: anomalous
    maps in which at least one labeled column was flagged.
    """
    clean_rows, rows, labeled = _maps(case)
    sites, pooled = {}, np.zeros(5, np.int64)
    for name, site in served.sites.items():
        if isinstance(site.detector, Static):
            continue
        if served.joint == "sum":  # one decision a request, in which all its maps have a say
            plan = replace(served, telemetry=True)
        else:
            plan = replace(served, sites={name: site}, groups=(), passes="one", telemetry=True)
        asked, output = case.ask(case.patched(plan)), columns_output(name)
        on_clean, on_attacked = (asked.rows(data, chosen, more=[output]).more[output].astype(bool) for data, chosen in (
            (case.clean, clean_rows), (case.attacked, rows)))  # fmt: skip
        right = (on_attacked == labeled).all(1)
        counts = np.array(
            [
                right.sum(),
                (~right).sum(),
                on_clean.any(1).sum(),
                (~on_clean.any(1)).sum(),
                (on_attacked & labeled).any(1).sum(),
            ]
        )
        sites[name] = _rates(counts)
        pooled += counts
        if served.joint == "sum":
            break
    return {**_rates(pooled), "maps": int(pooled[:4].sum()), "sites": sites}


def labeled_columns(case: Case) -> Bools:
    """(N, K), the labeled columns of the attacked test rows.

    Where the debugging set labels the same places in every row they are the same here; else they are the tokens that a
    shortest edit of the clean twin brings in, as in the debugging set.
    """
    debug, attacked = case.debug, case.attacked
    assert debug.columns is not None
    marked = debug.columns[debug.columns.any(1)]
    if (marked == marked[0]).all():
        return np.tile(marked[0], (len(attacked), 1))
    assert attacked.clean_row is not None
    ids, mask = "input_ids", "attention_mask"
    columns = np.zeros((len(attacked), marked.shape[1]), bool)
    for line, row, twin in zip(columns, range(len(attacked)), attacked.clean_row, strict=True):
        before, after = (data.inputs[ids][index][: int(data.inputs[mask][index].sum())] for data, index in (
            (case.clean, twin), (attacked, row)))  # fmt: skip
        for tag, _, _, begin, end in SequenceMatcher(
            None, before.tolist(), after.tolist(), autojunk=False
        ).get_opcodes():
            if tag in ("insert", "replace"):
                line[begin:end] = True
        line[[0, len(after) - 1]] = False
    return columns


def _maps(case: Case) -> tuple[Ints, Ints, Bools]:
    """As many clean as anomalous rows, and the labels of the latter."""
    generator = case.generator()
    clean_rows, rows = np.arange(len(case.clean)), np.arange(len(case.attacked))
    if case.setting.fault == "bias":
        clean_rows, rows = _fair_and_unfair(case.attacked, case.before[1].predictions)
    count = min(len(clean_rows), len(rows))
    clean_rows, rows = (np.sort(generator.permutation(some)[:count]) for some in (clean_rows, rows))
    return clean_rows, rows, labeled_columns(case)[rows]


def _fair_and_unfair(flips: DataSet, predictions: Ints) -> tuple[Ints, Ints]:
    """Test rows whose answer no value of the attribute changes, and the rows of all other groups."""
    assert flips.group is not None
    names = np.unique(flips.group)
    changed = unfair(predictions, flips.group)
    return names[~changed], np.flatnonzero(np.isin(flips.group, names[changed]))


def _rates(counts: NDArray[np.int64]) -> dict[str, float | None]:
    right, missed, false, quiet, touched = (int(count) for count in counts)

    def of(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    return {
        "precision": of(right, right + false),
        "recall": of(right, right + missed),
        "fpr": of(false, false + quiet),
        "touched": of(touched, right + missed),
    }
