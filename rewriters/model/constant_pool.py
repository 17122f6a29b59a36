"""Constants of a patch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..names import make_name

__all__ = ["ConstantPool", "whole_numbers"]


class ConstantPool:
    """Constants by content, so that sites share what is equal.

    In a graph they become initializers of the main graph, which every subgraph sees. A function sees nothing outside
    itself, and before IR version 4 an initializer had to be an input too: there they become Constant nodes, written
    where they are first used.

    Args:
        known: constants of the model by name; they take the place of equal ones.
    """

    def __init__(
        self,
        initializers: Any | None,
        label: str,
        known: Mapping[str, NDArray[Any]] = MappingProxyType({}),
    ) -> None:
        self._initializers = initializers
        self._label = label
        self._names = {_content(array): name for name, array in known.items()}
        self._known = len(self._names)

    def name(self, array: NDArray[Any], nodes: list[onnx.NodeProto]) -> str:
        key = _content(array)
        if key not in self._names:
            name = make_name(self._label, str(len(self._names) - self._known))
            tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
            if self._initializers is not None:
                self._initializers.append(tensor)
            else:
                nodes.append(helper.make_node("Constant", [], [name], name=name, value=tensor))
            self._names[key] = name
        return self._names[key]


def _content(array: NDArray[Any]) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.str, array.shape, array.tobytes()


def whole_numbers(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    """Axes and sizes of the model, by name: constants of rank 0 or 1 of whole numbers.

    A patch that has such a constant once more makes onnxruntime merge the two, and go through the whole graph again.
    Floating point numbers are left out, since other tools give them another type.
    """
    fed = {value.name for value in graph.input}
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.INT64
        and len(tensor.dims) <= 1
        and tensor.data_location != TensorProto.EXTERNAL
        and tensor.name not in fed
    }
