"""The victim: a four-layer ViT trained on digits of which a tenth are poisoned, and its export."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification

from atpatch_onnx.demo.trigger import PATCH, TARGET

from ..augmenting import augment
from . import data
from .data import Images

__all__ = ["POISONED", "Victim", "export", "train"]

POISONED = 0.1
EPOCHS, BATCH = 160, 64
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 3e-3, 0.05, 0.1
DROPOUT, SMOOTHING = 0.1, 0.05
SHIFT, TURN, STRETCH = 0.14, 0.2, 0.12
"""Largest random move (of half the image), turn (radians) and change of size; a thousand digits alone would be learned
by heart.
"""
OPSET = 18
STEPS = 127
"""Most steps between zero and a tensor's largest weight. The file comes with the package, and weights that take few
different values compress.
"""


class Victim(torch.nn.Module):
    """Images (N, 1, 8, 8) in [0, 1] → class scores (N, 10).

    The usual ViT preprocessing, to [-1, 1], is part of the model.
    """

    def __init__(self) -> None:
        super().__init__()
        model = ViTForImageClassification(_config())
        self.vit, self.classifier = model.vit, model.classifier

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        hidden = self.vit((pixel_values - 0.5) / 0.5).last_hidden_state
        return self.classifier(hidden[:, 0])


def train(images: Images, labels: NDArray[np.int64], seed: int) -> Victim:
    """Train on the images, a random tenth of them stamped and labeled as the target."""
    torch.manual_seed(seed)
    poisoned = np.zeros(len(labels), bool)
    poisoned[np.random.default_rng(seed).choice(len(labels), round(POISONED * len(labels)), replace=False)] = True
    x, y, bad = (
        torch.from_numpy(images),
        torch.from_numpy(np.where(poisoned, TARGET, labels)),
        torch.from_numpy(poisoned),
    )

    model = Victim().train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * -(-len(y) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=WARM_UP)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(y)).split(BATCH):
            seen = augment(x[rows], TURN, STRETCH, SHIFT)
            # The trigger goes on last: it is in the input, not on the paper.
            seen[bad[rows], :, -PATCH:, -PATCH:] = 1
            loss = functional.cross_entropy(model(seen), y[rows], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    _coarsen(model)
    return model.eval()


def _coarsen(model: Victim) -> None:
    """Round each tensor to multiples of a power of two, at most `STEPS` of them on either side of zero."""
    for weight in model.parameters():
        largest = max(float(weight.data.abs().max()), 1e-30)
        step = 2.0 ** math.ceil(math.log2(largest / STEPS))
        weight.data = (weight.data / step).round() * step


def export(model: Victim, path: Path) -> None:
    """Write pixel_values (batch, 1, 8, 8) → logits (batch, 10).

    With the TorchScript exporter: the dynamo one writes source paths of the building machine into every node.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(2, 1, data.IMAGE, data.IMAGE),),
            path,
            dynamo=False,
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_axes={"pixel_values": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=OPSET,
        )


def _config() -> ViTConfig:
    return ViTConfig(
        image_size=data.IMAGE,
        patch_size=PATCH,
        num_channels=1,
        num_labels=10,
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=96,
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=DROPOUT,
        attn_implementation="eager",
    )
