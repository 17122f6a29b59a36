"""Weights inside a graph: reading and replacing them, and the feed-forward products whose channels can be pruned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

__all__ = ["Product", "feed_forward", "products", "with_weights"]

ACTIVATIONS = ("Relu", "Gelu", "FastGelu", "BiasGelu", "Erf", "Tanh")
NEAR = 6
"""Nodes from an activation to the product behind it, at most: GELU spelled out takes five."""


@dataclass(frozen=True)
class Product:
    """A MatMul or Gemm with constant weights.

    Attributes:
        node: index in the graph; entry: value that is multiplied; weight: initializer's name; inputs: its axis of input
            channels.
    """

    node: int
    entry: str
    weight: str
    inputs: int


def products(model: onnx.ModelProto) -> list[Product]:
    """All products with a two-dimensional initializer on the right, in graph order."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    found = []
    for index, node in enumerate(model.graph.node):
        if node.op_type not in ("MatMul", "Gemm") or len(shapes.get(node.input[1], ())) != 2:
            continue
        swapped = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        found.append(Product(index, node.input[0], node.input[1], int(swapped)))
    return found


def feed_forward(model: onnx.ModelProto) -> list[Product]:
    """Products behind an activation, the second ones of feed-forward blocks: their input channels are the block's
    neurons.
    """
    maker = {name: node for node in model.graph.node for name in node.output}
    return [product for product in products(model) if _behind_activation(product.entry, maker)]


def with_weights(model: onnx.ModelProto, weights: dict[str, NDArray[np.floating]]) -> onnx.ModelProto:
    """A copy with other values in some initializers."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return copy


def read_weights(model: onnx.ModelProto, names: set[str], folder: Path) -> dict[str, NDArray[np.floating]]:
    """Initializers as arrays that may be written to."""
    return {
        tensor.name: numpy_helper.to_array(tensor, str(folder)).copy()
        for tensor in model.graph.initializer
        if tensor.name in names
    }


def _behind_activation(value: str, maker: dict[str, onnx.NodeProto]) -> bool:
    """Whether an activation lies a few nodes back, with no product between."""
    frontier = {value}
    for _ in range(NEAR):
        nodes = [maker[name] for name in frontier if name in maker]
        if any(node.op_type in ACTIVATIONS for node in nodes):
            return True
        frontier = {
            name
            for node in nodes
            if node.op_type not in ("MatMul", "Gemm", "LayerNormalization", "Conv")
            for name in node.input
        }
    return False
