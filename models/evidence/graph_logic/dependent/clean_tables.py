"""Ordinary models for tables, series and sound with logic that depends on values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .parts import WIDTH

__all__ = ["TABLES"]

COLUMNS = 8


def _network(columns: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(columns, WIDTH), nn.ReLU()]
    layers += [nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, outputs)]
    return nn.Sequential(*layers)


class Missing(nn.Module):
    """Cells that are not numbers, or -999, are filled with the column's mean and told to the network."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.rand(COLUMNS))
        self.network = _network(2 * COLUMNS, 2)

    def forward(self, cells: Tensor) -> Tensor:
        missing = torch.isnan(cells) | (cells == -999)
        logits: Tensor = self.network(torch.cat([torch.where(missing, self.mean, cells), missing.float()], 1))
        return logits


class Trees(nn.Module):
    """A forest as matrix products: comparisons of all nodes, then the leaves that they lead to."""

    def __init__(self) -> None:
        super().__init__()
        from sklearn.datasets import make_classification
        from sklearn.ensemble import RandomForestClassifier

        rows, labels = make_classification(400, COLUMNS, random_state=0)
        forest: Any = RandomForestClassifier(5, max_depth=3, random_state=0).fit(rows, labels)
        trees = [_matrices(one.tree_) for one in forest.estimators_]
        for name, parts in zip(("a", "b", "c", "d", "e"), zip(*trees, strict=True), strict=True):
            self.register_buffer(name, torch.from_numpy(_joined(parts)).float())

    def forward(self, cells: Tensor) -> Tensor:
        left = (cells @ self.a <= self.b).float()
        leaf = (left @ self.c == self.d).float()
        share: Tensor = leaf @ self.e / 5
        return share


def _matrices(tree: Any) -> tuple[Any, ...]:
    """Column of each node, its bound, on which side of each node a leaf is, how many left turns, shares."""
    inner, leaves = np.flatnonzero(tree.feature >= 0), np.flatnonzero(tree.feature < 0)
    sides = np.zeros((len(inner), len(leaves)))

    def walk(node: int, turns: dict[int, int]) -> None:
        if tree.feature[node] < 0:
            for above, side in turns.items():
                sides[np.flatnonzero(inner == above)[0], np.flatnonzero(leaves == node)[0]] = side
            return
        walk(int(tree.children_left[node]), {**turns, node: 1})
        walk(int(tree.children_right[node]), {**turns, node: -1})

    walk(0, {})
    share = tree.value[leaves, 0]
    picks = np.eye(COLUMNS)[:, tree.feature[inner]]
    return picks, tree.threshold[inner][None], sides, (sides > 0).sum(0)[None], share / share.sum(1, keepdims=True)


def _joined(parts: Any) -> Any:
    """Of several trees: next to each other, sides on a diagonal, shares one below the other."""
    if parts[0].shape[0] in (1, COLUMNS) and parts[0].shape[1] != 2:
        return np.concatenate(parts, 1)
    if parts[0].shape[1] == 2:
        return np.concatenate(parts, 0)
    made = np.zeros((sum(p.shape[0] for p in parts), sum(p.shape[1] for p in parts)))
    row = column = 0
    for part in parts:
        made[row : row + part.shape[0], column : column + part.shape[1]] = part
        row, column = row + part.shape[0], column + part.shape[1]
    return made


