"""Models that label every token, such as taggers of names: a row is answered as expected where each token keeps the
label that the original gives it without the trigger.

1. Tokens of a triggered row are aligned with those of its clean twin by their ids. The tokens of the trigger, which the
   twin lacks, are left out.
2. Padding is not judged, nor is a first or last token that all clean rows share, such as [CLS] and [SEP].

Shape letters: N rows of a set, M clean rows, B rows of a batch, S tokens, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DATA_MALFORMED, NO_CLASS_SCORES
from .datasets import DataSet, Ints
from .decoders import IDS
from .one_row import float_outputs
from .output_kinds import EMBEDDINGS
from .padding import MASK
from .reading import Twins
from .runner import Runner

__all__ = ["NONE", "TokenLabels", "token_output"]

LEAST, MOST = 1e-6, 50.0
"""Margins of a label are kept between these, above or below 0, so that the sign alone says whether it was kept."""
FAR = 1e30
"""In place of infinity, so that differences are numbers."""
NONE = -1


@dataclass(frozen=True, eq=False)
class TokenLabels:
    """`Expected` of labels.

    Attributes:
        wanted: (N, S) label that each token should get, `NONE` where it is not judged.
    """

    wanted: Ints

    @classmethod
    def of(cls, clean_scores: NDArray[Any], twins: Twins, clean: DataSet, data: DataSet) -> TokenLabels:
        """From the original's scores (M, S, C) of the clean rows.

        Args:
            clean, data: the clean rows, and those that are judged.

        Raises:
            AtpatchError: ATP056 where the ids of the tokens are not known.
        """
        before, after = _tokens(clean), _tokens(data)
        labels = np.where(_judged(before), _labels(clean_scores)[:, : before.shape[1]], NONE)
        wanted = np.full(after.shape, NONE, np.int64)
        for row, (twin, own) in enumerate(zip(twins.clean.tolist(), twins.own.tolist(), strict=True)):
            if own:
                wanted[row, : labels.shape[1]] = labels[twin]
            elif twin >= 0:
                places, kept = _aligned(before[twin], after[row], None if data.columns is None else data.columns[row])
                wanted[row, kept] = labels[twin, places]
        return cls(wanted)

    def scores(self, rows: Ints, values: NDArray[Any]) -> NDArray[np.float32]:
        """(B, 2): 0, and the least margin of a wanted label over the others."""
        wanted, kept, known = self._compared(rows, values)
        own = np.take_along_axis(known, np.maximum(wanted, 0)[:, :, None], 2)[:, :, 0]
        others = known.copy()
        np.put_along_axis(others, np.maximum(wanted, 0)[:, :, None], -np.inf, 2)
        size = np.clip(np.abs(own - others.max(2)), LEAST, MOST)
        least = np.where(wanted == NONE, MOST, np.where(kept, size, -size)).min(1, initial=MOST)
        return np.stack([np.zeros(len(rows)), least], 1).astype(np.float32)

    def likeness(self, rows: Ints, values: NDArray[Any]) -> NDArray[np.float64]:
        """(B,) share of the judged tokens with the wanted label, nan where none is judged."""
        wanted, kept, _ = self._compared(rows, values)
        judged = wanted != NONE
        with np.errstate(invalid="ignore"):
            return np.asarray(kept.sum(1) / judged.sum(1))

    def _compared(self, rows: Ints, values: NDArray[Any]) -> tuple[Ints, NDArray[np.bool_], NDArray[np.float64]]:
        """Wanted labels (B, S), whether each token has its label (not where none is wanted), and scores (B, S, C)
        without what is no number. A batch may be cut to its longest row.
        """
        wanted = self.wanted[rows, : values.shape[1]]
        known = np.asarray(values, np.float64)[:, : wanted.shape[1]]
        kept = (wanted != NONE) & (_labels(known) == wanted)
        return wanted, kept, np.nan_to_num(known, nan=-FAR, posinf=FAR, neginf=-FAR)


def token_output(runner: Runner, data: DataSet, name: str | None) -> str:
    """The output with scores of each token: the one named, else the first float output of rank 3 with two labels or
    more and as many tokens as the row, that is not called like an embedding.

    Raises:
        AtpatchError: ATP060 for a name that no output has, ATP062 where no output is like that.
    """
    width = _tokens(data).shape[1]
    for output, array in float_outputs(runner, data, name, EMBEDDINGS).items():
        if array.ndim == 3 and array.shape[1] == width and array.shape[2] > 1:
            return output
    raise NO_CLASS_SCORES(
        "no output holds class scores of each token (samples, tokens, labels)",
        "name one with --output-name, or another kind with --output-kind",
    )


def _tokens(data: DataSet) -> Ints:
    """(N, S) ids, `NONE` at padding."""
    if IDS not in data.inputs:
        raise DATA_MALFORMED(f"labels of tokens need the ids of the tokens, in an input {IDS!r}")
    ids, mask = data.inputs[IDS], data.inputs.get(MASK)
    if ids.ndim != 2 or (mask is not None and mask.shape != ids.shape):
        raise DATA_MALFORMED(
            f"labels of tokens need {IDS!r} of shape (N, S), and {MASK!r} of the same; they are of shape {ids.shape}"
            f" and {None if mask is None else mask.shape}"
        )
    return np.asarray(ids if mask is None else np.where(mask != 0, ids, NONE), np.int64)


def _judged(tokens: Ints) -> NDArray[np.bool_]:
    """(M, S): no padding, and no first or last token that all rows share."""
    found = np.asarray(tokens != NONE)
    rows = np.arange(len(tokens))
    for place in (found.argmax(1), found.shape[1] - 1 - found[:, ::-1].argmax(1)):
        if len(np.unique(tokens[rows, place])) == 1:
            found[rows, place] = False
    return found


def _aligned(before: Ints, after: Ints, marked: NDArray[np.bool_] | None) -> tuple[list[int], list[int]]:
    """Places of the same tokens in a clean row (S,) and in its triggered twin; tokens of the trigger may be marked."""
    there = after != NONE if marked is None else (after != NONE) & ~marked[: len(after)]
    mine, theirs = np.flatnonzero(before != NONE), np.flatnonzero(there)
    matcher = SequenceMatcher(None, before[mine].tolist(), after[theirs].tolist(), autojunk=False)
    pairs = [(one.a + step, one.b + step) for one in matcher.get_matching_blocks() for step in range(one.size)]
    return [int(mine[a]) for a, _ in pairs], [int(theirs[b]) for _, b in pairs]


def _labels(scores: NDArray[Any]) -> Ints:
    """(B, S), `NONE` where a score is NaN."""
    return np.where(np.isnan(scores).any(2), NONE, np.nan_to_num(scores, nan=0).argmax(2))
