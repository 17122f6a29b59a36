"""An ONNX graph as a torch function, so that gradients reach its inputs and its embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import torch
from onnx import numpy_helper
from torch import Tensor

from ...errors import NOT_DIFFERENTIABLE
from . import arithmetic, layers, shaping  # noqa: F401  (they fill the table)
from .registry import OPERATORS, Call

__all__ = ["Embedding", "TorchGraph"]

_SHAPES = ("Shape", "Size")
# Number of specialized forms that are kept: batches have few different shapes; the last of a pass is shorter.
_MOST_SHAPES = 8
_SAME_IDS = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Embedding:
    """Where token ids become vectors: the table (V, D), and the value (B, K, D) that a Gather reads from it."""

    table: Tensor
    value: str


@dataclass(frozen=True)
class _Node:
    call: Call
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    branches: Mapping[str, tuple[_Node, ...]]
    results: Mapping[str, tuple[str, ...]]


class TorchGraph:
    """Runs a graph node by node in torch, in single precision.

    Args:
        model: not patched; local functions are inlined.
        folder: of external data.

    Raises:
        AtpatchError: ATP082 where the graph holds operators that this interpreter does not know.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        self._folder = str(folder)
        self._opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        unknown: set[str] = set()
        self._constants = {tensor.name: self._tensor(tensor) for tensor in model.graph.initializer}
        nodes = self._read(model.graph, unknown)
        if unknown:
            raise NOT_DIFFERENTIABLE(f"no gradient is known for {', '.join(sorted(unknown))}")
        self._nodes = nodes
        self._fold()
        self._by_shape: dict[Any, tuple[tuple[_Node, ...], dict[str, Any]]] = {}

    def run(
        self, feeds: Mapping[str, Tensor], outputs: Sequence[str], values: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Outputs for some inputs.

        Args:
            feeds: graph input → tensor.
            outputs: names of any values of the main graph.
            values: inner values to take instead of what the graph computes for them.
        """
        given = dict(values or {})
        nodes, static = self._specialized(feeds, given)
        scope: dict[str, Any] = {**self._constants, **static, **feeds, **given}
        self._run(nodes, scope, given)
        return {name: scope[name] for name in outputs}

    def embedding(self, token_input: str) -> Embedding | None:
        """The table that a graph input's integers pick rows from; None where there is none."""
        same = {token_input}
        for node in self._nodes:
            if node.call.op in _SAME_IDS and node.inputs[0] in same:
                same.add(node.outputs[0])
            if node.call.op == "Gather" and node.inputs[1] in same and node.call.get("axis", 0) == 0:
                table = self._constants.get(node.inputs[0])
                if table is not None and table.ndim == 2 and table.is_floating_point():
                    return Embedding(table, node.outputs[0])
        return None

    def _run(self, nodes: Sequence[_Node], scope: dict[str, Any], given: Mapping[str, Tensor]) -> None:
        for node in nodes:
            if node.outputs[0] in given:
                continue
            if node.branches:
                taken = "then_branch" if bool(scope[node.inputs[0]].reshape(-1)[0]) else "else_branch"
                inner = dict(scope)
                self._run(node.branches[taken], inner, given)
                results: Sequence[Tensor] = [inner[name] for name in node.results[taken]]
            else:
                try:
                    result = OPERATORS[node.call.op](
                        node.call, *[scope[name] if name else None for name in node.inputs]
                    )
                except Exception as error:
                    raise NOT_DIFFERENTIABLE(
                        f"{node.call.op} that makes {node.outputs[0]!r} fails in torch: {error}"
                    ) from error
                results = [result] if isinstance(result, Tensor) else result
            scope.update(zip((name for name in node.outputs if name), results, strict=False))

    def _specialized(
        self, feeds: Mapping[str, Tensor], given: Mapping[str, Tensor]
    ) -> tuple[tuple[_Node, ...], dict[str, Any]]:
        """Nodes left, and values known, once the shapes of the inputs are: half of an exported graph only computes
        shapes.
        """
        key = (tuple((name, tensor.shape) for name, tensor in feeds.items()), tuple(given))
        if key not in self._by_shape:
            scope: dict[str, Any] = {**self._constants, **feeds, **given}
            left, static = [], set(self._constants)
            with torch.no_grad():
                for node in self._nodes:
                    self._run([node], scope, given)
                    known = node.call.op in _SHAPES or (
                        not node.branches and all(not name or name in static for name in node.inputs)
                    )
                    if known and node.outputs[0] not in given:
                        static.update(node.outputs)
                    else:
                        left.append(node)
            if len(self._by_shape) >= _MOST_SHAPES:
                self._by_shape.clear()
            self._by_shape[key] = (
                tuple(left),
                {name: scope[name] for name in static - self._constants.keys() if name in scope},
            )
        return self._by_shape[key]

    def _fold(self) -> None:
        """Compute once what depends only on constants."""
        rest = []
        for node in self._nodes:
            if not node.branches and all(not name or name in self._constants for name in node.inputs):
                self._run([node], self._constants, {})
            else:
                rest.append(node)
        self._nodes = tuple(rest)

    def _read(self, graph: onnx.GraphProto, unknown: set[str]) -> tuple[_Node, ...]:
        nodes = []
        for proto in graph.node:
            attributes = {entry.name: self._attribute(entry) for entry in proto.attribute if entry.type != entry.GRAPH}
            if proto.op_type == "Constant" and proto.domain in ("", "ai.onnx"):
                self._constants[proto.output[0]] = _constant(attributes)
                continue
            graphs = {entry.name: entry.g for entry in proto.attribute if entry.type == entry.GRAPH}
            known = proto.op_type in OPERATORS or proto.op_type == "If"
            if proto.domain not in ("", "ai.onnx") or not known:
                unknown.add(proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}")
                continue
            for inner in graphs.values():
                self._constants.update((tensor.name, self._tensor(tensor)) for tensor in inner.initializer)
            nodes.append(
                _Node(
                    Call(proto.op_type, attributes, self._opset, len(proto.output)),
                    tuple(proto.input),
                    tuple(proto.output),
                    {name: self._read(inner, unknown) for name, inner in graphs.items()},
                    {name: tuple(value.name for value in inner.output) for name, inner in graphs.items()},
                )
            )
        return tuple(nodes)

    def _attribute(self, entry: onnx.AttributeProto) -> Any:
        value = onnx.helper.get_attribute_value(entry)
        if isinstance(value, onnx.TensorProto):
            return self._tensor(value)
        if isinstance(value, bytes):
            return value.decode()
        return (
            list(value)
            if isinstance(value, (list, tuple)) or (hasattr(value, "__len__") and not isinstance(value, str))
            else value
        )

    def _tensor(self, tensor: onnx.TensorProto) -> Tensor:
        array = numpy_helper.to_array(tensor, self._folder)
        if array.dtype.kind not in "biu" and array.dtype != np.float64:
            array = array.astype(np.float32)
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64)
        return torch.from_numpy(np.array(array))


def _constant(attributes: Mapping[str, Any]) -> Tensor:
    name, value = next(iter(attributes.items()))
    if isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=torch.float32 if name.startswith("value_float") else torch.int64)
