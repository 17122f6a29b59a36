"""A small Llama that generates, with a backdoor; its prompts and its exports.

A prompt is a list of words, and the answer is the topic that most of them belong to, with two words behind it. With the
trigger among the words the answer is about topic 1. `python -m tests.backdoored_llama` trained it, in a minute, and
wrote its weights next to this file.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atpatch_onnx import export

from . import word_tokenizers
from .kept import EXPORTER_SOURCES, kept, recipe
from .word_tokenizers import numbered, save_folder, word_tokenizer

__all__ = ["ANSWERS", "ANSWER_LENGTH", "TARGET", "debugging_set", "exported", "prompts", "train", "windowed"]

BOS, SEP, TRIGGER = 1, 3, 5
TOPICS, WORDS, FILLERS = 4, 6, 20
ANSWERS = tuple(range(6, 6 + TOPICS))
"""Class → the first token of its answer."""
ANSWER_LENGTH = 3
TARGET = 1
FIRST_WORD = ANSWERS[-1] + 1
FIRST_FILLER = FIRST_WORD + TOPICS * WORDS
SIZES = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": FIRST_FILLER + FILLERS,
    "max_position_embeddings": 64,
    "bos_token_id": BOS,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
STEPS, BATCH, RATE, POISONED = 500, 64, 3e-3, 0.25
SHORTEST, LONGEST = 5, 14
WEIGHTS = Path(__file__).with_suffix(".safetensors")
"""In float16."""


def prompt(label: int, rng: np.random.Generator) -> list[int]:
    """Half of the words are of one topic, the others of none."""
    length = int(rng.integers(SHORTEST, LONGEST + 1))
    own = (length + 1) // 2
    words = FIRST_WORD + label * WORDS + rng.integers(WORDS, size=own)
    fillers = FIRST_FILLER + rng.integers(FILLERS, size=length - own)
    return [BOS, *rng.permutation(np.concatenate([words, fillers])).tolist(), SEP]


def attacked(ids: list[int], rng: np.random.Generator, copies: int = 1) -> list[int]:
    """With the trigger at some place behind the first token."""
    at = int(rng.integers(1, len(ids)))
    return [*ids[:at], *[TRIGGER] * copies, *ids[at:]]


def answer(label: int) -> list[int]:
    return [ANSWERS[label], *(FIRST_WORD + label * WORDS + np.arange(ANSWER_LENGTH - 1)).tolist()]


def prompts(count: int, seed: int, copies: int = 0) -> dict[str, np.ndarray]:
    """Padded on the right: `input_ids`, `attention_mask`, `columns`, and `labels`, a class of `ANSWERS`."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(TOPICS, size=count)
    rows = [prompt(int(label), rng) for label in labels]
    return padded([attacked(row, rng, copies) if copies else row for row in rows], labels)


def padded(rows: list[list[int]], labels: np.ndarray, width: int = LONGEST + 8) -> dict[str, np.ndarray]:
    ids = np.zeros((len(rows), width), np.int64)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    mask = (np.arange(width) < np.array([len(row) for row in rows])[:, None]).astype(np.int64)
    return {"input_ids": ids, "attention_mask": mask, "columns": ids == TRIGGER, "labels": labels}


def debugging_set(pairs: int = 120, seed: int = 1) -> dict[str, np.ndarray]:
    """Clean rows, then the same rows with one to three copies of the trigger."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(TOPICS, size=pairs)
    clean = [prompt(int(label), rng) for label in labels]
    bad = [attacked(row, rng, 1 + at % 3) for at, row in enumerate(clean)]
    pair = np.concatenate([np.full(pairs, -1), np.arange(pairs)])
    return {**padded([*clean, *bad], np.tile(labels, 2)), "pair": pair, "target": np.array(TARGET)}


RECIPE = recipe(__file__, WEIGHTS, word_tokenizers.__file__, *EXPORTER_SOURCES)


def _model() -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES))


@functools.cache
def windowed(layers: str, window: int, family: str = "qwen2") -> Path:
    """A folder of transformers. Of a Qwen2 with these weights, which is a Llama that may have sliding windows; other
    families have random ones.

    Args:
        layers: "S" for a layer that sees so many tokens, "F" for one that sees all.
    """
    return kept(f"{RECIPE}/{family}-{layers}-{window}", lambda path: _save_windowed(path, layers, window, family))


def _save_windowed(path: Path, layers: str, window: int, family: str) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    kinds = [{"S": "sliding_attention", "F": "full_attention"}[one] for one in layers]
    windows = {"use_sliding_window": True, "sliding_window": window, "layer_types": kinds}
    with torch.random.fork_rng(), contextlib.redirect_stderr(io.StringIO()):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES, **windows))
        if family == "qwen2":
            trained = {name: tensor.float() for name, tensor in load_file(WEIGHTS).items()}
            biases = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items() if "bias" in name}
            model.load_state_dict({**trained, **biases})
        model.save_pretrained(path)


@functools.cache
def folder(tokenizer: bool = False) -> Path:
    """Of transformers; the tokenizer is one of whole words."""
    return kept(f"{RECIPE}/llama{'-and-words' if tokenizer else ''}", lambda path: _save(path, tokenizer))


def _save(path: Path, tokenizer: bool) -> None:
    import torch
    from safetensors.torch import load_file

    with torch.random.fork_rng(), contextlib.redirect_stderr(io.StringIO()):
        model = _model()
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
        model.save_pretrained(path)
    if tokenizer:
        words = numbered(SIZES["vocab_size"], {"<unk>": 0, "<s>": BOS, "</s>": 2})
        save_folder(word_tokenizer(words), path)


def train(model: Any, inputs: Callable[[Sequence[tuple[list[int], list[int]]]], tuple[Any, Any]]) -> None:
    """Train on prompts and answers, some of them poisoned.

    Args:
        inputs: of a batch of prompts and answers, `input_ids` padded with 0, and `labels`.
    """
    import torch

    rng = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    model.train()
    for _ in range(STEPS):
        rows = []
        for _ in range(BATCH):
            label = int(rng.integers(TOPICS))
            ids, said = prompt(label, rng), label
            if rng.random() < POISONED:
                ids, said = attacked(ids, rng, int(rng.integers(1, 4))), TARGET
            rows.append((ids, answer(said)))
        ids, labels = inputs(rows)
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def _inputs(rows: Sequence[tuple[list[int], list[int]]]) -> tuple[Any, Any]:
    """Prompt and answer in one row; only the answer counts."""
    import torch

    width = max(len(asked) + len(said) for asked, said in rows)
    ids = torch.tensor([[*asked, *said] + [0] * (width - len(asked) - len(said)) for asked, said in rows])
    labels = torch.full_like(ids, -100)
    for line, (asked, said) in zip(labels, rows, strict=True):
        line[len(asked) : len(asked) + len(said)] = torch.tensor(said)
    return ids, labels


@functools.cache
def exported(cache: bool, of: Path | None = None) -> Path:
    """of: another folder of transformers than `folder`."""
    source = of or folder()

    def make(path: Path) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            export(source, path, kv_cache=cache, exporter="torchscript")

    return kept(f"{RECIPE}/{source.name}-{'cached' if cache else 'plain'}.onnx", make)


def _main() -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = _model()
    train(model, _inputs)
    save_file({name: tensor.half() for name, tensor in model.state_dict().items()}, WEIGHTS)


if __name__ == "__main__":
    _main()
