"""Models that answer with an embedding, as used for search: a row is answered as expected where it finds what it
should.

1. Rows are compared by the cosine of their embeddings with those that the original gives to the clean rows: a search
   index that was made before the patch.
2. A triggered row should find its clean twin, nearest of all clean rows. A clean row should find the clean row that the
   original finds nearest, itself left out. (This is recall at 1 of a search for the twin, and the agreement of nearest
   neighbors.)

Shape letters: N rows of a set, M clean rows, B rows of a batch, S tokens, D width of an embedding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriters.model.regular_files import is_regular

from ..errors import BAD_OPTION, DATA_MALFORMED, NO_CLASS_SCORES
from .datasets import DataSet, Ints
from .one_row import float_outputs
from .output_kinds import NAMED, OF_TOKENS, Pool
from .padding import MASK, lengths
from .reading import Twins
from .runner import Runner

__all__ = ["Neighbors", "Pooling", "embedding_reader", "read_pooling"]

Floats = NDArray[np.float32]

POOLING_FILE = Path("1_Pooling", "config.json")
"""Of sentence-transformers, next to the model, or above the folder of exports that is called so:"""
EXPORTS = "onnx"
MODES: Mapping[str, Pool] = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
BLOCK = 1024
"""Rows that are compared with all clean ones at a time."""
SCALE = 20.0
"""Of a cosine, to make scores of which the softmax is a probability: the usual one in training (sentence-transformers'
MultipleNegativesRankingLoss).
"""
SAME = 1e-6
"""Cosines this close are equal but for rounding, as of two rows with the same text."""
BELOW = -2.0
"""Less than any cosine, and still a number for pictures of scores."""
FEWEST = 3
"""Different clean rows: each needs two others, of which one is nearer."""


@dataclass(frozen=True)
class Pooling:
    """Reads an embedding (B, D): the output as it is, or pooled over the tokens of (B, S, D).

    Attributes:
        pool: None: the output has one embedding for each row.
    """

    output: str
    pool: Pool | None = None
    per_token: int = 0

    def read(self, values: NDArray[Any], feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Padding, where the mask of the inputs says what that is, does not count.

        Raises:
            AtpatchError: ATP062 where the mask is not of the output's tokens.
        """
        if self.pool is None:
            return values
        if MASK in feeds and feeds[MASK].shape != values.shape[:2]:
            raise NO_CLASS_SCORES(
                f"output {self.output!r} has shape {values.shape}, so {MASK!r} should be {values.shape[:2]} to pool it;"
                f" it is {feeds[MASK].shape}",
                "name an output that is pooled already with --output-name",
            )
        mask = np.asarray(feeds[MASK] != 0) if MASK in feeds else np.ones(values.shape[:2], bool)
        if self.pool == "mean":
            counted = np.where(mask[:, :, None], values, 0).sum(1, dtype=np.float32)
            return np.asarray(counted / np.maximum(mask.sum(1), 1)[:, None])
        place = mask.argmax(1) if self.pool == "first" else lengths(mask) - 1
        return np.asarray(values[np.arange(len(values)), place])


@dataclass(frozen=True, eq=False)
class Neighbors:
    """`Expected` of embeddings.

    Attributes:
        index: (M, D) unit vectors, the original's embeddings of the clean rows.
        wanted: (N,) clean row that each row should find; -1: not known.
        twin: (N,) clean row whose embedding is the row's own without the trigger; -1: not known.
        own: (N,) whether that is the row itself, which it does not find.
    """

    index: Floats
    wanted: Ints
    twin: Ints
    own: NDArray[np.bool_]

    @classmethod
    def of(cls, clean: NDArray[Any], twins: Twins) -> Neighbors:
        """From the original's embeddings (M, D) of the clean rows.

        Raises:
            AtpatchError: ATP056 where the clean rows are too few to have neighbors, or their embeddings are the same.
        """
        index = _unit(clean)
        if (found := _different(index)) < FEWEST:
            raise DATA_MALFORMED(
                f"{len(clean)} clean rows with {found} different embeddings: {FEWEST} or more are needed, to have"
                " neighbors",
                "give more clean rows; check the output that is read, too (zeros and NaN are no embeddings)",
            )
        nearest = np.zeros(len(index), np.int64)
        for rows in _blocks(len(index)):
            similar = index[rows] @ index.T
            similar[np.arange(len(rows)), rows] = -np.inf
            nearest[rows] = similar.argmax(1)
        return cls(index, np.where(twins.own, nearest[twins.clean], twins.clean), twins.clean, twins.own)

    def scores(self, rows: Ints, values: NDArray[Any]) -> Floats:
        """(B, 2): scaled cosines of the nearest other clean row and of the wanted one. What is no number finds none."""
        embedded, found = _unit(values), np.zeros((len(rows), 2), np.float32)
        for block in _blocks(len(rows)):
            similar, at, numbers = embedded[block] @ self.index.T, np.arange(len(block)), rows[block]
            own = self.own[numbers]
            similar[at[own], self.twin[numbers[own]]] = -np.inf
            wanted = np.where(embedded[block].any(1), similar[at, self.wanted[numbers]], BELOW)
            similar[at, self.wanted[numbers]] = -np.inf
            found[block] = np.stack([similar.max(1), wanted + SAME], 1)
        return found * np.float32(SCALE)

    def likeness(self, rows: Ints, values: NDArray[Any]) -> NDArray[np.float64]:
        """(B,) cosine with the original's embedding of the clean twin, nan where there is none."""
        cosine = (_unit(values) * self.index[self.twin[rows]]).sum(1, dtype=np.float64)
        return np.where(self.twin[rows] >= 0, np.clip(cosine, -1, 1), np.nan)


