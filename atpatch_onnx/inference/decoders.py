"""Causal decoders: which inputs a graph takes besides tokens, what a first call feeds there, and where it answers.

A data set of a decoder holds only `input_ids` and `attention_mask`, rows padded on the right. What else the graph asks
for follows from them:

1. `past_…` inputs with a `present…` output of the same name behind that word are caches, empty in a first call;
2. `position_ids` count the tokens of a row;
3. `use_cache_branch` of a merged graph is false in a first call, true with a cache;
4. lengths, of the past and in all.

An encoder-decoder in one graph reads `decoder_input_ids` (B, T) too, the start of the answer, the same number of tokens
in every row. `input_ids` are then those of the encoder, and there is no cache.

Shape letters: B samples, S new tokens, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .padding import MASK, lengths

__all__ = ["ANSWER_IDS", "Answers", "Decoder", "cache_names", "find_decoder"]

IDS, POSITIONS, BRANCH = "input_ids", "position_ids", "use_cache_branch"
ANSWER_IDS, ANSWER_MASK = "decoder_input_ids", "decoder_attention_mask"
PAST = ("past_sequence_length", "past_sequence_lengths", "past_seq_len")
TOTAL = ("total_sequence_length", "total_sequence_lengths", "total_seq_len")
LAST = ("seqlens_k",)
"""Lengths of a row less one, as GroupQueryAttention takes them."""

_PAST, _PRESENT = re.compile(r"past(_key_values)?"), re.compile(r"present(_key_values)?")

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Decoder:
    """What a graph needs to be run as a decoder.

    Attributes:
        logits: output (B, S, V), scores of the next token after each token.
        caches: past input → present output.
        empty: past input → shape of an empty cache; -1 is the number of samples.
        types: numpy dtype of every input.
        ranks: of every input.
        vocabulary: V, 0 where the graph does not say.
    """

    logits: str
    caches: Mapping[str, str]
    empty: Mapping[str, tuple[int, ...]]
    types: Mapping[str, np.dtype[Any]]
    ranks: Mapping[str, int]
    vocabulary: int = 0
    made: frozenset[str] = field(default_factory=frozenset)
    """Inputs that need not be in a data set."""

    @property
    def has_positions(self) -> bool:
        """Whether rows of different length may share a batch behind a padded prompt."""
        return POSITIONS in self.types

    @property
    def has_encoder(self) -> bool:
        """Whether the graph is an encoder-decoder: the answer is an input of its own."""
        return ANSWER_IDS in self.types

    def first_call(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """The inputs that `feeds` lacks, for a call on whole prompts with empty caches; feeds: `input_ids` (B, S), and
        `attention_mask` (B, S) where rows are padded.
        """
        ids = feeds[IDS]
        mask = np.asarray(feeds.get(MASK, np.ones(ids.shape, np.int64)))
        made = {**self.call(mask, 0), **self.empty_caches(len(ids))}
        if ANSWER_MASK in self.types:
            made[ANSWER_MASK] = np.ones(feeds[ANSWER_IDS].shape, self.types[ANSWER_MASK])
        return {name: array for name, array in made.items() if name not in feeds}

    def empty_caches(self, samples: int) -> dict[str, NDArray[Any]]:
        """Past inputs of a first call."""
        return {
            name: np.zeros([samples if size < 0 else size for size in shape], self.types[name])
            for name, shape in self.empty.items()
        }

    def call(self, mask: NDArray[Any], past: int) -> dict[str, NDArray[Any]]:
        """All inputs of a call but tokens and caches.

        Args:
            mask: (B, past + S), 1 at tokens.
            past: columns that are in the caches already.
        """
        counted = (mask != 0).cumsum(1)
        behind = counted[:, past - 1] if past else np.zeros(len(mask), np.int64)
        values = {
            MASK: mask,
            POSITIONS: np.maximum(counted[:, past:] - 1, 0),
            BRANCH: np.full(1, past > 0),
            **dict.fromkeys(PAST, behind),
            **dict.fromkeys(TOTAL, counted[:, -1]),
            **dict.fromkeys(LAST, counted[:, -1] - 1),
        }
        return {name: self._shaped(name, np.asarray(values[name])) for name in self.types if name in values}

    def _shaped(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """In the graph's type and rank; one length for all samples is the largest."""
        rank = self.ranks[name]
        if name in (*PAST, *TOTAL, *LAST):
            array = array.max().reshape(()) if rank == 0 else array.reshape(len(array), *(1,) * (rank - 1))
        return array.astype(self.types[name])