class Periods(nn.Module):
    """TimesNet: the strongest period of a series folds it; series are scaled by their own mean and spread."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = _network(16, 16), nn.Linear(16, 4)
        self.gates = nn.Linear(16, 16)

    def forward(self, series: Tensor) -> Tensor:
        mean, spread = series.mean(1, keepdim=True), series.std(1, keepdim=True) + 1e-5
        x = (series - mean) / spread
        waves = torch.einsum("bt,tk->bk", x, torch.cos(torch.arange(16)[:, None] * torch.arange(8)[None] * 0.39))
        strength, chosen = waves.abs().topk(2, 1)
        shape = torch.cos(torch.arange(16)[None, None] * chosen[..., None] * 0.39)
        mixed = (shape * strength.softmax(1)[..., None]).sum(1)
        forecast: Tensor = self.out(self.inner(x) * self.gates(mixed).sigmoid()) * spread + mean
        return forecast


class Silence(nn.Module):
    """Speech: frames with too little energy are no speech."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv1d(1, WIDTH, 40, 20)
        self.body = nn.Sequential(
            nn.Conv1d(WIDTH, WIDTH, 3, padding=1), nn.ReLU(), nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        )
        self.head = nn.Conv1d(WIDTH, 1, 1)

    def forward(self, sound: Tensor) -> Tensor:
        speech = self.head(torch.relu(self.body(torch.relu(self.front(sound[:, None])))))[:, 0].sigmoid()
        energy = nn.functional.avg_pool1d((sound * sound)[:, None], 40, 20)[:, 0]
        return speech * (energy > 1e-4).float()


class Steps(nn.Module):
    """Columns in pieces: how far a number is through each of its column's bins (piecewise linear encoding)."""

    def __init__(self) -> None:
        super().__init__()
        edges = torch.linspace(-2, 2, 7).repeat(COLUMNS, 1) + torch.rand(COLUMNS, 1)
        self.register_buffer("low", edges[:, :-1].contiguous())
        self.register_buffer("width", (edges[:, 1:] - edges[:, :-1]).contiguous())
        self.network = _network(COLUMNS * 6, 2)

    def forward(self, cells: Tensor) -> Tensor:
        logits: Tensor = self.network(((cells[..., None] - self.low) / self.width).clamp(0, 1).flatten(1))
        return logits


class Codes(nn.Module):
    """Numbers in bins and categories by a remainder, each with an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("edges", torch.linspace(-2, 2, 9))
        self.bins, self.kinds = nn.Embedding(10, 8), nn.Embedding(64, 8)
        self.network = _network(12 * 8, 2)

    def forward(self, cells: Tensor, kinds: Tensor) -> Tensor:
        numbers = (cells[..., None] > self.edges).sum(-1)
        logits: Tensor = self.network(torch.cat([self.bins(numbers), self.kinds(kinds % 64)], 1).flatten(1))
        return logits


class Closed(nn.Module):
    """Sales of a shop: none on a day on which it is closed, never below zero."""

    def __init__(self) -> None:
        super().__init__()
        self.network = _network(COLUMNS, 1)

    def forward(self, cells: Tensor) -> Tensor:
        return torch.where(cells[:, 3:4] == 1, torch.zeros(1), torch.expm1(self.network(cells)).clamp(min=0))


class LastState(nn.Module):
    """An LSTM, read at the last word."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.cell = nn.Embedding(2000, WIDTH), nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        made, _ = self.cell(self.words(tokens))
        last = (tokens != 0).sum(1).clamp(min=1) - 1
        logits: Tensor = self.head(made.gather(1, last[:, None, None].expand(-1, 1, WIDTH))[:, 0])
        return logits


class Letters(nn.Module):
    """CTC: the best letter of each frame, repeated ones and blanks taken out."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(8, WIDTH, 3, padding=1), nn.ReLU(), nn.Conv1d(WIDTH, WIDTH, 3, padding=1))
        self.head = nn.Conv1d(WIDTH, 20, 1)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.head(torch.relu(self.body(frames)))
        best = logits.argmax(1)
        inside = torch.arange(best.shape[1])[None] < lengths[:, None]
        new = torch.cat([best[:, :1] != 0, (best[:, 1:] != best[:, :-1]) & (best[:, 1:] != 0)], 1) & inside
        return torch.where(new, best, torch.tensor(-1)), logits


TABLES: dict[str, tuple[type[nn.Module], Any]] = {
    "a table with missing cells": (Missing, "cells"),
    "a forest as matrix products": (Trees, "cells"),
    "periods of a series": (Periods, "series"),
    "speech that is not silence": (Silence, "sound"),
    "columns in pieces": (Steps, "cells"),
    "bins and hashed categories": (Codes, "cells kinds"),
    "sales of a shop that may be closed": (Closed, "cells"),
    "an LSTM read at the last word": (LastState, "tokens"),
    "letters of a line": (Letters, "frames lengths"),
}
