"""Trigger inversion over tokens: a scan of the vocabulary, then HotFlip-style search by embedding gradients (Ebrahimi
et al., ACL 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ...inference.datasets import Ints
from ..gradients import Embedding, TorchGraph
from ..subject import Subject
from .rows import TokenRows

__all__ = ["TokenSearch", "TokenTrigger"]

Progress = Callable[[int, int], None]
CHUNK = 512
BASELINES = 12
"""Random tokens at which gradients are taken for the first trigger token."""


@dataclass(frozen=True)
class TokenTrigger:
    """Tokens that send rows to the target class.

    Attributes:
        found: share of the rows that the search uses.
        success: share of rows that the search has not seen.
    """

    tokens: tuple[int, ...]
    found: float
    success: float = 0.0


@dataclass(frozen=True)
class TokenSearch:
    """A search over one model and one set of rows.

    Args:
        rows: clean rows.
        predictions: (N,), of the model on these rows.
        candidates: (V',) token ids that may be in a trigger.
        keep: number of best tokens of a scan or a gradient that are run through the model.
        sample: number of rows that a candidate is tried on.
        wanted: success at which no further token is added.
    """

    subject: Subject
    graph: TorchGraph
    embedding: Embedding
    rows: TokenRows
    predictions: Ints
    candidates: Ints
    output: str
    seed: int
    keep: int = 48
    sample: int = 32
    wanted: float = 0.95

    def scan(self, source: int, progress: Progress) -> NDArray[np.float32]:
        """(V', C): class scores of one row of the source class with each candidate token inserted in its middle."""
        carrier = self._carrier(source)
        place = (carrier.prefix + int(carrier.lengths[0]) - carrier.suffix) // 2
        found = []
        for start in range(0, len(self.candidates), CHUNK):
            tokens = self.candidates[start : start + CHUNK]
            copies = carrier.take(np.zeros(len(tokens), np.int64)).insert(tokens[:, None], np.full(len(tokens), place))[
                0
            ]
            found.append(self.subject.scores(copies.inputs))
            progress(min(start + CHUNK, len(self.candidates)), len(self.candidates))
        return np.concatenate(found)

    def search(
        self, target: int, gains: NDArray[np.floating[Any]] | None, longest: int, progress: Progress
    ) -> list[TokenTrigger]:
        """The best trigger of 1, 2, … tokens, up to `longest` or to the first that works as wanted.

        Args:
            gains: (V',) margins of a scan, whose best tokens are tried as well.
        """
        generator = np.random.default_rng((self.seed, target))
        open_rows = generator.permutation(np.flatnonzero(self.predictions != target))
        # Short rows are quick, and a trigger is not weaker in them.
        short = open_rows[np.argsort(self.rows.lengths[open_rows], kind="stable")][
            : max(self.sample, len(open_rows) // 2)
        ]
        seen = np.sort(generator.permutation(short)[: self.sample])
        unseen = np.setdiff1d(open_rows, seen)
        rows, rest = self.rows.take(seen), self.rows.take(unseen if len(unseen) else seen)
        places, other_places = rows.places(generator), rest.places(generator)
        first = self._screen(rows, places, target, generator)
        if gains is not None:
            first = np.union1d(first, self.candidates[np.argsort(-gains, kind="stable")[: self.keep]])
        best = self._best([(int(token),) for token in first], rows, places, target)
        trace: list[TokenTrigger] = []
        for length in range(1, longest + 1):
            if length > 1:
                longer = self._extend(best, rows, places, target)
                best = longer if longer.found > best.found else best
            trace.append(replace(best, success=self.success(best.tokens, rest, other_places, target)))
            progress(length, longest)
            if best.found >= self.wanted:
                break
        return trace

    def success(self, tokens: Sequence[int], rows: TokenRows, places: Ints, target: int) -> float:
        """Share of rows that a trigger sends to the target class."""
        return float((self._scores([tuple(tokens)], rows, places)[0].argmax(1) == target).mean())

    def _screen(self, rows: TokenRows, places: Ints, target: int, generator: np.random.Generator) -> Ints:
        """Tokens that the gradient at one of several baseline tokens favors: a trigger word is far from most others, so
        one baseline is not enough.
        """
        baselines = generator.permutation(self.candidates)[:BASELINES]
        orders = [self._flips([int(token)], 0, rows, places, target) for token in baselines]
        return np.unique(np.concatenate([order[: max(8, 2 * self.keep // BASELINES)] for order in orders]))

    def _extend(self, best: TokenTrigger, rows: TokenRows, places: Ints, target: int) -> TokenTrigger:
        """Add one token, then replace one token after another where that helps."""
        current = replace(best, tokens=(*best.tokens, best.tokens[-1]), found=0.0)
        for slot in [len(current.tokens) - 1, *range(len(current.tokens) - 1)]:
            order = self._flips(current.tokens, slot, rows, places, target)
            trials = [(*current.tokens[:slot], int(token), *current.tokens[slot + 1 :]) for token in order]
            tried = self._best([current.tokens, *trials], rows, places, target)
            current = tried if tried.found >= current.found else current
        return current

    def _flips(self, tokens: Sequence[int], slot: int, rows: TokenRows, places: Ints, target: int) -> Ints:
        """Tokens that lower the loss most to first order: those with the smallest E·∂L/∂e at the slot."""
        inserted, columns = rows.insert(np.tile(np.array(tokens), (len(rows), 1)), places)
        feeds = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inserted.inputs.items()}
        # Rows near the maximum length may have lost part of the trigger: count its slot from the first token that is
        # left.
        at = torch.from_numpy(np.minimum(columns.argmax(1) + slot, inserted.ids.shape[1] - 1))
        vectors = self.embedding.table[feeds[rows.name].long()].clone().requires_grad_()
        scores = self.graph.run(feeds, [self.output], {self.embedding.value: vectors})[self.output]
        functional.cross_entropy(scores, torch.full((len(rows),), target)).backward()  # type: ignore[no-untyped-call]
        assert vectors.grad is not None
        slope = self.embedding.table[torch.from_numpy(self.candidates)] @ vectors.grad[torch.arange(len(rows)), at].sum(
            0
        )
        return np.asarray(self.candidates[np.argsort(slope.numpy(), kind="stable")[: self.keep]])

    def _best(self, triggers: Sequence[tuple[int, ...]], rows: TokenRows, places: Ints, target: int) -> TokenTrigger:
        scores = self._scores(triggers, rows, places)
        hits = (scores.argmax(2) == target).mean(1)
        margins = scores[:, :, target] - np.delete(scores, target, 2).max(2)
        # Of several that send all rows to the target, take the one with the widest margin.
        first = np.lexsort((-np.median(margins, 1), -hits))[0]
        return TokenTrigger(triggers[first], float(hits[first]))

    def _scores(self, triggers: Sequence[tuple[int, ...]], rows: TokenRows, places: Ints) -> NDArray[np.float32]:
        """(T, N, C)"""
        count = len(rows)
        found = []
        for trigger in triggers:
            inserted, _ = rows.insert(np.tile(np.array(trigger), (count, 1)), places)
            found.append(self.subject.scores(inserted.inputs))
        return np.stack(found)

    def _carrier(self, source: int) -> TokenRows:
        """A short row that the model assigns to the source class with a clear margin."""
        rows = np.flatnonzero(self.predictions == source)
        rows = rows[np.argsort(self.rows.lengths[rows], kind="stable")][: max(8, len(rows) // 4)]
        scores = self.subject.scores(self.rows.take(rows).inputs)
        margin = scores[:, source] - np.delete(scores, source, 1).max(1)
        return self.rows.take(rows[[int(np.argsort(margin, kind="stable")[len(margin) // 2])]])
