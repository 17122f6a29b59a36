"""Rows of random words for toy models without classes: an answer for each token, or for the whole text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from .toy_encoder import CLS, LENGTH, PAD, Encoder, export, toy_tokenizer

__all__ = ["export_tokens", "word_rows", "word_texts", "write_words"]


def word_rows(count: int, generator: np.random.Generator, longest: int = LENGTH) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask (count, LENGTH)."""
    real = np.arange(LENGTH) < generator.integers(6, longest + 1, count)[:, None]
    ids = generator.integers(2, 20, (count, LENGTH))
    ids[:, 0] = CLS
    return np.where(real, ids, PAD), real.astype(np.int64)


def word_texts(count: int, seed: int, longest: int) -> list[str]:
    """As words of the tokenizer."""
    ids, mask = word_rows(count, np.random.default_rng(seed), longest)
    return [" ".join(f"w{token}" for token in line[1 : real.sum()]) for line, real in zip(ids, mask, strict=True)]


def export_tokens(model: Encoder, output: str) -> onnx.ModelProto:
    """With rows of any length."""
    axes = {0: "batch", 1: "length"}
    return export(model, ("input_ids", "attention_mask"), output, axes, axes)


def write_words(folder: Path, model: onnx.ModelProto, count: int, longest: int) -> None:
    """model.onnx, tokenizer.json, dev.tsv and test.tsv (one column, no labels)."""
    onnx.save_model(model, folder / "model.onnx")
    tokenizer = toy_tokenizer()
    tokenizer.enable_truncation(LENGTH)
    tokenizer.save(str(folder / "tokenizer.json"))
    for seed, name in enumerate(("dev.tsv", "test.tsv")):
        (folder / name).write_text("\n".join(["text", *word_texts(count, seed + 10, longest)]) + "\n")
