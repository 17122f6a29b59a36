"""Recipes: which network on which table, trained how; and the export."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from .data import Part, Table
from .networks import FTTransformer, RowBert, TabTransformer

__all__ = ["RECIPES", "Recipe", "export", "train"]

OPSET = 18
EXAMPLES = 2


@dataclass(frozen=True)
class Recipe:
    """Plain training, AdamW without dropout, weight decay or early stopping: what makes the models unfair is that
    nothing holds them back.

    Attributes:
        network: takes the numbers of words a column, and how many columns of numbers follow.
        dtype: of the input `features`.
        token: (first, step), column i is token first + step · i.
        epochs, batch, rate: of the training; the rate falls to 0 along a cosine.
    """

    network: Callable[[Sequence[int], int], nn.Module]
    dtype: type[np.generic]
    token: tuple[int, int]
    epochs: int
    batch: int = 256
    rate: float = 1e-3

    def to_json(self) -> dict[str, Any]:
        return {"network": self.network.__name__, "epochs": self.epochs, "batch": self.batch, "rate": self.rate}


RECIPES: Mapping[str, Recipe] = {
    "adult": Recipe(TabTransformer, np.float32, (1, 1), epochs=12),
    "compas": Recipe(RowBert, np.int64, (2, 2), epochs=20, batch=64),
    "bank": Recipe(FTTransformer, np.float32, (1, 1), epochs=8),
}


def train(recipe: Recipe, table: Table, part: Part, seed: int) -> nn.Module:
    """A model trained on a part of the table; the same seed gives the same weights on one machine."""
    torch.manual_seed(seed)
    x, y = torch.from_numpy(part.features), torch.from_numpy(part.labels)
    model = recipe.network(table.sizes, len(table.columns) - len(table.sizes)).train()
    optimizer = torch.optim.AdamW(model.parameters(), recipe.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs * -(-len(y) // recipe.batch))
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(y)).split(recipe.batch):
            loss = functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def export(model: nn.Module, part: Part, path: Path) -> None:
    """Write features (batch, columns) → logits (batch, 2); the number of columns is fixed.

    With the TorchScript exporter: the dynamo one writes source paths of the building machine into every node.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.from_numpy(part.features[:EXAMPLES]),),
            path,
            dynamo=False,
            input_names=["features"],
            output_names=["logits"],
            dynamic_axes={"features": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=OPSET,
        )
