"""Training of `profile`: MLPs with one hidden layer on column features, each site separately or all of them together.

Together they add up their logits, and only the sum is compared with the labels: what one site cannot tell, several may
(two passes). Loss of `PLAIN` training: balanced BCE + LAMBDA · supervised contrastive on the hidden features (see
`contrastive`). A `THOROUGH` one has more units and more steps, and half of its normal columns are those that score
highest: a clean request is flagged by its highest column, and among some thousand columns drawn at random there are
hardly any of these. On prompts with a sentence of ordinary words as their trigger it finds 97 % where the plain one
finds 42 %, at the same bar; BCE alone was enough there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rewriters.plan import Dense, Profile

from .contrastive import LAMBDA, SupervisedContrastive
from .features import Columns

__all__ = ["anchor", "train_profile", "train_together"]

LEARNING_RATE = 5e-3
WEIGHT_DECAY = 1e-2
STD_FLOOR = 0.05
"""Of a log1p feature.

Below it a feature is constant in training, and a small difference in a new sample would look enormous.
"""


@dataclass(frozen=True)
class Training:
    """How long and on what networks are trained.

    Attributes:
        hidden: units.
        positives, negatives: most columns of each class in one step; a contrastive loss compares all of them with each
            other.
        hardest: share of the negatives that are drawn from those with the highest scores.
        contrastive: see the docstring of the module; without it, classes are not balanced either.
    """

    hidden: int
    steps: int
    positives: int
    negatives: int
    hardest: float
    contrastive: bool


PLAIN = Training(32, 400, 128, 256, hardest=0.0, contrastive=True)
THOROUGH = Training(128, 1200, 256, 512, hardest=0.5, contrastive=False)
SCORED_ANEW = 100
"""Steps after which the hardest columns are looked for again."""
HARDEST = 0.02
"""Share of the normal columns that are the hardest."""


def train_profile(columns: Columns, *, probes: Sequence[int], seed: int, thorough: bool = False) -> Profile:
    """Train on the columns that the site sees, minus their normal profile where there is one.

    Args:
        probes: the probe rows that made the features.
        seed: equal seeds and data give equal weights.
        thorough: as `THOROUGH`, not as `PLAIN`.
    """
    return train_together([columns.only(columns.judged)], probes=probes, seed=seed, thorough=thorough)[0]


def train_together(
    sites: Sequence[Columns], *, probes: Sequence[int], seed: int, thorough: bool = False
) -> list[Profile]:
    """The same for several sites whose logits are added up; a site adds nothing at a column that it does not see.

    Args:
        sites: of each the same columns, in the same order. Each site sees columns of both classes, and each column is
            seen by a site.
    """
    inputs = [_standardized(columns) for columns in sites]
    positive, negative = (torch.from_numpy(np.flatnonzero(part)) for part in (sites[0].anomalous, ~sites[0].anomalous))
    generator = torch.Generator().manual_seed(seed)
    # One thread: sums in a fixed order, and more threads would not be faster for so few features.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        counted = [torch.from_numpy(one.judged.astype(np.float32)[:, None]) for one in sites]
        networks = _fit(
            [x for x, _, _ in inputs], counted, positive, negative, generator, THOROUGH if thorough else PLAIN
        )
    finally:
        torch.set_num_threads(threads)
    return [Profile(layers, mean, std, tuple(probes)) for layers, (_, mean, std) in zip(networks, inputs, strict=True)]


def _standardized(columns: Columns) -> tuple[Tensor, NDArray[np.float32], NDArray[np.float32]]:
    """Features with mean 0 and deviation 1, and that mean, (F,) or (K, F), and deviation (F,)."""
    features: NDArray[Any] = columns.features
    if columns.normal is not None:
        features = features - columns.normal[columns.place]
    judged = features[columns.judged]
    mean, std = judged.mean(0, dtype=np.float64), np.maximum(judged.std(0, dtype=np.float64), STD_FLOOR)
    x = torch.from_numpy(((features - mean) / std).astype(np.float32))
    if columns.normal is not None:
        mean = mean + columns.normal
    return x, mean.astype(np.float32), std.astype(np.float32)


def _fit(
    inputs: Sequence[Tensor],
    counted: Sequence[Tensor],
    positive: Tensor,
    negative: Tensor,
    generator: torch.Generator,
    training: Training,
) -> list[tuple[Dense, ...]]:
    """One network for each of the inputs (M, F), which counts only where its `counted` (M, 1) is 1."""
    width = training.hidden
    networks = [(_linear(x.shape[1], width, generator), _linear(width, 1, generator)) for x in inputs]
    parameters = [parameter for network in networks for layer in network for parameter in layer.parameters()]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.steps)
    positives, negatives = min(len(positive), training.positives), min(len(negative), training.negatives)
    hard = round(training.hardest * negatives)
    label = torch.cat([torch.ones(positives), torch.zeros(negatives)])
    balance = torch.tensor(negatives / positives) if training.contrastive else None
    contrastive = SupervisedContrastive(label) if training.contrastive else None
    hardest = negative

    def forward(rows: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden features side by side, and the sum of the logits."""
        weights = [one[rows] for one in counted]
        inner = [
            functional.relu(hidden(x[rows])) * here
            for x, here, (hidden, _) in zip(inputs, weights, networks, strict=True)
        ]
        given = [
            (last(features) * here)[:, 0] for features, here, (_, last) in zip(inner, weights, networks, strict=True)
        ]
        return torch.cat(inner, 1), torch.stack(given).sum(0)

    for step in range(training.steps):
        if hard and step and step % SCORED_ANEW == 0:
            with torch.no_grad():
                found = torch.topk(forward(negative)[1], max(hard, round(HARDEST * len(negative)))).indices
            hardest = negative[found]
        parts = [_sample(positive, positives, generator), _sample(negative, negatives - hard, generator)]
        features, logits = forward(torch.cat([*parts, *([_sample(hardest, hard, generator)] if hard else [])]))
        loss = functional.binary_cross_entropy_with_logits(logits, label, pos_weight=balance)
        if contrastive is not None:
            loss = loss + LAMBDA * contrastive(features)
        # What backward writes after zero_grad; a tenth of the time went into what these two do around it.
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
    return [tuple(Dense(_numpy(layer.weight.T), _numpy(layer.bias)) for layer in network) for network in networks]


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    # Without torch's own initialization, which would draw from the global generator.
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
    bound = inputs**-0.5
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer


def _sample(rows: Tensor, most: int, generator: torch.Generator) -> Tensor:
    return rows if len(rows) <= most else rows[torch.randperm(len(rows), generator=generator)[:most]]


def anchor(detector: Profile, center: float, scale: float) -> Profile:
    """Shift and stretch the logits so that `center` becomes 0 (probability 0.5) and a step of 1 / `scale` becomes 1."""
    *rest, last = detector.layers
    bias = (last.bias.astype(np.float64) - center) * scale
    return replace(detector, layers=(*rest, Dense(last.weight * np.float32(scale), bias.astype(np.float32))))


def _numpy(tensor: Any) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().numpy(), np.float32).copy()
