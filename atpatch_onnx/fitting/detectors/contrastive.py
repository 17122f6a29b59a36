"""The loss that detectors share: eq. 7-8 of AtPatch (arXiv 2601.21695)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["LAMBDA", "SupervisedContrastive"]

LAMBDA = 1.0
"""Weight of the contrastive term next to the cross entropy, the paper's."""
TEMPERATURE = 0.2


class SupervisedContrastive:
    """Mean over anchors of -log(Σ_same exp(cos/T) / Σ_all exp(cos/T)), an anchor's similarity with itself left out.

    Eq. 8 is printed without the -log, which as it stands would push equal classes apart.

    Args:
        label: (N,), 0 or 1.
    """

    def __init__(self, label: Tensor) -> None:
        itself = torch.eye(len(label), dtype=torch.bool)
        same = (label[:, None] == label[None, :]) & ~itself
        paired = same.any(1)  # a class of one has no partner
        self._paired = slice(None) if paired.all() else paired
        # Added to the similarities: -inf removes one. Filling it in would cost as much again in the backward pass.
        self._others, self._same = (
            torch.zeros(mask.shape).masked_fill(~mask, -torch.inf) for mask in (~itself[paired], same[paired])
        )

    def __call__(self, features: Tensor) -> Tensor:
        """The loss of features (N, U)."""
        direction = functional.normalize(features, dim=1, eps=1e-6)
        similarity = (direction @ direction.T / TEMPERATURE)[self._paired]
        return ((similarity + self._others).logsumexp(1) - (similarity + self._same).logsumexp(1)).mean()
