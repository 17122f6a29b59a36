"""Attention of scaled products only, in several layouts, and its scores in numpy."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import parser

from rewriters.model.bodies import walk_bodies

from ..graphs import H

__all__ = ["BLOCKS", "block", "canonical", "operators", "scores_of", "softmax"]

BLOCKS = {
    "4d": (f"B,{H},S,D", "kt = Transpose<perm = [0,1,3,2]>(k) s = MatMul(q, kt)", "out = MatMul(p, v)"),
    "3d": ("B,S,D", "kt = Transpose<perm = [0,2,1]>(k) s = MatMul(q, kt)", "out = MatMul(p, v)"),
    "einsum": (
        f"B,S,{H},D",
        's = Einsum<equation = "bqhd,bkhd->bhqk">(q, k)',
        'out = Einsum<equation = "bhqk,bkhd->bqhd">(p, v)',
    ),
    "transposed": (
        "B,S,D",
        "kt = Transpose<perm = [0,2,1]>(k) s = MatMul(q, kt)",
        "pt = Transpose<perm = [0,2,1]>(p) vt = Transpose<perm = [0,2,1]>(v) out = MatMul(vt, pt)",
    ),
}


def block(layout: str = "4d", *, shown: bool = False, opset: int = 17, kind: str = "float") -> onnx.ModelProto:
    """Scaled products only; shown: the map is an output too."""
    shape, scores, product = BLOCKS[layout]
    at = {name: shape.replace("S", axis) for name, axis in zip("qkv", ("Q", "K", "K"), strict=True)}
    inputs = ", ".join(f"{kind}[{size}] {name}" for name, size in at.items())
    axis = -1 if opset >= 13 else 3 if layout in ("4d", "einsum") else 2
    open_shape = f"{kind}[{','.join('?' * (1 + shape.count(',')))}]"
    outputs = f"{open_shape} out" + f", {open_shape} p" * shown
    return parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs})'
        f" {{ {scores} p = Softmax<axis = {axis}>(s) {product} }}"
    )


def canonical(layout: str, array: np.ndarray, out: bool = False) -> np.ndarray:
    if layout == "einsum":
        return array.transpose(0, 2, 1, 3)
    if layout == "transposed" and out:
        array = array.transpose(0, 2, 1)
    return array if array.ndim == 4 else array[:, None]


def softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def scores_of(layout: str, data: dict[str, np.ndarray]) -> np.ndarray:
    q, k = (canonical(layout, data[name]).astype(np.float64) for name in "qk")
    return q @ k.transpose(0, 1, 3, 2)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for _, body in walk_bodies(model) for node in body.node]
