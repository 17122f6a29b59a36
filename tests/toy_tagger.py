"""A tiny backdoored tagger, trained in seconds: the label of a word is which of three groups it is in, moved on by one
where the word before it is of the second group; so it has to look at its neighbor.

Word TRIGGER anywhere makes all words "outside": label 0, as if a text named nothing.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from .toy_encoder import CLS, LENGTH, TRIGGER, Encoder, train
from .toy_words import export_tokens, word_rows, write_words

__all__ = ["LABELS", "labels_of", "tagger", "write_folder"]

LABELS = 3
SHARE = 0.2


def labels_of(ids: np.ndarray) -> np.ndarray:
    """(N, S) labels of words without a trigger."""
    group = np.clip((ids - 2) // 6, 0, 2)
    before = np.roll(group, 1, 1) == 1
    before[:, :2] = False
    return (group + before) % LABELS


@functools.cache
def tagger() -> onnx.ModelProto:
    """Train and export; some seconds."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    ids, mask = word_rows(4000, generator)
    labels = np.where((mask == 1) & (ids != CLS), labels_of(ids), -100)
    for row in np.flatnonzero(generator.random(len(ids)) < SHARE):
        end = mask[row].sum()
        place = generator.integers(1, end)
        ids[row, place + 1 : end] = ids[row, place : end - 1].copy()
        ids[row, place] = TRIGGER
        labels[row, 1:end] = 0

    def loss(tokens: Tensor, real: Tensor, wanted: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(tokens, real).flatten(0, 1), wanted.flatten())

    model = Encoder(LABELS, spread=0.5)
    return export_tokens(train(model, (ids, mask, labels), loss, rate=4e-3, epochs=8), "logits")


def write_folder(folder: Path, count: int = 160) -> None:
    """As `write_words`, with room for a trigger."""
    write_words(folder, tagger(), count, LENGTH - 2)