@dataclass(frozen=True)
class Answers:
    """Reads a prediction off a decoder: the scores of the next token at the last valid position of each prompt.

    Attributes:
        decoder: names the output.
        tokens: only these tokens are scored, class i is the i-th; None: the whole vocabulary, the class is the token.
    """

    decoder: Decoder
    tokens: tuple[int, ...] | None = None

    @property
    def output(self) -> str:
        """The logits."""
        return self.decoder.logits

    @property
    def per_token(self) -> int:
        """Scores of one token."""
        return self.decoder.vocabulary

    def read(self, logits: NDArray[Any], feeds: Arrays) -> NDArray[Any]:
        """(B, S, V) → (B, C)."""
        if self.decoder.has_encoder:
            scores = logits[:, -1]
            return np.asarray(scores if self.tokens is None else scores[:, list(self.tokens)])
        last = lengths(np.asarray(feeds[MASK]))[: len(logits)] - 1 if MASK in feeds else logits.shape[1] - 1
        # A mask may cover a past, of which there are no logits.
        last = np.maximum(last - (np.asarray(feeds[MASK]).shape[1] - logits.shape[1] if MASK in feeds else 0), 0)
        scores = logits[np.arange(len(logits)), last]
        return np.asarray(scores if self.tokens is None else scores[:, list(self.tokens)])


def cache_names(inputs: Iterable[str], outputs: Iterable[str]) -> dict[str, str]:
    """Past input → present output, by their names."""
    behind = {_PRESENT.sub("", name, count=1): name for name in outputs if "present" in name}
    return {
        name: behind[rest] for name in inputs if _PAST.search(name) and (rest := _PAST.sub("", name, count=1)) in behind
    }


def find_decoder(
    inputs: Sequence[Any], outputs: Sequence[Any], dtype: Callable[[str], np.dtype[Any]], width: Callable[[], int]
) -> Decoder | None:
    """Read a decoder off the inputs and outputs of an onnxruntime session; None where the graph is none.

    A graph without caches may be any model that scores every token: whether it is a decoder, the caller knows.

    Args:
        dtype: numpy dtype of onnxruntime's word for a type.
        width: the width of a head, asked for only where the caches do not say.
    """
    given = {value.name: value for value in inputs}
    scored = [
        value
        for value in outputs
        if len(value.shape or ()) == 3 and "float" in value.type and "present" not in value.name
    ]
    if IDS not in given or len(given[IDS].shape) != 2 or not scored:
        return None
    ranks = {value.name: len(value.shape or ()) for value in outputs}
    caches = {
        past: present for past, present in cache_names(given, ranks).items() if len(given[past].shape) == ranks[present]
    }
    samples = given[IDS].shape[0]
    empty = {name: _empty(given[name].shape, samples, width) for name in caches}
    names = {*caches, POSITIONS, BRANCH, ANSWER_MASK, *PAST, *TOTAL, *LAST}
    vocabulary = scored[0].shape[2]
    return Decoder(
        scored[0].name,
        caches,
        empty,
        {name: dtype(value.type) for name, value in given.items()},
        {name: len(value.shape) for name, value in given.items()},
        vocabulary if isinstance(vocabulary, int) else 0,
        frozenset(name for name in given if name in names),
    )


def _empty(shape: Sequence[Any], samples: Any, width: Callable[[], int]) -> tuple[int, ...]:
    """The axis of the samples has their number, the last one the width of a head, any other free axis grows."""
    sizes = []
    for axis, size in enumerate(shape):
        if size == samples or (axis == 0 and not isinstance(size, int)):
            sizes.append(-1)
        elif isinstance(size, int):
            sizes.append(size)
        else:
            sizes.append(width() if axis == len(shape) - 1 else 0)
    return tuple(sizes)
