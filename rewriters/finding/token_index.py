"""An index into a value: over some of its axes, or over a part of one; see `index_trace`."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace

import onnx_ir as ir

from .facts import Facts
from .monomials import ONE, Monomial, monomial

__all__ = ["Index", "all_known", "index_of", "onto"]


@dataclass(frozen=True)
class Index:
    """An index into a value.

    Attributes:
        value: the value it points into.
        axes: the adjacent axes it runs over, counted from the left; a single axis if it is only a part of that axis.
        size: number of different entries.
        inner: step along the axis from one entry to the next, if it is a part of an axis.
        picks: the picks on the path to this value, newest last.
    """

    value: ir.Value
    axes: tuple[int, ...]
    size: Monomial
    inner: Monomial = ONE
    picks: tuple[Hashable, ...] = ()


def index_of(facts: Facts, value: ir.Value | None, axis: int, picks: tuple[Hashable, ...] = ()) -> Index | None:
    """The index over a whole axis (numbered as in numpy); None if the shape is unknown or the axis has size 1."""
    shape = facts.shape(value)
    if value is None or shape is None or not -len(shape) <= axis < len(shape) or shape[axis] == 1:
        return None
    return Index(value, (axis % len(shape),), monomial([shape[axis]]), picks=picks)


def onto(facts: Facts, value: ir.Value | None, index: Index, axes: tuple[int, ...]) -> Index | None:
    """The index over axes of another value that certainly have the same lengths, even if their names differ."""
    old, new = facts.shape(index.value), facts.shape(value)
    if value is None or old is None or new is None or not 0 <= axes[0] <= axes[-1] < len(new):
        return None
    whole = index.size == monomial(old[axis] for axis in index.axes)
    return replace(index, value=value, axes=axes, size=monomial(new[axis] for axis in axes) if whole else index.size)


def all_known(found: Iterable[Index | None]) -> list[Index] | None:
    """All indices as a list; None if one of them is unknown."""
    known = list(found)
    return None if None in known else [one for one in known if one is not None]
