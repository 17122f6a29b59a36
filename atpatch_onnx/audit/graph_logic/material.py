"""What the rules read: the model, and where it lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

__all__ = ["Material"]


@dataclass(frozen=True)
class Material:
    """A model under audit.

    Attributes:
        model: without its external data.
        path: its file; None for a model in memory.
    """

    model: onnx.ModelProto
    path: Path | None
