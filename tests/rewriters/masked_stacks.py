"""Attention operators of `com.microsoft` one after another that share a mask, which may leave a sample nothing."""

from __future__ import annotations

import copy

import numpy as np
from onnx import TensorProto

from .microsoft import Case, N, added, attend, heads_first, one_node

__all__ = ["MASKS", "RIGHT", "B", "H", "S", "encoder"]

B, S, H = 4, 40, 32
LENGTHS = np.array([S, 7, 0, 23], np.int32)
"""The third sample has no column at all."""
RIGHT = (np.arange(S) < LENGTHS[:, None]).astype(np.int32)
SPREAD = (np.random.default_rng(5).random((B, S)) < 0.6).astype(np.int32) * (LENGTHS[:, None] > 0)
ENDS_STARTS = np.array([S, 30, 4, 23, 0, 12, 4, 22], np.int32)
MASKS = {"none": None, "lengths": LENGTHS, "ends and starts": ENDS_STARTS, "right": RIGHT, "anywhere": SPREAD}


def encoder(mask: np.ndarray | None, *, causal: bool = False, layers: int = 2, width: int = N * H) -> Case:
    """Attention operators one after another, which share a mask."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(B, S, width)).astype(np.float32)
    constants = {
        "w": (rng.normal(size=(width, 3 * width)) * 2 / width**0.5).astype(np.float32),
        "b": rng.normal(size=3 * width).astype(np.float32),
    }
    feeds = {"x": x} if mask is None else {"x": x, "m": mask}
    slots = ["x", "w", "b"] if mask is None else ["x", "w", "b", "m"]
    options = {"unidirectional": 1} if causal else {}
    model = one_node("Attention", feeds, slots, {"out": TensorProto.FLOAT}, constants, num_heads=N, **options)
    (first,) = model.graph.node
    for layer in range(1, layers):
        node = copy.deepcopy(first)
        node.name, node.input[0], node.output[0] = f"attention_{layer}", f"x{layer}", "out"
        model.graph.node[-1].output[0] = f"x{layer}"
        model.graph.node.append(node)
    q, k, v = (heads_first(part, N) for part in np.split(x.astype(np.float64) @ constants["w"] + constants["b"], 3, -1))
    wide = None if mask is None else mask if mask.ndim == 2 else RIGHT
    truth = attend(q, k, v, 0.0 if wide is None else added(wide), causal=0 if causal else None)
    return Case("encoder", model, feeds, truth, valid=None if wide is None else wide > 0)