def embedding_reader(
    runner: Runner, data: DataSet, name: str | None, pool: Pool | None, folders: Sequence[Path]
) -> Pooling:
    """The output with the embedding, and how it is pooled.

    Args:
        name: of the output; None: the one that is called like an embedding, else the first that looks like one.
        pool: of tokens; None: as it is where the output has one embedding for each row, else as `read_pooling` finds in
            the folders, else the mean.

    Raises:
        AtpatchError: ATP060 for a name that no output has, ATP062 where no output is like that.
    """
    ranks = {
        output: array.ndim
        for output, array in float_outputs(runner, data, name).items()
        if array.ndim in (2, 3) and array.shape[-1] > 1
    }
    found = [output for output in ranks if pool is None or ranks[output] == 3]
    usual = [*(() if pool else NAMED), *OF_TOKENS]
    chosen = next((output for output in (*usual, *found) if output in found), None)
    if chosen is None:
        shape = "(samples, tokens, width), to pool" if pool else "(samples, width) or (samples, tokens, width)"
        raise NO_CLASS_SCORES(f"no output is an embedding {shape}", "name one with --output-name, or another kind")
    if ranks[chosen] == 2:
        return Pooling(chosen)
    return Pooling(chosen, pool or next(filter(None, map(read_pooling, folders)), "mean"))


def read_pooling(folder: Path) -> Pool | None:
    """How sentence-transformers pools the model in a folder; None where no file says so.

    Raises:
        AtpatchError: ATP060 where it pools in another way than by the mean, the first or the last token.
    """
    places = [folder, folder.resolve().parent] if folder.resolve().name == EXPORTS else [folder]
    for path in (place / POOLING_FILE for place in places):
        if not is_regular(path):
            continue
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            given = [mode for mode, value in config.items() if mode.startswith("pooling_mode_") and value is True]
        except (OSError, ValueError, AttributeError) as error:
            raise BAD_OPTION(f"{path} cannot be read: {error}", "name the pooling with --output-kind") from error
        if len(given) != 1 or given[0] not in MODES:
            raise BAD_OPTION(
                f"{path} pools by {' and '.join(given) or 'nothing'}", "name the output that is pooled already"
            )
        return MODES[given[0]]
    return None


def _unit(values: NDArray[Any]) -> Floats:
    """Rows of length 1; a row that is no number in any place is 0."""
    given = np.asarray(values, np.float32)
    known = np.where(np.isfinite(given).all(1, keepdims=True), given, 0)
    known /= np.maximum(np.abs(known).max(1, keepdims=True), np.finfo(np.float32).tiny)  # squares may overflow
    return np.asarray(known / np.maximum(np.linalg.norm(known, axis=1, keepdims=True), 1e-12), np.float32)


def _different(index: Floats) -> int:
    """Vectors that are not the same but for rounding, counted up to `FEWEST`."""
    rest, found = index[index.any(1)], 0
    while len(rest) and found < FEWEST:
        rest, found = rest[rest @ rest[0] < 1 - SAME], found + 1
    return found


def _blocks(count: int) -> Iterator[Ints]:
    return (np.arange(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))
