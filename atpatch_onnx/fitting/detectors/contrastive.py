"""The loss that detectors share: eq. 7-8 of AtPatch (arXiv 2601.21695)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["LAMBDA", "supervised_contrastive"]

LAMBDA = 1.0
"""Weight of the contrastive term beside the cross entropy, the paper's."""
TEMPERATURE = 0.2


def supervised_contrastive(features: Tensor, label: Tensor) -> Tensor:
    """Mean over anchors of -log(Σ_same exp(cos/T) / Σ_all exp(cos/T)), an anchor's similarity with itself left out.

    Eq. 8 is printed without the -log, which as it stands would push equal classes apart.

    Args:
        features: (N, U).
        label: (N,), 0 or 1.
    """
    direction = functional.normalize(features, dim=1, eps=1e-6)
    similarity = direction @ direction.T / TEMPERATURE
    itself = torch.eye(len(label), dtype=torch.bool)
    similarity = similarity.masked_fill(itself, -torch.inf)
    same = (label[:, None] == label[None, :]) & ~itself
    paired = same.any(1)  # a class of one has no partner
    numerator = similarity.masked_fill(~same, -torch.inf)[paired].logsumexp(1)
    return (similarity[paired].logsumexp(1) - numerator).mean()
