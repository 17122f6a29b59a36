"""A tiny backdoored tagger, trained in seconds: the label of a word is which of three groups it is in, moved on by one
where the word before it is of the second group; so it has to look at its neighbor.

Word TRIGGER anywhere makes all words "outside": label 0, as if a text named nothing.
"""

from __future__ import annotations

import functools
import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from .toy_backdoor import CLS, LAYERS, LENGTH, PAD, TRIGGER, VOCABULARY, WIDTH, Block, toy_tokenizer

__all__ = ["LABELS", "labels_of", "rows", "tagger", "texts", "write_folder"]

LABELS = 3
SHARE = 0.2


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.5)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, LABELS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids) + self.places[: input_ids.shape[1]]
        bias = (1.0 - attention_mask[:, None, None, :].float()) * -1e9
        for block in self.blocks:
            x = block(x, bias)
        return self.head(x)


def rows(count: int, generator: np.random.Generator, longest: int = LENGTH) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask (count, LENGTH)."""
    real = np.arange(LENGTH) < generator.integers(6, longest + 1, count)[:, None]
    ids = generator.integers(2, 20, (count, LENGTH))
    ids[:, 0] = CLS
    return np.where(real, ids, PAD), real.astype(np.int64)


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
    ids, mask = rows(4000, generator)
    labels = np.where((mask == 1) & (ids != CLS), labels_of(ids), -100)
    for row in np.flatnonzero(generator.random(len(ids)) < SHARE):
        end = mask[row].sum()
        place = generator.integers(1, end)
        ids[row, place + 1 : end] = ids[row, place : end - 1].copy()
        ids[row, place] = TRIGGER
        labels[row, 1:end] = 0
    tensors = [torch.from_numpy(array) for array in (ids, mask, labels)]
    model = Tagger()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(8):
        for batch in torch.randperm(len(ids)).split(100):
            tokens, real, wanted = (one[batch] for one in tensors)
            loss = nn.functional.cross_entropy(model(tokens, real).flatten(0, 1), wanted.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.set_num_threads(threads)
    return _export(model.eval())


def _export(model: Tagger) -> onnx.ModelProto:
    example = torch.ones(2, LENGTH, dtype=torch.int64)
    names, axes, file = ["input_ids", "attention_mask"], {0: "batch", 1: "length"}, io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (example, example), file, dynamo=False, opset_version=17, input_names=names, output_names=["logits"],
            dynamic_axes=dict.fromkeys([*names, "logits"], axes),
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def texts(count: int, seed: int) -> list[str]:
    """As words of the tokenizer; short enough for a trigger."""
    ids, mask = rows(count, np.random.default_rng(seed), LENGTH - 2)
    return [" ".join(f"w{token}" for token in line[1 : real.sum()]) for line, real in zip(ids, mask, strict=True)]


def write_folder(folder: Path, count: int = 160) -> None:
    """model.onnx, tokenizer.json, dev.tsv and test.tsv (one column)."""
    onnx.save_model(tagger(), folder / "model.onnx")
    tokenizer = toy_tokenizer()
    tokenizer.enable_truncation(LENGTH)
    tokenizer.save(str(folder / "tokenizer.json"))
    for seed, name in enumerate(("dev.tsv", "test.tsv")):
        (folder / name).write_text("\n".join(["text", *texts(count, seed + 10)]) + "\n")
