"""Which special tokens wrap a text, found by the model's own attention. Only for models without a tokenizer.

Trained encoders use their first special token ([CLS], <s>) as a sink: it draws attention wherever it stands. So:

1. Each usual pair of special tokens that fits the vocabulary is a candidate.
2. Its first token, and `ORDINARY` random tokens, are put at the *end* of the same random texts. At the start any token
   would draw attention, because of its position.
3. A token's score is the mean attention that it draws, over sites, heads, query rows and texts.
4. The candidate with the highest score is taken if it is above that of every ordinary token, and `STANDS_OUT` times
   their median. Else no pair is taken.

Tried on two sentence encoders with the vocabulary of BERT: all-MiniLM-L6 shows [CLS] at 7 times the median, where the
highest ordinary token has 1.4 times. paraphrase-MiniLM-L3 shows no token that stands out; then texts go without ends,
which changes little: a calibration of a backdoored MiniLM without ends, or with wrong ones, found the same share of
triggers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from rewriters.finding.token_inputs import TokenInputs
from rewriters.sites import Site

from ..inference.capture import Capture
from ..inference.datasets import DataSet
from ..inference.special_tokens import SpecialTokens
from .random_texts import rows_of

__all__ = ["PAIRS", "find_ends"]

PAIRS = ((101, 102), (0, 2), (1, 2), (2, 3), (50281, 50282))
"""First and last token of BERT, RoBERTa, DeBERTa, ALBERT (also BERT with a new vocabulary), and ModernBERT."""
ORDINARY = 48
STANDS_OUT = 2.0
TEXTS, LENGTH = 4, 12


def find_ends(
    model: onnx.ModelProto,
    folder: Path,
    sites: list[Site],
    inputs: TokenInputs,
    threads: int | None,
    generator: np.random.Generator,
) -> SpecialTokens | None:
    """The pair of special tokens that the model's attention shows, None where it shows none.

    Raises:
        AtpatchError: ATP050 and ATP052 where the model cannot be run.
    """
    pairs = [pair for pair in PAIRS if max(pair) < inputs.vocabulary]
    known = np.unique(pairs) if pairs else np.zeros(0, np.int64)
    ordinary = np.setdiff1d(generator.choice(inputs.vocabulary, min(ORDINARY, inputs.vocabulary), replace=False), known)
    if not pairs or not len(ordinary):
        return None
    texts = generator.choice(ordinary, (TEXTS, LENGTH))
    tokens = np.array([*(first for first, _ in pairs), *ordinary])
    rows = np.repeat(texts[None], len(tokens), 0)
    rows[:, :, -1] = tokens[:, None]
    data = DataSet.from_arrays(rows_of(rows.reshape(-1, LENGTH).tolist(), inputs, model, 0))
    capture = Capture(model, folder, sites, data, None, threads)
    if not capture.sites:
        return None
    drawn = _drawn(capture, data).reshape(len(tokens), TEXTS).mean(1)
    candidates, others = drawn[: len(pairs)], drawn[len(pairs) :]
    best = int(candidates.argmax())
    if candidates[best] <= max(others.max(), STANDS_OUT * np.median(others)):
        return None
    first, last = pairs[best]
    return SpecialTokens((first,), (last,), never=frozenset(range(last + 2)), origin="the model's attention")


def _drawn(capture: Capture, data: DataSet) -> NDArray[np.float64]:
    """(N,): mean attention that the last column of each row draws."""
    drawn = np.zeros(len(data))
    for chunk, batches in capture.batches(data, np.arange(len(data))):
        for batch in batches.values():
            drawn[chunk] += batch.map[:, :, :, -1].mean((1, 2))
    return drawn / len(capture.sites)
