"""Picks: operators that select entries of a value, and their effect on an index; see `index_trace`, rule 5."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import onnx_ir as ir

from .facts import Facts
from .monomials import monomial
from .token_index import Index, all_known, index_of, onto
from .view import View, attribute, operand

__all__ = ["PICKING", "picked"]

PICKING = ("Concat", "Gather", "Pad", "Slice", "Split")


def picked(view: View, facts: Facts, node: ir.Node, index: Index) -> list[Index] | None:
    """The index in the inputs of an operator of `PICKING`; None where it is not known."""
    source = operand(node, 0)
    shape, rank = facts.shape(index.value), facts.rank(source)
    if shape is None or rank is None:
        return None
    if node.op_type == "Gather":
        return _gathered(view, facts, node, index, rank)
    axes = _picking_axes(facts, node, rank)
    if axes is None:
        return None
    parts: list[ir.Value | None] = list(node.inputs) if node.op_type == "Concat" else [source]
    parts = [part for part in parts if not view.is_constant(part)]
    if not axes & {*index.axes}:
        return all_known(onto(facts, part, index, index.axes) for part in parts)
    if len(index.axes) > 1 or index.size != monomial([shape[index.axes[0]]]):
        return None
    return all_known(
        index_of(facts, part, index.axes[0], (*index.picks, _pick(facts, node, index, part))) for part in parts
    )


def _picking_axes(facts: Facts, node: ir.Node, rank: int) -> set[int] | None:
    if node.op_type in ("Split", "Concat"):
        return {attribute(node, "axis", 0) % rank}
    if node.op_type == "Pad":
        pads = attribute(node, "pads") or facts.ints(operand(node, 1))
        return (
            None
            if pads is None or len(pads) != 2 * rank
            else {axis for axis in range(rank) if pads[axis] or pads[axis + rank]}
        )
    given: Sequence[int] | None = attribute(node, "axes") or facts.ints(operand(node, 3))
    if given is None and operand(node, 3) is None:
        starts = attribute(node, "starts") or facts.ints(operand(node, 1))
        given = None if starts is None else range(len(starts))
    return None if given is None else {axis % rank for axis in given}


def _pick(facts: Facts, node: ir.Node, index: Index, part: ir.Value | None) -> Hashable:
    """A description of a pick: equal for two picks that take the same entries."""
    axis = index.axes[0]
    if node.op_type == "Concat":  # where a part begins depends on how long those before it are
        position = next(i for i, value in enumerate(node.inputs) if value is part)
        return "Concat", tuple(
            shape[axis] if (shape := facts.shape(value)) else value for value in node.inputs[:position]
        )
    settings = tuple(_known(facts, value) for value in node.inputs[1:])
    given = tuple(tuple(attribute(node, name, ())) for name in ("starts", "ends", "axes", "split", "pads"))
    return node.op_type, settings, given, node.outputs.index(index.value), len(node.outputs)


def _known(facts: Facts, value: ir.Value | None) -> Hashable:
    return None if value is None else facts.elements.get(value, value)


def _gathered(view: View, facts: Facts, node: ir.Node, index: Index, rank: int) -> list[Index] | None:
    source, indices = operand(node, 0), operand(node, 1)
    axis, wide = attribute(node, "axis", 0) % rank, facts.rank(indices)
    if wide is None:
        return None
    first, last = index.axes[0], index.axes[-1]
    if last < axis or first >= axis + wide:
        moved = 0 if last < axis else 1 - wide
        return (
            []
            if view.is_constant(source)
            else all_known([onto(facts, source, index, tuple(a + moved for a in index.axes))])
        )
    if first < axis or last >= axis + wide:
        return None
    if view.is_constant(source):  # a lookup table: the index continues in the looked-up ids
        return (
            []
            if view.is_constant(indices)
            else all_known([onto(facts, indices, index, tuple(a - axis for a in index.axes))])
        )
    return (
        all_known([index_of(facts, source, axis, (*index.picks, ("Gather", _known(facts, indices))))])
        if wide == 1
        else None
    )
