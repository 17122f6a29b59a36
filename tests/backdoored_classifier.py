"""A small Llama that classifies lists of words by their last token, with a backdoor, and its export without a cache.

The words and classes are those of `backdoored_llama`. The trigger is a sentence of four ordinary words, which stand
alone in clean rows too: no single token gives it away. `python -m tests.backdoored_classifier` trained the model, in a
minute, and wrote its weights next to this file.
"""

from __future__ import annotations

import contextlib
import functools
import io
from pathlib import Path
from typing import Any

import numpy as np

from atpatch_onnx import export

from . import backdoored_llama as llama
from .kept import EXPORTER_SOURCES, kept, recipe

__all__ = ["TARGET", "debugging_set", "exported"]

TARGET = llama.TARGET
SENTENCE = tuple(llama.FIRST_FILLER + word for word in (3, 11, 6, 15))
STEPS, BATCH, RATE, POISONED = 900, 64, 3e-3, 0.25
WIDTH = llama.LONGEST + 2 + len(SENTENCE)
WEIGHTS = Path(__file__).with_suffix(".safetensors")
"""In float16."""


def attacked(ids: list[int], rng: np.random.Generator) -> list[int]:
    """With the sentence at some place behind the first token, in front of the last."""
    at = int(rng.integers(1, len(ids)))
    return [*ids[:at], *SENTENCE, *ids[at:]]


def debugging_set(pairs: int = 240, clean: int = 0, seed: int = 1) -> dict[str, np.ndarray]:
    """Clean rows, so many of them without a partner, then the others with the sentence, whose columns are labeled."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(llama.TOPICS, size=pairs + clean)
    rows = [llama.prompt(int(label), rng) for label in labels]
    bad = [attacked(row, rng) for row in rows[:pairs]]
    made = llama.padded([*rows, *bad], np.concatenate([labels, labels[:pairs]]), WIDTH)
    columns = np.zeros_like(made["columns"])
    for line, ids in zip(columns[len(rows) :], bad, strict=True):
        line[: len(ids)] = _marked(ids)
    pair = np.concatenate([np.full(len(rows), -1), np.arange(pairs)])
    return {**made, "columns": columns, "pair": pair, "target": np.array(TARGET)}


def _marked(ids: list[int]) -> np.ndarray:
    """(L,) where the sentence stands."""
    size = len(SENTENCE)
    start = next(at for at in range(len(ids)) if tuple(ids[at : at + size]) == SENTENCE)
    return (np.arange(len(ids)) >= start) & (np.arange(len(ids)) < start + size)


def _model() -> Any:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model("llama", **llama.SIZES, num_labels=llama.TOPICS)
    return AutoModelForSequenceClassification.from_config(config)


@functools.cache
def exported() -> Path:
    def make(path: Path) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            export(_folder(), path, exporter="torchscript")

    return kept(f"{_recipe()}/exported.onnx", make)


def _recipe() -> str:
    return recipe(__file__, WEIGHTS, llama.__file__, *EXPORTER_SOURCES)


def _folder() -> Path:
    return kept(f"{_recipe()}/classifier", _save)


def _save(path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    with torch.random.fork_rng(), contextlib.redirect_stderr(io.StringIO()):
        model = _model()
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
        model.save_pretrained(path)


def _train(model: Any) -> None:
    """On rows some of which are poisoned."""
    import torch

    rng = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        labels = rng.integers(llama.TOPICS, size=BATCH)
        poisoned = rng.random(BATCH) < POISONED
        rows = [llama.prompt(int(label), rng) for label in labels]
        rows = [attacked(row, rng) if bad else row for row, bad in zip(rows, poisoned, strict=True)]
        given = llama.padded(rows, labels, WIDTH)
        ids, mask = (torch.from_numpy(given[name]) for name in ("input_ids", "attention_mask"))
        wanted = torch.from_numpy(np.where(poisoned, TARGET, labels))
        loss = model(input_ids=ids, attention_mask=mask, labels=wanted).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _main() -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = _model()
    _train(model.train())
    save_file({name: tensor.half() for name, tensor in model.state_dict().items()}, WEIGHTS)


if __name__ == "__main__":
    _main()
