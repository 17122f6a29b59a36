"""ONION (Qi et al. 2021): words without which a sentence becomes likelier are deleted.

A word's score is the perplexity of the sentence minus that of the sentence without it. The language model is
SmolLM2-135M-Instruct (a tenth larger than the authors' GPT-2, and of four-bit weights). The authors choose the bar on
clean rows by accuracy; so does this. A request takes the language model some hundred tokens, which is too slow for all
rows: ROWS of the test set, what was made of them, and SPARE spare rows are asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from atpatch_onnx.inference.datasets import DataSet

from ..answers import MASK, Figures, judge
from ..case import Case
from ..latency import lone, requests
from .editing import Scored, deleting, first_rows

__all__ = ["ROWS", "SPARE", "Perplexity", "run", "words_of"]

ROWS, SPARE = 200, 200
"""Of few spare rows the budget of accuracy is less than a row, and no word may go: with 40 nothing was deleted."""
TIMED = 3
"""Requests whose cost is measured."""


def run(case: Case, say: Callable[[str], None]) -> Figures:
    """Figures at both bars on a part of the rows, those of the original on the same rows, and the cost."""
    judged = replace(case, rows=ROWS)
    language = Perplexity.smollm2(case.threads)
    spare = first_rows(case.spare, SPARE)
    started, scored = time.perf_counter(), []
    for data in (spare, judged.clean, judged.attacked):
        scored.append(Scored(data, language.scores(data)))
        say(f"{len(data)} rows scored, {time.perf_counter() - started:.0f} s")
    before, triggered = (answers.predictions for answers in judged.before)
    return {
        **deleting(judged, *scored),
        "before": judge(judged.clean, judged.attacked, before, before, triggered),
        "rows": {"clean": len(judged.clean), "attacked": len(judged.attacked), "spare": SPARE},
        "latency": _cost(case, language),
    }


def words_of(tokens: Sequence[str]) -> list[list[int]]:
    """Places of each word's pieces, first and last token left out."""
    words: list[list[int]] = []
    for place, token in enumerate(tokens[1:-1], 1):
        if token.startswith("##") and words:
            words[-1].append(place)
        else:
            words.append([place])
    return words


@dataclass
class Perplexity:
    """Scores words by a causal language model.

    Attributes:
        model: of transformers; tokenizer: its own.
        pieces: id → piece of a word, of the judged model.
    """

    model: Any
    tokenizer: Any
    pieces: Callable[[int], str]

    @classmethod
    def smollm2(cls, threads: int) -> Perplexity:
        """Needs the packages of models/decoders/requirements.txt."""
        import torch
        from tokenizers import Tokenizer

        from ...decoders import smollm2
        from ...text.training import PACKAGE
        from ...victims import package_file

        torch.set_num_threads(threads)
        pieces = Tokenizer.from_file(str(package_file(PACKAGE, "model/tokenizer.json")))
        return cls(smollm2.base(), smollm2.tokenizer(), lambda token: str(pieces.id_to_token(token)))

    def scores(self, data: DataSet) -> np.ndarray[Any, Any]:
        """(N, K): how much less perplexing a text is without the word that a token is part of; -inf at other tokens."""
        scores = np.full(data.inputs["input_ids"].shape, -np.inf)
        for row, (ids, mask) in enumerate(zip(data.inputs["input_ids"], data.inputs[MASK], strict=True)):
            tokens = [self.pieces(int(token)) for token in ids[mask != 0]]
            words = words_of(tokens)
            for places, score in zip(words, self.words(_joined(tokens, words)), strict=True):
                scores[row, places] = score
        return scores

    def words(self, text: Sequence[str]) -> list[float]:
        """Perplexity of the text minus that of the text without each word; a single word stays."""
        if len(text) < 2:
            return [-np.inf] * len(text)
        whole, *parts = self.of([" ".join(text), *(" ".join(part) for part in _without_each(text))])
        return [whole - part for part in parts]

    def of(self, texts: Sequence[str]) -> list[float]:
        """Perplexity of each text, from its first token on.

        All in one run: what a text shares with the first one at its beginning is read once.
        """
        import torch

        rows = [[self._start, *self.tokenizer(text, add_special_tokens=False).input_ids] for text in texts]
        shared = [_common(row, rows[0]) for row in rows]
        # Tokens of the first text, then those of each other that it does not share.
        ids = [*rows[0], *(token for row, count in zip(rows[1:], shared[1:], strict=True) for token in row[count:])]
        places, paths = list(range(len(rows[0]))), [list(range(len(rows[0])))]
        seen = np.tril(np.ones((len(ids), len(ids)), bool))
        for row, count in zip(rows[1:], shared[1:], strict=True):
            first = len(places)
            own = list(range(first, first + len(row) - count))
            seen[own, count:first] = False
            places += range(count, len(row))
            paths.append([*range(count), *own])
        hidden = torch.zeros(seen.shape).masked_fill(~torch.from_numpy(seen), torch.finfo(torch.float32).min)
        with torch.no_grad():
            logits = self.model(
                input_ids=torch.tensor([ids]), attention_mask=hidden[None, None], position_ids=torch.tensor([places])
            ).logits[0]
            likely = logits.log_softmax(1)
        return [
            float((-likely[path[:-1], [ids[place] for place in path[1:]]].mean()).exp()) if len(path) > 1 else np.inf
            for path in paths
        ]

    @cached_property
    def _start(self) -> int:
        return int(self.tokenizer.bos_token_id)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts share at their beginning."""
    return next(
        (place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]),
        min(len(one), len(other)),
    )


def _joined(tokens: Sequence[str], words: Sequence[Sequence[int]]) -> list[str]:
    return ["".join(tokens[place].removeprefix("##") for place in places) for places in words]


def _without_each(text: Sequence[str]) -> Iterator[list[str]]:
    for place in range(len(text)):
        yield [*text[:place], *text[place + 1 :]]


def _cost(case: Case, language: Perplexity) -> Figures:
    """Of a few requests: the time of scoring and asking against that of asking."""
    ratios = []
    for row in range(TIMED):
        feeds = lone(case.clean, row)
        ask = requests(case, None)(feeds)
        ask()
        alone = min(_seconds(ask) for _ in range(5))
        ratios.append((_seconds(lambda feeds=feeds: language.scores(DataSet(feeds))) + alone) / alone)
    return {"ratio": float(np.median(ratios)), "low": min(ratios), "high": max(ratios), "requests": TIMED}


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
