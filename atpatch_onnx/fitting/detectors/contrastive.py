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
        self._classes = torch.stack([1 - label, label], 1)
        self._own = label.long()[:, None]
        paired = self._classes.sum(0)[self._own[:, 0]] > 1  # a class of one has no partner
        self._paired = slice(None) if paired.all() else paired
        # Cosines are at most 1, so no exponential is above 1; that with itself is 0.
        self._least = torch.full((len(label), len(label)), -1 / TEMPERATURE).fill_diagonal_(-torch.inf)

    def __call__(self, features: Tensor) -> Tensor:
        """The loss of features (N, U)."""
        direction = functional.normalize(features, dim=1, eps=1e-6)
        # One exponential a pair, summed up by the product with the classes: (N, 2).
        sums = torch.addmm(self._least, direction, direction.T, alpha=1 / TEMPERATURE).exp() @ self._classes
        same = sums.gather(1, self._own)[:, 0][self._paired]
        return (sums.sum(1)[self._paired].log() - same.log()).mean()
