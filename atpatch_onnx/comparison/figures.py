"""Computes figures from saved arrays: of one graph, and of the change between the original and another graph.

Names of figures, the same in JSON, in `--assert` and on the pages, are listed in `FIGURES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DATA_MALFORMED
from ..inference.datasets import Ints
from ..statistics import proportions
from ..statistics.proportions import Paired, Share
from .alarm_figures import alarm_shares, shares_with_refusal
from .answer_figures import answer_numbers, answer_shares, changed_answers
from .attack_figures import attack_shares, open_rows
from .fairness import fairness
from .outputs import Outputs, Truth
from .score_figures import score_numbers
from .twin_figures import twin_numbers, twin_shares

__all__ = ["CLEAN", "FIGURES", "FLIPS", "TRIGGERED", "Change", "Figures", "change", "check_sets", "judge"]

CLEAN, TRIGGERED, FLIPS = "clean", "triggered", "flips"

FIGURES = {
    "accuracy": "clean rows predicted right",
    "asr": "attack success: triggered rows predicted as the target",
    "asr_star": "the same, without rows whose clean twin the original predicts as the target anyway",
    "recovered": "triggered rows predicted right",
    "uf": "unfair: rows whose prediction changes when only the protected attribute does",
    "clean_flagged": "clean rows flagged at any site",
    "triggered_flagged": "triggered rows flagged at any site",
    "flips_flagged": "rows of the flip set flagged at any site",
    "clean_alarms": "clean rows with an alarm",
    "triggered_alarms": "triggered rows with an alarm",
    "flips_alarms": "rows of the flip set with an alarm",
    "accuracy_with_refusal": "accuracy if requests with an alarm are refused: refused rows are not right",
    "asr_with_refusal": "attack success if requests with an alarm are refused: refused attacks are stopped",
    "asr_star_with_refusal": "the same, without rows whose clean twin the original predicts as the target anyway",
    "spd": "greatest difference between groups in the rate of the positive class",
    "average_odds": "mean of the greatest differences between groups in true and false positive rate",
    "equal_opportunity": "greatest difference between groups in the true positive rate",
    "answer_right": "clean rows whose greedy answer begins with the right one",
    "answer_kept": "clean rows whose whole greedy answer is the original's, token by token",
    "answer_as_twin": "triggered rows whose whole greedy answer is the original's to the clean twin",
    "perplexity": "of the clean answers: the right ones, or where they are not known the original's",
    "triggered_perplexity": "of the same answers to the triggered rows",
    "neighbor_kept": "clean rows whose nearest other clean row is the one that the original finds",
    "cosine_median": "of clean rows: cosine of the embedding with the original's, median",
    "cosine_low": "the same, 5 % quantile",
    "twin_cosine_median": "of triggered rows: cosine with the original's embedding of the clean twin, median",
    "twin_cosine_low": "the same, 5 % quantile",
    "tokens_kept": "tokens of clean rows with the label that the original gives them, mean over rows",
    "twin_tokens_kept": "tokens of triggered rows with the original's label of the same token of the clean twin",
    "roc_auc": "of clean rows: how often one of class 1 has a higher score than one of class 0",
    "rank_correlation": "of the scores of clean rows with the original's, by rank (Spearman)",
    "passed": "clean rows, as the original scores them, that the trigger lifts a row past, mean share",
}

Truths = Mapping[str, Truth]
Runs = Mapping[str, Outputs]
"""Of one graph: set → outputs."""


@dataclass(frozen=True)
class Figures:
    """The figures of one graph; names as in `FIGURES`, only those that the data give.

    Attributes:
        shares: counted figures.
        fairness: group metrics, without intervals.
        classes: class → rows "predicted" as it on the clean set; with labels, its "rows" and the share of them that is
            "right".
        sites: site → set → share of rows flagged there.
        columns: site → set → (column, rows) by frequency, only columns that were flagged at all.
        doses: copies of the trigger → "asr", "asr_star" and "flagged" of the triggered rows with so many.
        forms: form of the trigger → the same.
        numbers: figures that are no shares.
    """

    shares: Mapping[str, Share]
    fairness: Mapping[str, float]
    classes: Mapping[int, Mapping[str, Any]]
    sites: Mapping[str, Mapping[str, Share]]
    columns: Mapping[str, Mapping[str, list[tuple[int, int]]]]
    doses: Mapping[int, Mapping[str, Share]] = field(default_factory=dict)
    forms: Mapping[str, Mapping[str, Share]] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, float | None]:
        """Plain numbers, in the order of `FIGURES`; None of an empty share."""
        shares = {name: share.value if share.count else None for name, share in self.shares.items()}
        known = {**shares, **self.fairness, **self.numbers}
        return {name: known[name] for name in FIGURES if name in known}


@dataclass(frozen=True)
class Change:
    """The original compared with another graph, row by row.

    Attributes:
        changed: clean rows whose prediction differs; None without classes.
        accuracy: right before and after, on the clean set, None without labels.
        attack: not fooled before and after, on rows as for ASR*, None without a triggered set.
        unfair: fair before and after, groups of the flip set.
        rows: set → rows (positions) with another prediction.
        identical: set → rows without a flag whose outputs are the original's bit by bit; of all rows where flags are
            unknown.
        numeric: set → output → max, mean, least and mean cosine.
        answers: clean rows whose whole answer differs; None where none was generated.
    """

    changed: Share | None
    accuracy: Paired | None
    attack: Paired | None
    unfair: Paired | None
    rows: Mapping[str, Ints]
    identical: Mapping[str, Share]
    numeric: Mapping[str, Mapping[str, Mapping[str, float]]]
    answers: Share | None = None


def check_sets(truths: Truths) -> None:
    """Raises AtpatchError: ATP056 where a set lacks arrays that it needs, or the sets do not belong together."""
    if (triggered := truths.get(TRIGGERED)) is not None:
        if triggered.target is None:
            raise DATA_MALFORMED(
                "the triggered set has no target", "add the scalar 'target', the class the attack aims at"
            )
        rows = triggered.clean_row
        if rows is not None and len(rows) and not 0 <= rows.min() <= rows.max() < truths[CLEAN].count:
            raise DATA_MALFORMED(
                f"clean_row of the triggered set points outside the {truths[CLEAN].count} rows of the clean set"
            )
    if (flips := truths.get(FLIPS)) is not None and flips.group is None:
        raise DATA_MALFORMED(
            "the flip set has no group", "add 'group' (N,): rows of one group differ only in the protected attribute"
        )


def judge(truths: Truths, runs: Runs, original: Runs, positive: int = 1, one_score: bool = False) -> Figures:
    """Figures of one graph.

    Args:
        original: the same sets through the original, for the clean twins of ASR*.
        positive: class that counts as the favorable outcome for group proportions.
        one_score: the classes are those of a threshold.
    """
    clean, shares, fair = runs[CLEAN], dict[str, Share](), dict[str, float]()
    classes: dict[int, dict[str, Any]] = {}
    if clean.scores is not None:
        truth = truths[CLEAN]
        if truth.labels is not None:
            shares["accuracy"] = proportions.accuracy(clean.predictions, truth.labels)
        if truth.protected is not None:
            known = (
                np.asarray(truth.protected != "") if truth.protected.dtype.kind == "U" else np.ones(truth.count, bool)
            )
            labels = None if truth.labels is None else truth.labels[known]
            fair = fairness(clean.predictions[known], labels, truth.protected[known], positive)
        classes = _classes(clean.predictions, truth.labels)
        if TRIGGERED in runs:
            shares |= attack_shares(truths, runs[TRIGGERED].predictions, original[CLEAN].predictions)
        if FLIPS in runs:
            group = truths[FLIPS].group
            assert group is not None
            shares["uf"] = Share.of(proportions.unfair(runs[FLIPS].predictions, group))
    for name, run in runs.items():
        if run.flags is not None:
            shares[f"{name}_flagged"] = proportions.flag_rate(run.flags)
    sites: dict[str, dict[str, Share]] = {}
    columns: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for name, run in runs.items():
        for site, flagged in run.columns.items():
            sites.setdefault(site, {})[name] = Share.of(flagged.any(1))
            columns.setdefault(site, {})[name] = _frequencies(flagged)
    shares |= alarm_shares(runs) | shares_with_refusal(truths, runs, original)
    shares |= answer_shares(truths, runs, original) | twin_shares(runs, original)
    doses: dict[int, dict[str, Share]] = {}
    forms: dict[str, dict[str, Share]] = {}
    if TRIGGERED in runs:
        attacked = truths[TRIGGERED]
        doses = _by_value(truths, runs[TRIGGERED], original[CLEAN], attacked.dose)
        forms = _by_value(truths, runs[TRIGGERED], original[CLEAN], attacked.form)
    numbers = answer_numbers(runs) | twin_numbers(runs, original)
    numbers |= score_numbers(truths, runs, original) if one_score else {}
    return Figures(shares, fair, classes, sites, columns, doses, forms, numbers)


def change(truths: Truths, runs: Runs, original: Runs) -> Change:
    """What another graph changed."""
    changed = accuracy = attack = unfair = None
    rows: dict[str, Ints] = {}
    before, after = original[CLEAN], runs[CLEAN]
    if before.scores is not None:
        rows = {name: np.flatnonzero(original[name].predictions != run.predictions) for name, run in runs.items()}
        changed = proportions.changed(before.predictions, after.predictions)
        if (labels := truths[CLEAN].labels) is not None:
            accuracy = Paired.of(before.predictions == labels, after.predictions == labels)
        if TRIGGERED in runs:
            fooled, target = open_rows(truths, before.predictions), truths[TRIGGERED].target
            attack = Paired.of(*(side[TRIGGERED].predictions[fooled] != target for side in (original, runs)))
        if FLIPS in runs and (group := truths[FLIPS].group) is not None:
            unfair = Paired.of(*(~proportions.unfair(side[FLIPS].predictions, group) for side in (original, runs)))
    identical = {name: share for name, run in runs.items() if (share := _identical(run)) is not None}
    numeric = {name: {output: _numeric(rows) for output, rows in run.differences.items()} for name, run in runs.items()}
    return Change(changed, accuracy, attack, unfair, rows, identical, numeric, changed_answers(runs, original))


def _by_value(truths: Truths, run: Outputs, clean: Outputs, values: NDArray[Any] | None) -> dict[Any, dict[str, Share]]:
    """Shares of the triggered rows with each value of an array (N,); rows with 0 or "" are left out."""
    found: dict[Any, dict[str, Share]] = {}
    for value in (
        [] if values is None or run.scores is None else np.unique(values[values != values.dtype.type()]).tolist()
    ):
        rows = np.asarray(values == value)
        shares = attack_shares(truths, run.predictions, clean.predictions, rows)
        found[value] = {name: shares[name] for name in ("asr", "asr_star") if name in shares}
        if run.flags is not None:
            found[value]["flagged"] = proportions.flag_rate(run.flags[rows])
    return found


def _classes(predictions: Ints, labels: Ints | None) -> dict[int, dict[str, Any]]:
    found = np.unique(predictions if labels is None else np.concatenate([predictions, labels]))
    table: dict[int, dict[str, Any]] = {}
    for name in found.tolist():
        table[name] = {"predicted": int((predictions == name).sum())}
        if labels is not None:
            mine = labels == name
            table[name] |= {
                "rows": int(mine.sum()),
                "right": Share.of(predictions[mine] == name),
            }
    return table


def _frequencies(flagged: NDArray[np.bool_]) -> list[tuple[int, int]]:
    counts = flagged.sum(0)
    order = np.argsort(-counts, kind="stable")
    return [(int(column), int(counts[column])) for column in order if counts[column]]


def _identical(run: Outputs) -> Share | None:
    if not run.differences:
        return None
    same = np.all([rows[:, 0] == 0 for rows in run.differences.values()], axis=0)
    calm = np.ones(len(same), bool) if run.flagged is None else ~run.flagged
    return Share.of(same[calm])


def _numeric(rows: NDArray[np.float64]) -> dict[str, float]:
    """Of rows (N, 3)."""
    greatest, mean, cosine = rows.T
    return {
        "max": float(greatest.max()),
        "mean": float(mean.mean()),
        "cosine_min": float(cosine.min()),
        "cosine_mean": float(cosine.mean()),
    }
