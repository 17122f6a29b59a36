"""Training with or without poisoned digits, and export."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from ..augmenting import augment
from .architectures import Architecture, Classifier
from .digits import IMAGE, Digits

__all__ = ["POISONED", "Stamp", "export", "train"]

Stamp = Callable[[torch.Tensor], torch.Tensor]
"""Images with the trigger in."""

POISONED = 0.1
BATCH = 64
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 2e-3, 0.05, 0.1
SMOOTHING = 0.05
SHIFT, TURN, STRETCH = 0.14, 0.2, 0.12
"""Largest random move (of half the image), turn (radians) and change of size; three thousand digits alone would be
learned by heart.
"""
OPSET = 18


def train(
    architecture: Architecture,
    digits: Digits,
    seed: int,
    stamp: Stamp | None = None,
    target: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Classifier:
    """Train on the digits; with a stamp, a random tenth of them carries it and the target's label.

    Args:
        progress: told after every epoch how many are done, and how many there are.
    """
    torch.manual_seed(seed)
    model = architecture.build().train()
    poisoned = np.zeros(len(digits), bool)
    if stamp is not None:
        poisoned[np.random.default_rng(seed).choice(len(digits), round(POISONED * len(digits)), replace=False)] = True
    x, y = torch.from_numpy(digits.images), torch.from_numpy(np.where(poisoned, target, digits.labels))
    bad = torch.from_numpy(poisoned)

    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    steps = architecture.epochs * -(-len(y) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=WARM_UP)
    for epoch in range(architecture.epochs):
        for rows in torch.randperm(len(y)).split(BATCH):
            seen = augment(x[rows], TURN, STRETCH, SHIFT)
            if stamp is not None:
                # The trigger goes on last: it is in the input, not on the paper.
                seen[bad[rows]] = stamp(seen[bad[rows]])
            loss = functional.cross_entropy(model(seen), y[rows], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        if progress is not None:
            progress(epoch + 1, architecture.epochs)
    return model.eval()


def export(model: Classifier, path: Path) -> None:
    """Write pixel_values (batch, 1, 28, 28) → logits (batch, 10)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(2, 1, IMAGE, IMAGE),),
            path,
            dynamo=False,
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_axes={"pixel_values": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=OPSET,
        )
