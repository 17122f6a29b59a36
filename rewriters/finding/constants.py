"""Constants of the main graph as arrays: weights, also from external data, and what is computed only from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ..errors import INVALID_MODEL, ModelError
from ..model.boundary import call

__all__ = ["Constants"]

_EVALUATED = range(13, 19)
"""Opsets that are evaluated as the next one: onnx's evaluator has no older DequantizeLinear."""


class Constants:
    """Reads on demand; nothing is kept.

    Args:
        folder: of the model's external data.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self._folder, self._model = folder, model
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = {
            name: (place, node) for place, node in enumerate(model.graph.node) for name in node.output if name
        }

    def array(self, value: ir.Value | None) -> NDArray[Any] | None:
        """None where it cannot be computed."""
        if value is None:
            return None
        name = str(value.name)
        feeds: dict[str, NDArray[Any]] = {}
        nodes: dict[int, onnx.NodeProto] = {}
        waiting, seen = [name], {name}
        while waiting:
            wanted = waiting.pop()
            if wanted in self._tensors:
                feeds[wanted] = self._read(self._tensors[wanted])
            elif wanted in self._makers:
                place, node = self._makers[wanted]
                nodes[place] = node
                new = [source for source in node.input if source and source not in seen]
                seen.update(new)
                waiting.extend(new)
            else:
                return None
        if not nodes:
            return feeds[name]
        graph = helper.make_graph(
            [nodes[place] for place in sorted(nodes)],
            "constants",
            [onnx.ValueInfoProto(name=source) for source in feeds],
            [onnx.ValueInfoProto(name=name)],
        )
        opsets = [helper.make_opsetid(one.domain, _opset(one)) for one in self._model.opset_import]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=self._model.ir_version)
        try:
            made: Sequence[Any] = call(INVALID_MODEL, "constants cannot be computed", self._run, model, feeds)
        except ModelError:
            return None
        return np.asarray(made[0])

    @staticmethod
    def _run(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> Any:
        return ReferenceEvaluator(model).run(None, dict(feeds))

    def _read(self, tensor: onnx.TensorProto) -> NDArray[Any]:
        array: NDArray[Any] = call(
            INVALID_MODEL, f"weights {tensor.name} cannot be read", numpy_helper.to_array, tensor, str(self._folder)
        )
        return array


def _opset(entry: onnx.OperatorSetIdProto) -> int:
    return _EVALUATED.stop if not entry.domain and entry.version in _EVALUATED else entry.version
