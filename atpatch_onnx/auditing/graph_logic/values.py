"""Shapes of all values and the elements of small constants, as far as they are known without reading weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from rewriters.errors import INVALID_MODEL, ModelError
from rewriters.finding.facts import Dims, Facts
from rewriters.finding.skeleton import skeleton
from rewriters.finding.sweep import gather_facts
from rewriters.finding.view import View, build_view
from rewriters.model.boundary import call, to_ir
from rewriters.model.tensors import elements_of

from .flow import Flow, Step

__all__ = ["Values"]

logger = logging.getLogger(__name__)

_SMALL = 4096
"""Elements of a constant that is looked into."""
_KEEPS = frozenset("Identity Cast CastLike Reshape Squeeze Unsqueeze Flatten Expand Transpose".split())  # noqa: SIM905
"""The elements stay what they are; an Expand or Transpose repeats or moves them."""


class Values:
    """Facts about the values of a flow.

    Attributes:
        constant: value → whether it is the same for every input of every size.
    """

    def __init__(self, model: onnx.ModelProto, flow: Flow) -> None:
        self._arrays: dict[int, NDArray[Any]] = {}
        self._dims: dict[int, Dims] = {}
        self._types: dict[int, int] = {}
        self.constant: set[int] = set()
        self._facts, self._nodes = self._finder(model)
        for value, tensor in flow.tensors.items():
            self._learn(value, tensor)
        for value, info in flow.infos.items():
            self._declared(value, info)
        for step in flow.steps:
            self._step(step)

    def dims(self, value: int) -> Dims | None:
        """Ints and names; None where not even the rank is known."""
        return self._dims.get(value)

    def type(self, value: int) -> int:
        """An onnx.TensorProto.DataType; 0 where it is not known."""
        return self._types.get(value, 0)

    def size(self, value: int) -> int | None:
        """Number of elements where it is fixed."""
        dims = self._dims.get(value)
        if dims is None or not all(isinstance(dim, int) for dim in dims):
            return None
        return math.prod(dim for dim in dims if isinstance(dim, int))

    def last(self, value: int) -> int | None:
        """Size of the last axis where it is fixed; 1 for a scalar."""
        dims = self._dims.get(value)
        if dims is None:
            return None
        return 1 if not dims else dims[-1] if isinstance(dims[-1], int) else None

    def array(self, value: int) -> NDArray[Any] | None:
        """The elements of a small constant in one row, repeated ones once or more often."""
        return self._arrays.get(value)

    @staticmethod
    def _finder(model: onnx.ModelProto) -> tuple[Facts | None, dict[Any, Any]]:
        try:
            view: View = build_view(to_ir(skeleton(model)))
        except ModelError as error:
            logger.debug("no shapes: %s", error)
            return None, {}
        return gather_facts(view), {(home.where, home.index): node for node, home in view.homes.items()}

    def _declared(self, value: int, info: onnx.ValueInfoProto) -> None:
        tensor = info.type.tensor_type
        if tensor.elem_type:
            self._types.setdefault(value, tensor.elem_type)
        if tensor.HasField("shape"):
            self._dims.setdefault(
                value,
                tuple(
                    dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"?{value}.{axis}"
                    for axis, dim in enumerate(tensor.shape.dim)
                ),
            )

    def _learn(self, value: int, tensor: onnx.TensorProto | onnx.SparseTensorProto) -> None:
        self.constant.add(value)
        self._dims[value] = tuple(tensor.dims)
        if isinstance(tensor, onnx.SparseTensorProto):
            return
        self._types[value] = tensor.data_type
        if tensor.data_location != onnx.TensorProto.EXTERNAL and elements_of(tensor) <= _SMALL:
            array = _array(tensor)
            if array is not None:
                self._arrays[value] = array

    def _step(self, step: Step) -> None:
        if step.kind == "Constant":
            self._constant(step)
            return
        if step.kind == "ConstantOfShape" and step.outputs:
            fill = next((_array(a.t) for a in step.node.attribute if a.name == "value" and a.HasField("t")), None)
            self._arrays[step.outputs[0]] = np.zeros(1) if fill is None else fill
        node = self._nodes.get(step.home)
        if node is not None and self._facts is not None:
            known = {value.name: value for value in node.outputs}
            names = step.node.output if len(step.outputs) == len(step.node.output) else ()
            for name, output in zip(names, step.outputs, strict=False):
                shape, kind = self._facts.shape(known.get(name)), self._facts.element_type(known.get(name))
                if output >= 0 and shape is not None:
                    self._dims.setdefault(output, shape)
                if output >= 0 and kind is not None:
                    self._types.setdefault(output, kind)
        read = [value for value in (*step.inputs, *step.decides, *step.back) if value >= 0]
        random = step.kind.startswith(("Random", "Bernoulli", "Multinomial"))
        if read and not random and all(value in self.constant for value in read):
            self.constant.update(output for output in step.outputs if output >= 0)
            self._fold(step)
        if step.outputs and step.outputs[0] >= 0 and step.kind in ("If", "Loop", "LoopIn"):
            self._inherit(step)

    def _inherit(self, step: Step) -> None:
        """The shape that all choices share."""
        shapes = {self._dims.get(value) for value in step.inputs}
        if len(shapes) == 1 and None not in shapes:
            self._dims.setdefault(step.outputs[0], shapes.pop() or ())
        for value in step.inputs:
            if value in self._types:
                self._types.setdefault(step.outputs[0], self._types[value])

    def _fold(self, step: Step) -> None:
        source, output = step.inputs[0] if step.inputs else -1, step.outputs[0] if step.outputs else -1
        array = self._arrays.get(source)
        if output < 0:
            return
        if step.kind in ("Cast", "Identity", "DequantizeLinear", "QuantizeLinear") and source in self._dims:
            self._dims.setdefault(output, self._dims[source])
        if array is None:
            return
        if step.kind in _KEEPS:
            self._arrays[output] = array
        elif step.kind == "Neg" and array.dtype.kind in "if":
            self._arrays[output] = -array
        elif step.kind == "DequantizeLinear":
            scale = self._arrays.get(step.inputs[1]) if len(step.inputs) > 1 else None
            zero = self._arrays.get(step.inputs[2]) if len(step.inputs) > 2 else np.zeros(1)
            if scale is not None and zero is not None and scale.size == zero.size == 1:
                self._arrays[output] = (array.astype(np.float64) - zero.astype(np.float64)) * scale.astype(np.float64)

    def _constant(self, step: Step) -> None:
        output = step.outputs[0]
        self.constant.add(output)
        for attribute in step.node.attribute:
            if attribute.name == "value" and attribute.HasField("t"):
                self._learn(output, attribute.t)
            elif attribute.name in ("value_int", "value_float"):
                self._arrays[output] = np.array([attribute.i if attribute.name == "value_int" else attribute.f])
                self._dims[output] = ()
            elif attribute.name in ("value_ints", "value_floats"):
                numbers: Sequence[Any] = attribute.ints if attribute.name == "value_ints" else attribute.floats
                self._arrays[output] = np.array(list(numbers[:_SMALL]))
                self._dims[output] = (len(numbers),)


def _array(tensor: onnx.TensorProto) -> NDArray[Any] | None:
    if tensor.data_type in (0, onnx.TensorProto.STRING):
        return None
    try:
        made = call(INVALID_MODEL, "", onnx.numpy_helper.to_array, tensor)
    except ModelError:
        return None
    array = np.asarray(made).reshape(-1)
    if array.dtype.kind == "V" or array.dtype.name.startswith(("float8", "bfloat", "float4", "int4", "uint4")):
        array = array.astype(np.float32)
    return array if array.dtype.kind in "fiub" else None
