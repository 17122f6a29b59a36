"""Healing in torch and numpy: the model's own weights, its projections hooked, and a loop over tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["gap_of", "healed", "moved", "source_of"]

SEPARATE = ("k_proj", "v_proj", "k", "v")
"""What models call projections of keys and of values."""


def source_of(flags: np.ndarray, valid: np.ndarray, begins: bool = True) -> np.ndarray:
    """For flags and valid tokens (B, S): the nearest healthy token to the left, else to the right, else itself; behind
    a flagged token the first valid one.

    Args:
        begins: the sequences begin in this call.
    """
    source = np.tile(np.arange(flags.shape[1]), (len(flags), 1))
    for row, (flagged, real) in enumerate(zip(flags, valid, strict=True)):
        healthy = [token for token in range(len(flagged)) if real[token] and not flagged[token]]
        for token in np.flatnonzero(flagged):
            left = [other for other in healthy if other < token]
            right = [other for other in healthy if other > token]
            source[row, token] = left[-1] if left else right[0] if right else token
            if begins and token > 0 and flagged[token - 1]:
                source[row, token] = np.flatnonzero(real)[0]
    return source


def moved(ids: np.ndarray, flags: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Tokens (B, S) of a call: in the valid places the first that is not flagged, as often as needed, then all that
    are not flagged.
    """
    found = ids.copy()
    for row, (tokens, flagged, real) in enumerate(zip(ids, flags, valid, strict=True)):
        kept = tokens[real & ~flagged].tolist()
        if kept:
            found[row, real] = [kept[0]] * (real.sum() - len(kept)) + kept
    return found


def gap_of(flags: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(B, S) bool: the valid places in front of the tokens that stay, once the flagged ones have left."""
    gap = np.zeros_like(valid)
    for row, (flagged, real) in enumerate(zip(flags, valid, strict=True)):
        left = int((flagged & real).sum())
        gap[row, np.flatnonzero(real)[: left if left < real.sum() else 0]] = True
    return gap


@contextlib.contextmanager
def healed(model: Any, source: np.ndarray, kept: int | None = None) -> Iterator[None]:
    """In every attention of a torch model, row s of keys and values is that of token source[b, s].

    Args:
        kept: features of queries where one projection makes queries, keys and values.
    """
    import torch

    rows, samples = torch.from_numpy(source), torch.arange(len(source))[:, None]

    def heal(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        name = names[module]
        queries = 0 if name in SEPARATE else kept or 0
        return torch.cat([output[..., :queries], output[samples, rows][..., queries:]], -1)

    names = {
        module: name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if name.rsplit(".", 1)[-1] in (*SEPARATE, "c_attn", "qkv_proj")
    }
    handles = [module.register_forward_hook(heal) for module in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
