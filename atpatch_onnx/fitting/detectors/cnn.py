"""Training of `cnn`: convolutions over the head-averaged map, dense layers, one logit a column (eq. 5-6 of AtPatch).

The paper gives loss (BCE + contrastive), optimizer and epochs, not the sizes; these are small enough for maps of a few
hundred columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rewriters.plan import Cnn, Conv, Dense

from .contrastive import LAMBDA, SupervisedContrastive

__all__ = ["anchor", "cnn_logits", "train_cnn"]

CHANNELS = (8, 16)
HIDDEN = 64
EPOCHS = 50
BATCH = 128
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2
MOST_STEPS = 1500


def train_cnn(
    maps: NDArray[np.float32], anomalous: NDArray[np.bool_], *, seed: int, tick: Callable[[int, int], None]
) -> Cnn:
    """Train on head-averaged maps of all sites together.

    Args:
        maps: (N, Q, K).
        anomalous: (N, K).
        seed: equal seeds and data give equal weights.
        tick: told how many of how many steps are done.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _plain(_fit(torch.from_numpy(maps)[:, None], torch.from_numpy(anomalous).float(), tick))
    finally:
        torch.set_num_threads(threads)


class _Network(nn.Module):
    def __init__(self, queries: int, keys: int) -> None:
        super().__init__()
        sizes = (1, *CHANNELS)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(sizes))
        shrink = 2 ** len(CHANNELS)
        self.hidden = nn.Linear(CHANNELS[-1] * -(-queries // shrink) * -(-keys // shrink), HIDDEN)
        self.last = nn.Linear(HIDDEN, keys)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for convolution in self.convolutions:
            x = functional.relu(convolution(x))
        features = functional.relu(self.hidden(x.flatten(1)))
        return self.last(features), features


def _fit(maps: Tensor, label: Tensor, tick: Callable[[int, int], None]) -> _Network:
    network = _Network(maps.shape[2], maps.shape[3])
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = min(EPOCHS * -(-len(maps) // BATCH), MOST_STEPS)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    # Maps shrink like 1/K; the first layer would see numbers close to nothing.
    scale = float(maps.shape[3])
    positives = label.sum(0)
    balance = ((len(label) - positives) / positives.clamp(min=1)).clamp(max=100.0)
    for step in range(steps):
        tick(step, steps)
        rows = torch.randint(len(maps), (BATCH,))
        logits, features = network(maps[rows] * scale)
        loss = functional.binary_cross_entropy_with_logits(logits, label[rows], pos_weight=balance)
        loss = loss + LAMBDA * SupervisedContrastive(label[rows].amax(1))(features)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        network.convolutions[0].weight.mul_(scale)  # type: ignore[operator]
    return network


def _plain(network: _Network) -> Cnn:
    convolutions = tuple(
        Conv(_numpy(layer.weight), _numpy(layer.bias), stride=2, padding=1) for layer in network.convolutions
    )
    layers = tuple(Dense(_numpy(layer.weight.T), _numpy(layer.bias)) for layer in (network.hidden, network.last))
    return Cnn(convolutions, layers)


def cnn_logits(detector: Cnn, maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scores before the sigmoid, head-averaged maps (B, Q, K) → (B, K)."""
    x = torch.from_numpy(maps)[:, None]
    with torch.no_grad():
        for layer in detector.convolutions:
            weight, bias = torch.from_numpy(layer.weight), torch.from_numpy(layer.bias)
            x = functional.relu(functional.conv2d(x, weight, bias, layer.stride, layer.padding))
        x = x.flatten(1)
        for index, dense in enumerate(detector.layers):
            x = (functional.relu(x) if index else x) @ torch.from_numpy(dense.weight) + torch.from_numpy(dense.bias)
    return np.asarray(x.numpy(), np.float64)


def anchor(detector: Cnn, center: float, scale: float) -> Cnn:
    """Shift and stretch the logits so that `center` becomes 0 (probability 0.5) and a step of 1 / `scale` becomes 1."""
    *rest, last = detector.layers
    bias = (last.bias.astype(np.float64) - center) * scale
    return replace(detector, layers=(*rest, Dense(last.weight * np.float32(scale), bias.astype(np.float32))))


def _numpy(tensor: Any) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().numpy(), np.float32).copy()
