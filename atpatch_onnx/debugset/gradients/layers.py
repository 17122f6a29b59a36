"""Products, normalizations, convolutions and pooling in torch; semantics of the ONNX operator specification."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from .registry import Call, operator

__all__: list[str] = []


@operator("MatMul")
def _matmul(call: Call, x: Tensor, y: Tensor) -> Tensor:
    return x @ y


@operator("Gemm")
def _gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a, b = (a.mT if call.get("transA", 0) else a), (b.mT if call.get("transB", 0) else b)
    product: Tensor = call.get("alpha", 1.0) * (a @ b)
    return product if c is None else product + c * call.get("beta", 1.0)


@operator("Einsum")
def _einsum(call: Call, *xs: Tensor) -> Tensor:
    return torch.einsum(call.get("equation").replace(" ", ""), *xs)


@operator("Softmax", "LogSoftmax")
def _softmax(call: Call, x: Tensor) -> Tensor:
    function = torch.softmax if call.op == "Softmax" else torch.log_softmax
    if call.opset >= 13:
        return function(x, call.get("axis", -1))
    # Before opset 13 all axes from `axis` on are normalized together.
    axis = call.get("axis", 1) % x.ndim
    return function(x.reshape(*x.shape[:axis], prod(x.shape[axis:])), -1).reshape(x.shape)


@operator("LayerNormalization")
def _layer_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = call.get("axis", -1) % x.ndim
    shape = list(x.shape[axis:])
    bias = None if bias is None else bias.expand(shape)
    return functional.layer_norm(x, shape, scale.expand(shape), bias, call.get("epsilon", 1e-5))


@operator("RMSNormalization")
def _rms_norm(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    axes = list(range(call.get("axis", -1) % x.ndim, x.ndim))
    scaled: Tensor = x * (x.square().mean(axes, keepdim=True) + call.get("epsilon", 1e-5)).rsqrt() * scale
    return scaled


@operator("BatchNormalization")
def _batch_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, call.get("epsilon", 1e-5))


@operator("InstanceNormalization")
def _instance_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return functional.instance_norm(x, None, None, scale, bias, eps=call.get("epsilon", 1e-5))


@operator("GroupNormalization")
def _group_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return functional.group_norm(x, call.get("num_groups"), scale, bias, call.get("epsilon", 1e-5))


@operator("Conv")
def _conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    spatial = x.ndim - 2
    kernel, strides = list(weight.shape[2:]), call.get("strides") or [1] * spatial
    dilations = call.get("dilations") or [1] * spatial
    x = functional.pad(x, _pads(call, x, kernel, strides, dilations))
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[spatial - 1]
    return convolve(x, weight, bias, strides, 0, dilations, call.get("group", 1))


@operator("MaxPool", "AveragePool")
def _pool(call: Call, x: Tensor) -> Tensor:
    spatial, kernel = x.ndim - 2, list(call.get("kernel_shape"))
    strides = call.get("strides") or [1] * spatial
    pads = _pads(call, x, kernel, strides, call.get("dilations") or [1] * spatial)
    if call.get("ceil_mode", 0) or any(step != 1 for step in call.get("dilations") or ()):
        raise NotImplementedError("ceil_mode or dilations")
    if call.op == "MaxPool":
        pooled = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[spatial - 1]
        return pooled(functional.pad(x, pads, value=-torch.inf), kernel, strides)
    mean = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[spatial - 1]
    total = mean(functional.pad(x, pads), kernel, strides)
    if call.get("count_include_pad", 0) or not any(pads):
        return total
    return total / mean(functional.pad(torch.ones_like(x), pads), kernel, strides)


@operator("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(call: Call, x: Tensor) -> Tensor:
    axes = list(range(2, x.ndim))
    return x.mean(axes, keepdim=True) if call.op == "GlobalAveragePool" else x.amax(axes, keepdim=True)


def _pads(call: Call, x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """Padding in torch's order, last axis first, begin and end of each axis."""
    spatial, auto = len(kernel), call.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = []
        for size, width, step, spread in reversed(list(zip(x.shape[2:], kernel, strides, dilations, strict=True))):
            total = max(0, (-(-size // step) - 1) * step + (width - 1) * spread + 1 - size)
            less, more = total // 2, total - total // 2
            pads += [less, more] if auto == "SAME_UPPER" else [more, less]
        return pads
    given = list(call.get("pads") or [0] * (2 * spatial)) if auto == "NOTSET" else [0] * (2 * spatial)
    return [pad for axis in reversed(range(spatial)) for pad in (given[axis], given[spatial + axis])]
