"""What the axes of a value count, on the way from the product of an attention map to its output projection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .facts import Dim
from .monomials import ONE, monomial

__all__ = ["Axis", "regrouped"]


@dataclass(frozen=True)
class Axis:
    """Something that an axis counts: "heads", "width", or anything else."""

    what: str
    size: Dim


def regrouped(parts: Sequence[Axis], target: Sequence[Dim]) -> tuple[tuple[Axis, ...], ...] | None:
    """The axes of a Reshape's result, with the parts in the same order.

    None where the sizes do not show where heads and width are. A Reshape to as many axes as before, none of which has
    another known size, keeps them.
    """
    first, last = 0, len(target)
    before: list[tuple[Axis, ...]] = []
    after: list[tuple[Axis, ...]] = []
    while last > first and (taken := _taken(parts[::-1], target[last - 1])) is not None:
        after.insert(0, tuple(reversed(taken)))
        parts, last = parts[: len(parts) - len(taken)], last - 1
    while last > first and (taken := _taken(parts, target[first])) is not None:
        before.append(tuple(taken))
        parts, first = parts[len(taken) :], first + 1
    left = target[first:last]
    if len(left) == 1:
        middle = [tuple(parts)]
    elif not any(part.what for part in parts):
        middle = [(Axis("", dim),) for dim in left]
    elif len(left) == len(parts) and all(_may_be(part.size, dim) for part, dim in zip(parts, left, strict=True)):
        middle = [(part,) for part in parts]
    else:
        return None
    return (*before, *middle, *after)


def _may_be(size: Dim, other: Dim) -> bool:
    return size == other or isinstance(size, str) or isinstance(other, str)


def _taken(parts: Sequence[Axis], size: Dim) -> Sequence[Axis] | None:
    """The fewest first parts that together have a size; none for 1."""
    wanted, product = monomial([size]), ONE
    for count in range(len(parts) + 1):
        if product == wanted:
            return parts[:count]
        if count < len(parts):
            product = product * monomial([parts[count].size])
    return None
