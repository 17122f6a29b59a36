"""Gradients through an ONNX graph: a small interpreter that runs its nodes in torch. Needs torch (extra `fit`)."""

from __future__ import annotations

from .graph import Embedding, TorchGraph

__all__ = ["Embedding", "TorchGraph"]
