"""The clean twins: one for each architecture and seed, trained once, kept in the cache, shared by the three attacks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..victims import cache
from .architectures import ARCHITECTURES, Classifier
from .digits import Digits
from .training import train

__all__ = ["Twin", "twin"]


@dataclass(frozen=True)
class Twin:
    """model: in evaluation mode; seconds: of CPU time that its training took."""

    model: Classifier
    seconds: float


def twin(architecture: str, digits: Digits, seed: int, progress: Callable[[int, int], None] | None = None) -> Twin:
    """The clean model of an architecture, from the cache or trained."""
    path = cache() / f"mnist-{architecture}-twin-s{seed}.pt"
    if path.is_file():
        kept = torch.load(path, weights_only=True)
        model = ARCHITECTURES[architecture].build()
        model.load_state_dict(kept["state"])
        return Twin(model.eval(), kept["seconds"])
    started = time.process_time()
    model = train(ARCHITECTURES[architecture], digits, seed, progress=progress)
    seconds = round(time.process_time() - started, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save({"state": model.state_dict(), "seconds": seconds}, temporary)
    os.replace(temporary, path)
    return Twin(model, seconds)
