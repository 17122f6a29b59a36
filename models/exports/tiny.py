"""Building a row's model, with weights that make attention uneven."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from transformers.pytorch_utils import Conv1D

from .families import Row

__all__ = ["save_model"]

_SHARPNESS = 1.7
_QUERIES_AND_KEYS = {
    "query",
    "key",
    "q",
    "k",
    "q_proj",
    "k_proj",
    "q_lin",
    "k_lin",
    "query_proj",
    "key_proj",
    "query_key_value",
    "c_attn",
}


def save_model(row: Row, folder: Path) -> Path:
    """The row's model as a Hugging Face folder; always the same weights. Nothing is built twice."""
    target = folder / row.model
    if not target.exists():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model_class = getattr(transformers, row.model)
            model = model_class(model_class.config_class(**row.config)).eval()
            _widen(model)
            model.save_pretrained(target)
    return target


def _widen(model: torch.nn.Module) -> None:
    """Redraw all weights at unit gain, then sharpen queries and keys.

    A fresh initialization gives flat attention maps, and a graph that computes a flat map by mistake would pass for
    right.
    """
    for name, weight in model.named_parameters():
        parts = name.split(".")
        with torch.no_grad():
            if weight.ndim <= 1:
                scale = float(parts[-1] == "weight")
                weight.copy_(scale + 0.1 * torch.randn_like(weight))
            elif "embed" in name or weight.ndim == 3 or "bias" in parts[-1]:
                weight.normal_(0, 0.7)
            else:
                inputs = (
                    weight.shape[0]
                    if isinstance(model.get_submodule(".".join(parts[:-1])), Conv1D)
                    else weight[0].numel()
                )
                weight.normal_(0, inputs**-0.5)
                if _QUERIES_AND_KEYS & set(parts):
                    weight.mul_(_SHARPNESS)
