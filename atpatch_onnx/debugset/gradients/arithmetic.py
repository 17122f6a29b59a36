"""Element-wise operators, comparisons, reductions and casts in torch; semantics of the ONNX operator specification."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import onnx
import torch
from torch import Tensor
from torch.nn import functional

from .registry import OPERATORS, Call, operator

__all__ = ["TORCH_TYPES"]

_Type = onnx.TensorProto
# Half precision is computed in single: CPUs lack half kernels, and small gradients would vanish.
TORCH_TYPES: dict[int, torch.dtype] = {
    _Type.FLOAT: torch.float32,
    _Type.FLOAT16: torch.float32,
    _Type.BFLOAT16: torch.float32,
    _Type.DOUBLE: torch.float64,
    _Type.INT8: torch.int8,
    _Type.INT16: torch.int16,
    _Type.INT32: torch.int32,
    _Type.INT64: torch.int64,
    _Type.UINT8: torch.uint8,
    _Type.BOOL: torch.bool,
}

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": functional.hardswish,
    "Identity": lambda x: x,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": functional.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softplus": functional.softplus,
    "Sqrt": torch.sqrt,
    "Tanh": torch.tanh,
}

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "PRelu": lambda x, slope: torch.where(x < 0, x * slope, x),
    "Pow": lambda x, y: torch.pow(x, y).to(x.dtype),
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}

for _name, _unary in _UNARY.items():
    OPERATORS[_name] = lambda call, x, function=_unary: function(x)
for _name, _binary in _BINARY.items():
    OPERATORS[_name] = lambda call, x, y, function=_binary: function(x, y)


@operator("Dropout")
def _dropout(call: Call, x: Tensor, *_: Tensor | None) -> list[Tensor]:
    return [x, torch.ones_like(x, dtype=torch.bool)][: call.outputs]


@operator("Div")
def _div(call: Call, x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


@operator("Mod")
def _mod(call: Call, x: Tensor, y: Tensor) -> Tensor:
    return torch.fmod(x, y) if call.get("fmod", 0) else torch.remainder(x, y)


@operator("Min", "Max", "Sum", "Mean")
def _variadic(call: Call, *xs: Tensor) -> Tensor:
    function: Callable[[Tensor, Tensor], Tensor] = {"Min": torch.minimum, "Max": torch.maximum}.get(call.op, torch.add)
    total = functools.reduce(function, xs)
    return total / len(xs) if call.op == "Mean" else total


@operator("Clip")
def _clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    low = low if low is not None else call.get("min")
    high = high if high is not None else call.get("max")
    return x if low is None and high is None else torch.clamp(x, low, high)


@operator("LeakyRelu")
def _leaky_relu(call: Call, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, call.get("alpha", 0.01))


@operator("Elu", "Celu")
def _elu(call: Call, x: Tensor) -> Tensor:
    return (functional.elu if call.op == "Elu" else functional.celu)(x, call.get("alpha", 1.0))


@operator("HardSigmoid")
def _hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    return torch.clamp(call.get("alpha", 0.2) * x + call.get("beta", 0.5), 0, 1)


@operator("Gelu")
def _gelu(call: Call, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=call.get("approximate", "none"))


@operator("Where")
def _where(call: Call, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(condition, x, y)


@operator("Cast")
def _cast(call: Call, x: Tensor) -> Tensor:
    return x.to(TORCH_TYPES[call.get("to")])


@operator("CastLike")
def _cast_like(call: Call, x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype)


_REDUCE: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt(),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keepdim=keep),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keepdim=keep),
    "ReduceProd": lambda x, axes, keep: (
        functools.reduce(lambda y, axis: y.prod(axis, keepdim=True), axes, x)
        if keep
        else functools.reduce(lambda y, axis: y.prod(axis), sorted(axes, reverse=True), x)
    ),
}


@operator(*_REDUCE)
def _reduce(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    named = (axes is not None and axes.numel()) or call.get("axes")
    if not named and call.get("noop_with_empty_axes", 0):
        return x
    return _REDUCE[call.op](x, call.axes(axes, x.ndim), bool(call.get("keepdims", 1)))


@operator("ArgMax", "ArgMin")
def _arg(call: Call, x: Tensor) -> Tensor:
    function: Any = torch.argmax if call.op == "ArgMax" else torch.argmin
    found: Tensor = function(x, call.get("axis", 0), keepdim=bool(call.get("keepdims", 1)))
    return found


@operator("CumSum")
def _cumsum(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    dim = int(axis)
    if call.get("reverse", 0):
        x = x.flip(dim)
    total = x.cumsum(dim, dtype=x.dtype)
    if call.get("exclusive", 0):
        total = total - x
    return total.flip(dim) if call.get("reverse", 0) else total
