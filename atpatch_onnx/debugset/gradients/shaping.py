"""Operators that move, pick and make elements, in torch; semantics of the ONNX operator specification."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .registry import Call, ints, operator

__all__: list[str] = []


@operator("Shape")
def _shape(call: Call, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[call.get("start", 0) : call.get("end")], dtype=torch.int64)


@operator("Size")
def _size(call: Call, x: Tensor) -> Tensor:
    return torch.tensor(x.numel())


@operator("Reshape")
def _reshape(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    wanted = ints(shape)
    if not call.get("allowzero", 0):
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return x.reshape(tuple(wanted))


@operator("Flatten")
def _flatten(call: Call, x: Tensor) -> Tensor:
    axis = call.get("axis", 1)
    axis += x.ndim if axis < 0 else 0
    return x.reshape(int(torch.tensor(x.shape[:axis]).prod()), -1)


@operator("Transpose")
def _transpose(call: Call, x: Tensor) -> Tensor:
    return x.permute(call.get("perm") or list(reversed(range(x.ndim))))


@operator("Squeeze")
def _squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    if axes is None and not call.get("axes"):
        return x.squeeze()
    return x.squeeze(call.axes(axes, x.ndim))


@operator("Unsqueeze")
def _unsqueeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = ints(axes) if axes is not None else list(call.get("axes"))
    rank = x.ndim + len(given)
    for axis in sorted(axis % rank for axis in given):
        x = x.unsqueeze(axis)
    return x


@operator("Concat")
def _concat(call: Call, *xs: Tensor) -> Tensor:
    return torch.cat(xs, call.get("axis"))


@operator("Split")
def _split(call: Call, x: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
    axis = call.get("axis", 0)
    given = ints(sizes) if sizes is not None else call.get("split")
    if not given:
        step = -(-x.shape[axis] // call.outputs)
        return list(torch.split(x, step, axis))
    return list(torch.split(x, list(given), axis))


@operator("Slice")
def _slice(
    call: Call,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    first = ints(starts) if starts is not None else list(call.get("starts"))
    last = ints(ends) if ends is not None else list(call.get("ends"))
    which = ints(axes) if axes is not None else list(call.get("axes", range(len(first))))
    stride = ints(steps) if steps is not None else [1] * len(first)
    for begin, end, axis, step in zip(first, last, which, stride, strict=True):
        size = x.shape[axis]
        # A large negative end means "past the first element" to a backward slice, which Python writes as None.
        rows = range(size)[begin : (None if step < 0 and end < -size else end) : step]
        if rows and step == 1:
            x = x.narrow(axis, rows.start, len(rows))
        else:
            x = x.index_select(axis, torch.tensor(list(rows), dtype=torch.int64))
    return x


@operator("Gather")
def _gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = call.get("axis", 0) % x.ndim
    flat = indices.reshape(-1).long()
    picked = x.index_select(axis, torch.where(flat < 0, flat + x.shape[axis], flat))
    return picked.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


@operator("GatherElements")
def _gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = call.get("axis", 0)
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices).long())


@operator("GatherND")
def _gather_nd(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    if call.get("batch_dims", 0):
        raise NotImplementedError("batch_dims")
    return x[tuple(indices.long().unbind(-1))]


@operator("ScatterND")
def _scatter_nd(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    if call.get("reduction", "none") != "none":
        raise NotImplementedError("reduction")
    return x.index_put(tuple(indices.long().unbind(-1)), updates)


@operator("ScatterElements")
def _scatter_elements(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    if call.get("reduction", "none") != "none":
        raise NotImplementedError("reduction")
    return x.scatter(call.get("axis", 0), indices.long(), updates)


@operator("Expand")
def _expand(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(list(np.broadcast_shapes(tuple(x.shape), tuple(ints(shape)))))


@operator("Tile")
def _tile(call: Call, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(ints(repeats))


@operator("ConstantOfShape")
def _constant_of_shape(call: Call, shape: Tensor) -> Tensor:
    value: Tensor | None = call.get("value")
    return torch.zeros(ints(shape)) if value is None else value.reshape(()).expand(ints(shape)).clone()


@operator("Range")
def _range(call: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@operator("Trilu")
def _trilu(call: Call, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else int(k)
    return x.triu(diagonal) if call.get("upper", 1) else x.tril(diagonal)


@operator("NonZero")
def _non_zero(call: Call, x: Tensor) -> Tensor:
    return x.nonzero().T.contiguous()


@operator("OneHot")
def _one_hot(call: Call, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    hot = functional.one_hot(indices.long() % int(depth), int(depth)).to(torch.bool)
    return torch.where(hot, values[1], values[0]).movedim(-1, call.get("axis", -1))


@operator("Pad")
def _pad(
    call: Call, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    given = ints(pads) if pads is not None else list(call.get("pads"))
    which = [axis % x.ndim for axis in ints(axes)] if axes is not None else list(range(x.ndim))
    begins, ends = dict(zip(which, given, strict=False)), dict(zip(which, given[len(which) :], strict=True))
    order = [pad for axis in reversed(range(x.ndim)) for pad in (begins.get(axis, 0), ends.get(axis, 0))]
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}[
        call.get("mode", "constant")
    ]
    if mode == "constant":
        return functional.pad(x, order, value=0.0 if value is None else value.item())
    return functional.pad(x, order[: 2 * (x.ndim - 2)], mode=mode)


@operator("DepthToSpace")
def _depth_to_space(call: Call, x: Tensor) -> Tensor:
    if call.get("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(x, call.get("blocksize"))
    batch, depth, height, width = x.shape
    block = call.get("blocksize")
    x = x.reshape(batch, block, block, depth // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(batch, depth // block**2, height * block, width * block)
