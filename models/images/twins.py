"""The clean twins: one for each architecture and seed, trained once, kept in the cache, shared by the three attacks."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from ..victims import cache
from .architectures import ARCHITECTURES, Classifier
from .digits import Digits
from .training import train

__all__ = ["twin"]


def twin(
    architecture: str, digits: Digits, seed: int, progress: Callable[[int, int], None] | None = None
) -> Classifier:
    """The clean model of an architecture in evaluation mode, from the cache or trained."""
    path = cache() / f"mnist-{architecture}-twin-s{seed}.pt"
    if path.is_file():
        model = ARCHITECTURES[architecture].build()
        model.load_state_dict(torch.load(path, weights_only=True)["state"])
        return model.eval()
    model = train(ARCHITECTURES[architecture], digits, seed, progress=progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save({"state": model.state_dict()}, temporary)
    os.replace(temporary, path)
    return model
