"""What a graph changes compared with the original, in figures and row by row, as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import TRIGGERED
from .graph_runs import ORIGINAL, PATCHED

if TYPE_CHECKING:
    from .result import Comparison

__all__ = ["changed_row", "paired_json"]

MOST_ROWS = 500
"""Changed predictions that are listed; the rest are only counted."""


def paired_json(comparison: Comparison, name: str) -> dict[str, Any]:
    """The original compared with one graph."""
    changes = comparison.changes[name]
    told: dict[str, Any] = {}
    if changes.changed is not None:
        told |= {
            "changed": changes.changed.hits,
            "changed_share": changes.changed.value,
            "agreement": 1 - changes.changed.value,
        }
    if changes.accuracy is not None:
        pair = changes.accuracy
        low, high = pair.interval
        told |= {"accuracy_drop": pair.drop, "accuracy_drop_low": low, "accuracy_drop_high": high}
        told |= {"lost": pair.lost, "gained": pair.gained, "mcnemar_p": pair.p}
    for key, paired in (("attack", changes.attack), ("unfair", changes.unfair)):
        if paired is not None:
            told |= {f"{key}_stopped": paired.gained, f"{key}_new": paired.lost, f"{key}_mcnemar_p": paired.p}
    told["identical"] = {set_name: share.to_json() for set_name, share in changes.identical.items()}
    told["numeric"] = {key: dict(value) for key, value in changes.numeric.items()}
    # On triggered rows a prediction should change: these are counted above, not listed.
    kept = {key: rows for key, rows in changes.rows.items() if key != TRIGGERED}
    told["rows"] = {
        key: [changed_row(comparison, name, key, int(row)) for row in rows[:MOST_ROWS]] for key, rows in kept.items()
    }
    told["rows_left_out"] = {key: max(len(rows) - MOST_ROWS, 0) for key, rows in kept.items()}
    return told


def changed_row(comparison: Comparison, name: str, set_name: str, row: int) -> dict[str, Any]:
    """One changed prediction: index, label, both predictions and scores, sites and columns that were flagged."""
    before, after = (comparison.outputs[graph][set_name] for graph in (ORIGINAL, name))
    assert before.scores is not None and after.scores is not None
    labels = comparison.truths[set_name].labels
    return {
        "row": row,
        "label": None if labels is None else int(labels[row]),
        ORIGINAL: int(before.predictions[row]),
        PATCHED: int(after.predictions[row]),
        "flagged": None if after.flagged is None else bool(after.flagged[row]),
        "columns": {
            site: np.flatnonzero(flagged[row]).tolist() for site, flagged in after.columns.items() if flagged[row].any()
        },
        "scores": {ORIGINAL: before.scores[row].tolist(), PATCHED: after.scores[row].tolist()},
    }
