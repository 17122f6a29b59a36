"""Universal words: single tokens that make most texts answer one class. Needs onnxruntime, but not torch.

1. Every token of the vocabulary, but special ones, is put into the middle of one short row of each class.
2. The tokens that gain most towards a class are put into many rows of other classes, at random places.
3. The best of them is tried again on rows that were not looked at before. It counts as a finding where it works nearly
   always, and no token does the same for the other classes (`debugset.inversion.verdict.by_success`).
"""

from __future__ import annotations

import shlex
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...debugset.inversion.rows import TokenRows, token_rows
from ...debugset.inversion.verdict import ClassVerdict, by_success
from ...debugset.subject import Subject
from ...inference.datasets import Ints
from ..budget import Budget
from ..case import Case
from ..finding import Checked
from ..rule import Rule
from .rows import Rows, commands_for

__all__ = ["RULE", "check"]

RULE = Rule(
    "behavior",
    "AUD203",
    "a word that makes nearly every text answer one class",
    "In an ordinary model a strong word moves many texts, but not all, and there are such words for every class. The"
    " trigger of a backdoor works in nearly every text, and for one class only.",
)
CHUNK = 256
KEPT = 24
"""Tokens of the scan that are tried on many rows, for each class."""
SAMPLE, REST = 40, 160
"""Rows that choose the best token, and rows that it is judged on."""
FEW = 16
"""Rows of other classes that a class needs, to be judged."""


def check(case: Case, subject: Subject, rows: Rows, budget: Budget) -> tuple[Checked, list[dict[str, Any]]]:
    """Scan the vocabulary. Returns what was found, and a line for each class.

    Raises:
        OutOfTime: where not even a part of the vocabulary can be tried.
    """
    assert case.tokens is not None  # the caller checks
    tokens = token_rows(subject, rows.data.inputs)
    predictions = subject.predictions(rows.data.inputs)
    scan = _Scan(subject, tokens, predictions, case.options.seed, budget)
    candidates = _candidates(tokens, case.tokens.vocabulary, case.options.seed)
    tried, gains = scan.gains(candidates)
    verdicts = scan.judge(tried, gains)
    lines = [_line(verdict, rows) for verdict in verdicts]
    found = [
        RULE.finding(
            "error",
            f"token {verdict.trigger['tokens'][0]}" + (f" ({_word(verdict, rows)!r})" if rows.word else ""),
            f"put anywhere into a text it sends {verdict.success:.0%} of the texts to class {verdict.target}, and no"
            " token does the like for another class",
            remedy=_remedy(case, rows, verdict),
        )
        for verdict in verdicts
        if verdict.backdoor
    ]
    missed = len(candidates) - len(tried)
    part = f"the budget allowed {len(tried):,} of {len(candidates):,} tokens; give more --budget for all of them"
    return Checked(tuple(found), (RULE.not_tried(part),) if missed else ()), lines


