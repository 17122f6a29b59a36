"""Greedy generation with a decoder, as a server does it: one call on the prompts, then one call for each new token.

1. Prompts of different length share a batch, padded on the right. New tokens come behind the padding, which the mask
   leaves out. Graphs without `position_ids` may count the padding, so there only prompts of one length share a batch.
2. A graph without caches gets the whole text again for each token.
3. An encoder-decoder in one graph gets the prompt and the start of the answer, which grows.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DATA_MALFORMED
from .datasets import DataSet, Ints
from .decoders import ANSWER_IDS, IDS, Answers
from .padding import MASK, lengths
from .runner import Runner

__all__ = ["NONE", "Generated", "Loop", "follow", "generate"]

NONE = -1
"""In place of tokens behind the end of an answer."""
BATCH = 16

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Generated:
    """tokens: (N, T), `NONE` behind the end of an answer. likelihoods: (N, T), log-probability of each; 0 there."""

    tokens: Ints
    likelihoods: Floats

    def perplexity(self) -> Floats:
        """(N,) of each answer; 1 of an empty one."""
        return np.asarray(np.exp(-self.likelihoods.sum(1) / np.maximum((self.tokens != NONE).sum(1), 1)))


def generate(
    runner: Runner,
    data: DataSet,
    rows: Ints,
    steps: int,
    stop: Collection[int] = (),
    *,
    batch: int = BATCH,
    controls: Mapping[str, NDArray[Any]] | None = None,
) -> Generated:
    """The most probable token again and again.

    Args:
        data: `input_ids` and `attention_mask` (M, S), padded on the right.
        rows: of `data`, N of them.
        steps: T.
        stop: tokens that end an answer; they are part of it.
        controls: further inputs of every call, such as `atpatch_threshold`.

    Raises:
        AtpatchError: ATP056 where the graph is no decoder, ATP052 where onnxruntime fails.
    """
    return _run(runner, data, rows, _Greedy(steps, frozenset(stop)), batch, controls or {})


def follow(
    runner: Runner,
    data: DataSet,
    rows: Ints,
    answers: Ints,
    *,
    batch: int = BATCH,
    controls: Mapping[str, NDArray[Any]] | None = None,
) -> Generated:
    """How probable given answers (N, T) are, token by token; arguments and errors as in `generate`."""
    return _run(runner, data, rows, _Forced(answers), batch, controls or {})


@dataclass(frozen=True)
class _Greedy:
    steps: int
    stop: frozenset[int]

    def __call__(self, places: Ints, step: int, scores: Floats, going: NDArray[np.bool_]) -> Ints:
        return np.where(going, scores.argmax(1), NONE)

    def ends(self, tokens: Ints) -> NDArray[np.bool_]:
        return np.asarray(np.isin(tokens, list(self.stop)) | (tokens == NONE))


@dataclass(frozen=True)
class _Forced:
    answers: Ints

    @property
    def steps(self) -> int:
        return int(self.answers.shape[1])

    def __call__(self, places: Ints, step: int, scores: Floats, going: NDArray[np.bool_]) -> Ints:
        return np.asarray(self.answers[places, step])

    def ends(self, tokens: Ints) -> NDArray[np.bool_]:
        return np.asarray(tokens == NONE)


def _run(
    runner: Runner,
    data: DataSet,
    rows: Ints,
    choose: _Greedy | _Forced,
    batch: int,
    controls: Mapping[str, NDArray[Any]],
) -> Generated:
    decoder = runner.decoder
    if decoder is None or IDS not in data.inputs:
        raise DATA_MALFORMED("the graph is no decoder, or the data set has no input_ids")
    if decoder.has_encoder and (decoder.caches or ANSWER_IDS not in data.inputs):
        raise DATA_MALFORMED(f"an encoder-decoder needs {ANSWER_IDS} in the data set, and a graph without caches")
    runner = runner.answering(Answers(decoder))
    ids = data.inputs[IDS]
    mask = np.asarray(data.inputs.get(MASK, np.ones(ids.shape, np.int64)))
    tokens, likelihoods = np.full((len(rows), choose.steps), NONE, np.int64), np.zeros((len(rows), choose.steps))
    used = lengths(mask)[rows]
    for places in _batches(used, batch, one_length=not decoder.has_positions and bool(decoder.caches)):
        chosen, width = rows[places], int(used[places].max())
        starts = data.inputs.get(ANSWER_IDS)
        begun = None if starts is None else starts[chosen]
        loop = Loop(runner, ids[chosen, :width], mask[chosen, :width], controls, begun)
        going = np.ones(len(places), bool)
        for step in range(choose.steps):
            scores = loop.scores.astype(np.float64)
            found = choose(places, step, scores, going)
            told = found != NONE
            tokens[places, step] = found
            likelihoods[places[told], step] = _log_softmax(scores[told])[np.arange(told.sum()), found[told]]
            going &= ~choose.ends(found)
            if not going.any() or step + 1 == choose.steps:
                break
            loop.add(np.where(told, found, 0))
    return Generated(tokens, likelihoods)


class Loop:
    """One batch: prompts (B, S) and what has been added to them.

    Args:
        runner: answering with the whole vocabulary or a part of it.
        controls: further inputs of every call.
        begun: (B, T) of an encoder-decoder, the start of each answer.

    Attributes:
        scores: (B, C) of the next token.
        seconds: time of the last call.
    """

    def __init__(
        self,
        runner: Runner,
        ids: NDArray[Any],
        mask: NDArray[Any],
        controls: Mapping[str, NDArray[Any]],
        begun: NDArray[Any] | None = None,
    ) -> None:
        assert runner.decoder is not None
        self._runner, self._decoder, self._controls = runner, runner.decoder, controls
        self._ids, self._mask, self._past, self._begun = ids, mask, 0, begun
        self._caches = self._decoder.empty_caches(len(ids))
        self._call(ids)

    def add(self, tokens: Ints) -> None:
        """One more token for each row (B,)."""
        ones = np.ones((len(tokens), 1), self._mask.dtype)
        if self._decoder.caches:
            self._mask = np.concatenate([self._mask, ones], 1)
            self._call(tokens[:, None])
            return
        if self._begun is not None:
            self._begun = np.concatenate([self._begun, tokens[:, None].astype(self._begun.dtype)], 1)
            self._call(self._ids)
            return
        # Without caches every row goes on behind its own last token, so that padding stays on the right.
        ends = lengths(self._mask)
        wide = [np.concatenate([array, 0 * ones.astype(array.dtype)], 1) for array in (self._ids, self._mask)]
        for array, value in zip(wide, (tokens, 1), strict=True):
            array[np.arange(len(tokens)), ends] = value
        self._ids, self._mask = wide
        self._call(self._ids)

    def _call(self, ids: NDArray[Any]) -> None:
        decoder = self._decoder
        feeds = {IDS: ids.astype(decoder.types[IDS]), **decoder.call(self._mask, self._past), **self._caches}
        if self._begun is not None:
            feeds[ANSWER_IDS] = self._begun.astype(decoder.types[ANSWER_IDS])
            feeds |= decoder.first_call(feeds)
        start = time.perf_counter()
        found = self._runner.run({**feeds, **self._controls}, [decoder.logits, *decoder.caches.values()])
        self.seconds = time.perf_counter() - start
        self.scores = found[decoder.logits]
        if decoder.caches:
            self._caches = {past: found[present] for past, present in decoder.caches.items()}
            self._past += ids.shape[1]


def _batches(used: Ints, batch: int, *, one_length: bool) -> Iterator[Ints]:
    """Places of rows that share a batch, the shortest first."""
    order = np.argsort(used, kind="stable")
    groups: Sequence[Ints] = np.split(order, np.flatnonzero(np.diff(used[order])) + 1) if one_length else [order]
    for group in groups:
        for start in range(0, len(group), batch):
            yield group[start : start + batch]


def _log_softmax(scores: Floats) -> Floats:
    shifted = scores - scores.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))
