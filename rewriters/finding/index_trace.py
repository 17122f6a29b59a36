"""Following an index back: from an entry of an operator's output to the entry of its input with the same index.

An index runs over some axes of a value (an image's tokens over two), or over a part of one axis (where samples and
tokens are merged). In the flat order of a value it is (position // stride) % size, and a Reshape does not change that.
So:

1. Reshape, Flatten, Squeeze and Unsqueeze: stride and size stay the same and have to fit the axes of the input. They do
   not fit for rows into which multi-query attention has merged heads.
2. Transpose: the axes move, and have to stay adjacent and in order.
3. Element-wise operators: every operand that has these axes has the index; an operand of size 1 there, or without
   them, does not.
4. Products: rows belong to the first factor, columns to the second, leading axes to both.
5. Picks (Slice, Gather, Split, Concat, Pad along the index): the pick is recorded; indices are equal only if the same
   entries were picked.
6. Everything else, and every case above with unknown shapes, ends the trace.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import onnx_ir as ir

from .einsum import equation_of
from .facts import Dims, Facts
from .index_picks import PICKING, picked
from .monomials import ONE, Monomial, monomial
from .products import product_operands
from .shape_rules import axes_of, perm_of
from .token_index import Index, all_known, onto
from .view import View, attribute, op_types, operand

__all__ = ["everything_behind", "through"]

_FIRST_ONLY = op_types(
    "BiasGelu Cast CastLike Clip DequantizeLinear Dropout DynamicQuantizeLinear FastGelu Identity QuantizeLinear"
    " QuickGelu Abs Ceil Cos Elu Erf Exp Floor Gelu HardSigmoid HardSwish LeakyRelu Log Mish Neg Not Reciprocal Relu"
    " Round Selu Sigmoid Sign Sin Softplus Sqrt Tanh"
)
_OPERANDS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow"), (0, 1)),
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), (0, 1)),
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), (0, 3)),
    "Where": (0, 1, 2),
}
_OVER_LAST = op_types(
    "LpNormalization LayerNormalization LogSoftmax RMSNormalization RotaryEmbedding SimplifiedLayerNormalization"
    " SkipLayerNormalization SkipSimplifiedLayerNormalization Softmax"
)
"""They mix entries along their last axis, or along their `axis` and all after it: no index may run there."""
_CONVOLUTIONS = op_types("Conv ConvInteger QLinearConv")
_WEIGHTED = op_types("MatMulNBits MatMulBnb4")
_MAX_VISITS = 512
_RESHAPING = op_types("Reshape Flatten Squeeze Unsqueeze")


def through(view: View, facts: Facts, node: ir.Node, index: Index, only: ir.Value | None = None) -> list[Index] | None:
    """The index in the inputs of the node that made its value.

    None where the trace ends, [] where no input varies with the index.

    Args:
        only: the one input of an element-wise operator to look at; the others broadcast to it (see `axes`, rule 1).
    """
    shape = facts.shape(index.value)
    if view.function(node) is not None or shape is None or 0 in shape:
        return None
    kind, source = node.op_type, operand(node, 0)
    if kind in PICKING:
        return picked(view, facts, node, index)
    if index.value is not node.outputs[0] or (kind in _OVER_LAST and _mixes(facts, node, index)):
        return None
    if kind in _RESHAPING:
        return all_known([_reshaped(facts, source, index)])
    if kind == "Transpose":
        return all_known([_transposed(facts, node, index)])
    if kind in _CONVOLUTIONS:
        return _convolved(facts, node, index)
    if kind in _WEIGHTED:
        return all_known([onto(facts, source, index, index.axes)]) if index.axes[-1] < len(shape) - 1 else None
    if (factors := product_operands(node)) is not None:
        return _multiplied(view, facts, node, (factors.first, factors.second), index)
    if kind.startswith("Reduce") or kind == "Expand":
        return _expanded(facts, node, index) if kind == "Expand" else _reduced(facts, node, index)
    if kind in _OPERANDS:
        if only is not None:
            narrow = facts.rank(only)
            moved = 0 if narrow is None else narrow - len(shape)
            return all_known([onto(facts, only, index, tuple(axis + moved for axis in index.axes))])
        return _element_wise(view, facts, node, index, [operand(node, position) for position in _OPERANDS[kind]])
    return all_known([onto(facts, source, index, index.axes)]) if kind in _FIRST_ONLY | _OVER_LAST else None


def everything_behind(view: View, facts: Facts, start: Index | None) -> Iterator[Index]:
    """The index and all equal indices further back, nearest first; a sum has the index of each summand."""
    waiting = deque([start] if start is not None else [])
    seen = {start}
    while waiting and len(seen) < _MAX_VISITS:
        index = waiting.popleft()
        yield index
        node = index.value.producer()
        behind = [replace(index, value=same) for same in view.backward.get(index.value, ())]
        for one in behind or (through(view, facts, node, index) if node is not None else None) or ():
            if one not in seen:
                seen.add(one)
                waiting.append(one)


def _mixes(facts: Facts, node: ir.Node, index: Index) -> bool:
    rank = facts.rank(index.value)
    assert rank is not None
    # 1 was the default of Softmax; all axes after it count, to be safe
    first = attribute(node, "axis", -1 if node.op_type != "Softmax" else 1)
    return bool(index.axes[-1] >= first % rank)


def _located(facts: Facts, value: ir.Value | None, index: Index, stride: Monomial) -> Index | None:
    """(position // stride) % size in the flat order of a value, as an index over its axes."""
    shape = facts.shape(value)
    if value is None or shape is None or 0 in shape:
        return None
    for last in range(len(shape) - 1, -1, -1):
        behind = monomial(shape[last + 1 :])
        if behind == stride and shape[last] != 1:
            for first in range(last, -1, -1):
                if monomial(shape[first : last + 1]) == index.size:
                    return replace(index, value=value, axes=tuple(range(first, last + 1)), inner=ONE)
        inner = stride.over(behind)
        leads = all(dim == 1 for dim in shape[:last])  # no axis before it: the axis may be longer than known
        if inner is not None and (leads or monomial(shape[last : last + 1]).over(inner * index.size) is not None):
            return replace(index, value=value, axes=(last,), inner=inner)
    return None


def _reshaped(facts: Facts, source: ir.Value | None, index: Index) -> Index | None:
    shape = facts.shape(index.value)
    assert shape is not None
    return _located(facts, source, index, monomial(shape[index.axes[-1] + 1 :]) * index.inner)


def _transposed(facts: Facts, node: ir.Node, index: Index) -> Index | None:
    perm = perm_of(facts, node)
    axes = () if perm is None else tuple(perm[axis] for axis in index.axes)
    return onto(facts, operand(node, 0), index, axes) if axes and axes == tuple(range(axes[0], axes[-1] + 1)) else None


def _element_wise(
    view: View, facts: Facts, node: ir.Node, index: Index, values: Sequence[ir.Value | None]
) -> list[Index] | None:
    """The index in each of `values` that has its axes; all inputs of the node take part in the broadcasting."""
    shape = facts.shape(index.value)
    assert shape is not None
    wide = tuple(shape[axis] for axis in index.axes)
    found: list[tuple[ir.Value, tuple[int, ...], Dims]] = []
    for value in dict.fromkeys(node.inputs):
        if value is None:
            continue
        dims = facts.shape(value)
        if dims is None:
            return None
        axes = tuple(axis - (len(shape) - len(dims)) for axis in index.axes)
        have = tuple(dims[axis] for axis in axes if axis >= 0)
        if any(dim != 1 for dim in have):
            if axes[0] < 0:
                return None
            found.append((value, axes, have))
    # A dimension with another name may have size 1 and be repeated. Then all indices are equal there, for queries and
    # keys alike. But a part of such an axis would be a part of nothing.
    if len(found) > 1 and index.size != monomial(wide) and any(have != wide for _, _, have in found):
        return None
    wanted = [
        (value, axes) for value, axes, _ in found if any(value is one for one in values) and not view.is_constant(value)
    ]
    return all_known(onto(facts, value, index, axes) for value, axes in wanted)


def _multiplied(
    view: View, facts: Facts, node: ir.Node, factors: tuple[ir.Value | None, ir.Value | None], index: Index
) -> list[Index] | None:
    if node.op_type == "Einsum":
        return _einsum(view, facts, node, index)
    rank, ranks = facts.rank(index.value) or 0, [facts.rank(factor) or 0 for factor in factors]
    swapped = [bool(attribute(node, f"trans{letter}", 0)) for letter in "AB"]
    mixed = any(attribute(node, f"transBatch{letter}", 0) for letter in "AB")
    if (
        mixed
        or min(ranks) < 2
        or rank != max(ranks)
        or (node.op_type.endswith("Gemm") and not view.is_constant(operand(node, 2)))
    ):
        return None
    if index.axes[-1] < rank - 2:
        return _element_wise(view, facts, node, index, factors)
    side = index.axes[-1] - (rank - 2)  # rows 0, columns 1
    if view.is_constant(factors[side]) or (len(index.axes) > 1 and (side or swapped[0] or ranks[1] != 2)):
        return None
    own = ranks[side]
    last = own - 1 if (side == 1) != swapped[side] else own - 2
    axes = (*(axis + own - rank for axis in index.axes[:-1]), last)
    return all_known([onto(facts, factors[side], index, axes)])


def _einsum(view: View, facts: Facts, node: ir.Node, index: Index) -> list[Index] | None:
    text = equation_of(node)
    left, arrow, output = text.partition("->")
    terms = left.split(",")
    if (
        not arrow
        or "." in text
        or len(index.axes) > 1
        or index.axes[0] >= len(output)
        or len(terms) != len(node.inputs)
    ):
        return None
    letter = output[index.axes[0]]
    holders = [
        (value, term.index(letter)) for value, term in zip(node.inputs, terms, strict=True) if term.count(letter) == 1
    ]
    if any(term.count(letter) > 1 for term in terms) or any(view.is_constant(value) for value, _ in holders):
        return None
    return all_known(onto(facts, value, index, (axis,)) for value, axis in holders)


def _convolved(facts: Facts, node: ir.Node, index: Index) -> list[Index] | None:
    """Along the samples, and along spatial axes where the output has one position for each position of the input."""
    source = operand(node, 0)
    if index.axes == (0,):
        return all_known([onto(facts, source, index, (0,))])
    old, new = facts.shape(source), facts.shape(index.value)
    if old is None or new is None or index.axes[0] < 2 or any(step != 1 for step in attribute(node, "strides", ())):
        return None
    weight = facts.shape(operand(node, 3 if node.op_type == "QLinearConv" else 1))
    kernel = attribute(node, "kernel_shape") or (weight or ())[2:]
    points = bool(kernel) and all(size == 1 for size in kernel) and not any(attribute(node, "pads", ()))
    return all_known([onto(facts, source, index, index.axes)]) if points or old[2:] == new[2:] else None


def _reduced(facts: Facts, node: ir.Node, index: Index) -> list[Index] | None:
    source = operand(node, 0)
    axes, rank = axes_of(facts, node), facts.rank(source)
    if axes is None or rank is None:
        return None
    gone = {axis % rank for axis in axes}
    kept = list(range(rank)) if attribute(node, "keepdims", 1) else [axis for axis in range(rank) if axis not in gone]
    behind = tuple(kept[axis] for axis in index.axes)
    if gone & {*behind} or behind != tuple(range(behind[0], behind[-1] + 1)):
        return None
    return all_known([onto(facts, source, index, behind)])


def _expanded(facts: Facts, node: ir.Node, index: Index) -> list[Index] | None:
    source = operand(node, 0)
    old, new = facts.shape(source), facts.shape(index.value)
    if old is None or new is None:
        return None
    axes = tuple(axis - (len(new) - len(old)) for axis in index.axes)
    if all(axis < 0 or old[axis] == 1 for axis in axes):
        return []
    alike = axes[0] >= 0 and all(old[b] == new[a] for a, b in zip(index.axes, axes, strict=True))
    return all_known([onto(facts, source, index, axes)]) if alike else None
