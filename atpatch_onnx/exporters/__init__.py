"""From a torch or Hugging Face model to an ONNX graph that patches well, checked against torch.

Needs the extra `export`.
"""

from __future__ import annotations

from .exporter import Exported, export_model
from .tasks import TASKS

__all__ = ["TASKS", "Exported", "export_model"]
