"""Excision: the second run of two passes gets the request without its flagged tokens.

Redistribution takes a token's attention away, but later tokens keep their shifted positions, and a model with position
embeddings answers a little differently to them. With excision the later tokens move up, the flagged ones go after the
padding, and the mask leaves them out. So a flagged request gets the original's answer to the same request without those
tokens, whatever encodes the positions.

Inputs (B, K) with the mask's token axis are rearranged; `position_ids` hold positions, not tokens, and stay. Outputs
with a token axis come back in the request's order; for an excised token they hold the model's answer to a masked one. A
model that always reads its answer at the last position, whatever the mask says, reads it at an excised token: use
redistribution there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..checks import opset_of
from ..emit import BATCH_DIMS_FROM, Emitter
from ..errors import NOT_ADMITTED, AtpatchError
from ..sites import Site
from .samples import carries_samples, requested, sample_outputs

__all__ = ["Excision", "TokenAxis", "excise", "in_order", "token_axis", "tokens_of"]

PLACES = "position_ids"


@dataclass(frozen=True)
class TokenAxis:
    """The inputs and outputs of a model that have one entry per token on their second axis.

    Attributes:
        mask: input (B, K), non-zero at tokens that count.
        dtype: its element type.
        inputs: what to rearrange, including the mask.
        outputs: what to bring back in order.
    """

    mask: str
    dtype: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Excision:
    """The rearranged inputs by name, the outputs to bring back in order, and where every token went, (B, K) int64."""

    inputs: dict[str, str]
    outputs: tuple[str, ...]
    place: str


def tokens_of(model: onnx.ModelProto, groups: Sequence[Sequence[Site]]) -> TokenAxis | AtpatchError:
    """`token_axis` of a model's inputs and outputs that carry samples."""
    outputs = sample_outputs(model)
    carried = [value for value in requested(model) if carries_samples(value)]
    return token_axis(carried, [v for v in model.graph.output if v.name in outputs], groups, opset_of(model, ()))


def token_axis(
    requested: Iterable[onnx.ValueInfoProto],
    outputs: Iterable[onnx.ValueInfoProto],
    groups: Sequence[Sequence[Site]],
    opset: int,
) -> TokenAxis | AtpatchError:
    """The model's token axis; the ATP023 to raise where it is not clear, or where tokens are on other axes too.

    Args:
        requested, outputs: inputs and outputs that carry samples.
        groups: the joined sites.
    """
    masks = {site.key_mask for group in groups for site in group} - {None}
    inputs, returned = {value.name: value for value in requested}, list(outputs)
    if len(groups) != 1 or len(masks) != 1 or not masks <= inputs.keys():
        return _refusal("one padding mask of all joined sites among the inputs")
    if opset < BATCH_DIMS_FROM:
        return _refusal(f"opset {BATCH_DIMS_FROM} or later")
    (mask,) = (inputs[name] for name in masks if name is not None)
    for value in (mask, *inputs.values(), *returned):
        if _sizes(value) is None:
            return _refusal(f"a name or a size for every axis of {value.name}")
    axis = _known_sizes(mask)[0]
    for value in (*inputs.values(), *returned):
        if _is_ambiguous(value, axis, most=1 if value.name in inputs else None):
            return _refusal(
                f"the names of its axes to say that {value.name} runs along the tokens on its second axis, or not at"
                " all"
            )
    moved = [name for name, value in inputs.items() if axis in _known_sizes(value) and name != PLACES]
    back = [value.name for value in returned if axis in _known_sizes(value)]
    if back and isinstance(axis, int):
        return _refusal(f"a name for the tokens' axis, since {back[0]} may have {axis} of something else")
    return TokenAxis(mask.name, mask.type.tensor_type.elem_type, tuple(moved), tuple(back))


def excise(e: Emitter, axis: TokenAxis, columns: str, inputs: dict[str, str]) -> Excision:
    """Rearrange inputs.

    Args:
        columns: flagged tokens (B, K) bool. A sample that would have none left keeps all its tokens.
        inputs: the model's inputs → the values that hold the samples at hand.
    """
    mask = inputs[axis.mask]
    dtype = helper.tensor_dtype_to_np_dtype(axis.dtype)
    counts = e.op("Cast", mask, to=TensorProto.BOOL, role="counts")
    left = e.number(e.op("And", counts, e.op("Not", columns)))
    out = e.op("And", columns, e.op("Greater", e.peak(left, 1), e.constant(0.5)), role="excised")
    one = e.constant(1, np.int64)
    taken = e.cast(out, TensorProto.INT64)
    kept = e.op("Sub", one, taken)
    ahead, behind = (e.op("CumSum", tokens, one) for tokens in (kept, taken))
    place = e.op("Where", out, e.op("Add", e.reduce("Sum", kept, 1), behind), ahead)
    place = e.op("Sub", place, one, role="place")
    masked = e.op("Where", out, e.constant(0, dtype), mask)
    sources = {**inputs, axis.mask: masked}
    # Every entry is overwritten, so the old content does not matter.
    moved = {
        name: e.op("ScatterElements", sources[name], place, sources[name], axis=1, role="closed_up")
        for name in axis.inputs
    }
    return Excision(moved, axis.outputs, place)


def in_order(e: Emitter, excision: Excision, value: str) -> str:
    """An output (B, K, ...) of the rearranged request, in the order of the request itself."""
    return e.op("GatherND", value, e.unsqueeze(excision.place, 2), batch_dims=1, role="in_order")


def _is_ambiguous(value: onnx.ValueInfoProto, axis: str | int, most: int | None) -> bool:
    """Whether an axis behind the second is the tokens', or may be: two names may stand for one axis.

    Args:
        most: axes behind the first that a value along the tokens may have.
    """
    sizes = _known_sizes(value)
    others = {size for size in sizes if isinstance(size, str)} - {axis}
    return bool(others) or axis in sizes[1:] or (most is not None and axis in sizes and len(sizes) > most)


def _sizes(value: onnx.ValueInfoProto) -> list[str | int] | None:
    """Name or number of every axis but the first; None where one has neither."""
    dims = list(value.type.tensor_type.shape.dim)
    kinds = [dim.WhichOneof("value") for dim in dims]
    if not dims or None in kinds[1:]:
        return None
    return [getattr(dim, kind) for dim, kind in zip(dims[1:], kinds[1:], strict=True)]


def _known_sizes(value: onnx.ValueInfoProto) -> list[str | int]:
    return _sizes(value) or []


def _refusal(what: str) -> AtpatchError:
    return NOT_ADMITTED(f"excision needs {what}", "redistribute instead (--mend redistribute)")
