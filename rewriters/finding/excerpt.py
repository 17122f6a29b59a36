"""The part of a graph that computes one value, to be evaluated by onnx's reference implementation for a few tokens.

1. Everything computed from embeddings is replaced by zeros. Masks and position biases remain.
2. Sizes come from the shape rules.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from .facts import Facts
from .view import View, is_standard, op_types, operand

__all__ = ["INDEPENDENT", "MIXING", "Excerpt", "Unknown", "is_lookup"]

_MAX_NODES, _MAX_ELEMENTS = 4096, 1_000_000
INDEPENDENT = op_types("Shape Size")
"""Their results do not depend on the numbers of a tensor."""
MIXING = op_types(
    "Conv Einsum FusedMatMul Gather Gemm LayerNormalization MatMul MatMulInteger MatMulIntegerToFloat QLinearMatMul "
    "DynamicQuantizeMatMul RMSNormalization SimplifiedLayerNormalization SkipLayerNormalization Softmax"
)
"""They compute hidden states from hidden states: that changes scores, but masks no column."""
_LOOKUPS = op_types("EmbedLayerNormalization GatherBlockQuantized QEmbedLayerNormalization")


class Unknown(Exception):
    """Something that cannot be evaluated."""


class Excerpt:
    """The nodes that compute a value, with hidden states replaced by zeros and shapes by numbers."""

    def __init__(self, view: View, facts: Facts, hidden: set[ir.Value], tensors: dict[str, TensorProto]) -> None:
        self._view, self._facts, self._hidden, self._tensors = view, facts, hidden, tensors
        self._kept: set[ir.Node] = set()
        self._constants: dict[str, TensorProto] = {}
        self._inputs: dict[str, onnx.ValueInfoProto] = {}

    def of(self, model: onnx.ModelProto, value: ir.Value) -> tuple[ReferenceEvaluator, list[onnx.ValueInfoProto]]:
        """An evaluator of a value of the main graph, and the graph inputs that it needs.

        Raises:
            Unknown: something on the way cannot be evaluated.
        """
        waiting, seen = [value], {value}
        while waiting:
            for source in self._sources(waiting.pop()):
                if source not in seen:
                    seen.add(source)
                    waiting.append(source)
        nodes = [model.graph.node[home.index] for node, home in self._view.homes.items() if node in self._kept]
        output = helper.make_tensor_value_info(str(value.name), TensorProto.UNDEFINED, None)
        graph = helper.make_graph(
            nodes, "excerpt", list(self._inputs.values()), [output], list(self._constants.values())
        )
        return ReferenceEvaluator(helper.make_model(graph, opset_imports=model.opset_import)), list(
            self._inputs.values()
        )

    def _sources(self, value: ir.Value) -> list[ir.Value]:
        """The values that have to be evaluated before this one; how to get this one is recorded."""
        node, name = value.producer(), str(value.name)
        if value.is_initializer():
            tensor = self._tensors[name]
            if tensor.data_location == TensorProto.EXTERNAL:
                raise Unknown(f"{name} lies in another file")
            self._constants[name] = tensor
        elif node is None:
            self._inputs[name] = _input(value, self._facts)
        elif self._stands_in(value, node):
            self._constants[name] = self._stand_in(value, node)
        else:
            subgraphs = any(
                found.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for found in node.attributes.values()
            )
            if (
                subgraphs
                or not is_standard(node)
                or self._view.function(node) is not None
                or len(self._kept) > _MAX_NODES
            ):
                raise Unknown(f"{node.op_type} is not evaluated")
            self._sizes(value)
            self._kept.add(node)
            return [source for source in node.inputs if source is not None]
        return []

    def _stands_in(self, value: ir.Value, node: ir.Node) -> bool:
        """Whether a constant replaces a value: known sizes, sizes of hidden states, or newly made hidden states."""
        if node.op_type in INDEPENDENT:
            return operand(node, 0) in self._hidden or self._facts.ints(value) is not None
        return value in self._hidden and (node.op_type in MIXING or is_lookup(self._view, node))

    def _stand_in(self, value: ir.Value, node: ir.Node) -> TensorProto:
        if node.op_type in INDEPENDENT:
            elements = self._facts.ints(value)
            if elements is None:
                raise Unknown(f"the shape {value.name} is not known")
            return numpy_helper.from_array(
                np.array(elements if node.op_type == "Shape" else elements[0], np.int64), str(value.name)
            )
        kind = self._facts.element_type(value) or TensorProto.FLOAT
        sizes = self._sizes(value) or ()  # if the size is unknown: a single zero, which broadcasts to anything
        return numpy_helper.from_array(np.zeros(sizes, helper.tensor_dtype_to_np_dtype(kind)), str(value.name))

    def _sizes(self, value: ir.Value) -> tuple[int, ...] | None:
        shape = self._facts.shape(value)
        if shape is None or not all(isinstance(dim, int) for dim in shape):
            return None
        sizes = tuple(int(dim) for dim in shape)
        if np.prod(sizes, dtype=np.float64) > _MAX_ELEMENTS:
            raise Unknown(f"{value.name} is too large")
        return sizes


def is_lookup(view: View, node: ir.Node) -> bool:
    """Whether an operator looks up embeddings, as rows of a constant table."""
    return node.op_type in _LOOKUPS or (node.op_type == "Gather" and view.is_constant(operand(node, 0)))


def _input(value: ir.Value, facts: Facts) -> onnx.ValueInfoProto:
    shape, kind = facts.shape(value), facts.element_type(value)
    if shape is None or kind is None or not all(isinstance(dim, int) for dim in shape):
        raise Unknown(f"shape or type of the input {value.name} is not known")
    return helper.make_tensor_value_info(str(value.name), kind, [int(dim) for dim in shape])
