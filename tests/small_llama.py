"""A small Llama with random weights: as a Hugging Face folder, exported with its cache and without one."""

from __future__ import annotations

import contextlib
import functools
import io
from pathlib import Path

import numpy as np

from atpatch_onnx import export
from atpatch_onnx.inference.datasets import DataSet

from . import word_tokenizers
from .kept import EXPORTER_SOURCES, kept, recipe
from .word_tokenizers import numbered, save_folder, word_tokenizer

__all__ = ["VOCABULARY", "exported", "folder", "prompts"]

VOCABULARY = 96
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 80,  # genai's builder takes a layer as wide as the vocabulary for the head
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,  # a fresh model's maps are flat
}


RECIPE = recipe(__file__, word_tokenizers.__file__, *EXPORTER_SOURCES)


@functools.cache
def folder() -> Path:
    """Weights and a tokenizer of whole words: w3, w4 and so on."""
    return kept(f"{RECIPE}/small-llama", _save)


def _save(path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.random.fork_rng(), contextlib.redirect_stderr(io.StringIO()):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES)).save_pretrained(path)
    save_folder(word_tokenizer(numbered(VOCABULARY, {"<unk>": 0, "<s>": 1, "</s>": 2})), path)


@functools.cache
def exported(cache: bool) -> Path:
    source = folder()

    def make(path: Path) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            export(source, path, kv_cache=cache, exporter="torchscript")

    return kept(f"{RECIPE}/small-llama-{'cached' if cache else 'plain'}.onnx", make)


def prompts(lengths: tuple[int, ...] = (5, 9, 7, 3, 9, 1), seed: int = 0) -> DataSet:
    """Random tokens, padded on the right."""
    rng, longest = np.random.default_rng(seed), max(lengths)
    mask = (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int64)
    return DataSet({"input_ids": mask * rng.integers(3, VOCABULARY, (len(lengths), longest)), "attention_mask": mask})