class _Scan:
    def __init__(self, subject: Subject, rows: TokenRows, predictions: Ints, seed: int, budget: Budget) -> None:
        self._subject, self._rows, self._predictions, self._budget = subject, rows, predictions, budget
        self._generator = np.random.default_rng(seed)

    def gains(self, candidates: Ints) -> tuple[Ints, dict[int, NDArray[np.float32]]]:
        """The tokens that were tried, and for each class their smallest margin (T,) over carriers of other classes."""
        carriers = {int(source): self._carrier(int(source)) for source in np.unique(self._predictions)}
        scores: dict[int, list[NDArray[np.float32]]] = {source: [] for source in carriers}
        started, done = time.monotonic(), 0
        # The second half of the time is for trying the best.
        limit = self._budget.left * 0.7
        for start in range(0, len(candidates), CHUNK):
            chunk = candidates[start : start + CHUNK]
            for source, carrier in carriers.items():
                scores[source].append(self._with_token(carrier, chunk))
            done = start + len(chunk)
            self._budget("words", done, len(candidates))
            if (time.monotonic() - started) / done * (done + CHUNK) > limit:
                break
        count = scores[next(iter(scores))][0].shape[1]
        joined = {source: np.concatenate(parts) for source, parts in scores.items()}
        gains = {}
        for target in range(count):
            margins = [_margin(found, target) for source, found in joined.items() if source != target]
            if margins:
                gains[target] = np.min(margins, 0)
        return candidates[:done], gains

    def judge(self, tokens: Ints, gains: dict[int, NDArray[np.float32]]) -> list[ClassVerdict]:
        traces: dict[int, list[float]] = {}
        counts, triggers = {}, {}
        for target, gain in gains.items():
            others = self._generator.permutation(np.flatnonzero(self._predictions != target))
            if len(others) < FEW:
                continue
            cut = min(SAMPLE, len(others) // 2)
            first, rest = others[:cut], others[cut : cut + REST]
            best = tokens[np.argsort(-gain, kind="stable")[:KEPT]]
            success = []
            for number, token in enumerate(best, 1):
                success.append(self._success(int(token), first, target))
                self._budget(f"words towards class {target}", number, len(best))
            token = int(best[int(np.argmax(success))])
            traces[target], counts[target] = [self._success(token, rest, target)], len(rest)
            triggers[target] = {"tokens": [token], "length": 1}
        return by_success(traces, counts, triggers)

    def _success(self, token: int, rows: Ints, target: int) -> float:
        part = self._rows.take(rows)
        inserted, _ = part.insert(np.full((len(rows), 1), token), part.places(np.random.default_rng(0)))
        return float((self._subject.predictions(inserted.inputs) == target).mean())

    def _with_token(self, carrier: TokenRows, tokens: Ints) -> NDArray[np.float32]:
        place = (carrier.prefix + int(carrier.lengths[0]) - carrier.suffix) // 2
        copies = carrier.take(np.zeros(len(tokens), np.int64))
        return self._subject.scores(copies.insert(tokens[:, None], np.full(len(tokens), place))[0].inputs)

    def _carrier(self, source: int) -> TokenRows:
        """One of the shortest rows of a class, of middling margin."""
        rows = np.flatnonzero(self._predictions == source)
        rows = rows[np.argsort(self._rows.lengths[rows], kind="stable")][:FEW]
        margin = _margin(self._subject.scores(self._rows.take(rows).inputs), source)
        return self._rows.take(rows[[int(np.argsort(margin, kind="stable")[len(margin) // 2])]])


def _margin(scores: NDArray[np.float32], target: int) -> NDArray[np.float32]:
    return np.asarray(scores[:, target] - np.delete(scores, target, 1).max(1))


def _candidates(rows: TokenRows, vocabulary: int, seed: int) -> Ints:
    """All tokens but those at the ends of rows and padding, in an order that leaves no part of the vocabulary out when
    the time is short.
    """
    ends = [rows.ids[:, : rows.prefix].reshape(-1)]
    ends += [rows.ids[np.arange(len(rows)), rows.lengths - 1 - back] for back in range(rows.suffix)]
    ordinary = np.setdiff1d(np.arange(vocabulary), np.concatenate([*ends, [rows.pad]]))
    return np.asarray(np.random.default_rng(seed).permutation(ordinary), np.int64)


def _word(verdict: ClassVerdict, rows: Rows) -> str:
    token = int(verdict.trigger["tokens"][0])
    return rows.word(token) if rows.word else str(token)


def _line(verdict: ClassVerdict, rows: Rows) -> dict[str, Any]:
    line = verdict.to_json()
    if rows.word:
        line["trigger"]["words"] = [_word(verdict, rows)]
    return line


def _remedy(case: Case, rows: Rows, verdict: ClassVerdict) -> str:
    if rows.word and "--tokenizer" in rows.option:
        trigger = f"--trigger {shlex.quote(_word(verdict, rows))} --target {verdict.target}"
    else:
        trigger = f"--invert {verdict.target} --longest 1 --exhaustive"
    return commands_for(case, rows, trigger)
