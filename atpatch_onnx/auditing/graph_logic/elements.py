"""The part of the taint analysis about operators that work element by element."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .flow import Step
from .states import Bits, State, bent, kinked, union

if TYPE_CHECKING:
    from .taint import Taint

__all__ = ["HIDING", "compare", "hides", "kink", "logic", "merge"]

HIDING = -1e3
"""A number that a mask adds, or puts in, is this small or smaller."""
_GUARD = 1e-3
"""A bound so near to zero only keeps a division or a root from failing."""
_CATEGORIES = 16
"""Numbers that an element is compared with, to make a vector of it that has a single 1."""
_WIDE = 4
"""Elements of a vector that a number is multiplied with to embed it."""


def compare(taint: Taint, step: Step, read: list[State]) -> State:
    """A comparison of raw values is a test, unless it only looks for ids that no text has."""
    made = union(read)
    if made.net:
        return State(int(Bits.NET | Bits.NET_TEST | Bits.BOOLEAN), made.depth)
    constants = [array for value in step.inputs if (array := taint.values.array(value)) is not None]
    guard = made.bits & Bits.WHOLE and constants and (constants[0] < 0).all() and not made.bits & Bits.SHIFT
    if step.kind == "Equal" and any(len(np.unique(array)) >= _CATEGORIES for array in constants):
        taint.reads(made)  # one-hot: a category is read by its number
    if step.kind == "Equal" and made.direct and made.bits & Bits.WHOLE and not made.bits & Bits.NONLINEAR:
        taint.equals += [(taint.number, v, made.direct) for v in step.inputs if taint.values.array(v) is not None]
    bits = Bits.NONLINEAR | Bits.BOOLEAN | (0 if guard else Bits.TEST)
    return State(made.bits | bits, 0, 0)


def logic(taint: Taint, step: Step, read: list[State]) -> State:
    """And, Or, Not, Xor."""
    made = union(read)
    if made.net:
        taint.meet_all(step, "meet")
        return State(int(Bits.NET | Bits.NET_TEST | Bits.BOOLEAN), made.depth)
    return made.plus(Bits.BOOLEAN)


def merge(taint: Taint, step: Step, read: list[State]) -> State:
    """Sums, products and their like."""
    made = union(read)
    constants = [value for value in step.inputs if value >= 0 and taint.state(value) is None]
    if made.net:
        return _of_nets(taint, step, constants)
    several = len(read) > 1
    kind = step.kind
    if kind in ("Mod", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift"):
        return kinked(made.plus(Bits.SHIFT))
    if kind in ("Max", "Min"):
        return made.plus(Bits.NONLINEAR) if not several and _near_zero(taint, constants) else kinked(made)
    if kind in ("Mul", "Div", "Pow", "QLinearMul", "MulInteger", "PRelu"):
        return _scaled(taint, step, made, constants, several)
    if several:
        rest = kind == "Sub" and any(_rounds(taint, value) for value in step.inputs)
        return kinked(made.plus(Bits.SHIFT)) if rest else made.minus(Bits.BOOLEAN)
    made = made.minus(Bits.HIDES)
    if made.bits & Bits.BOOLEAN and all(_is(taint, value, 1) for value in constants):
        return made
    return made if _near_zero(taint, constants) else made.plus(Bits.SHIFT).minus(Bits.BOOLEAN)


def _rounds(taint: Taint, value: int) -> bool:
    """Whether a value was rounded: less it, a number is its remainder."""
    step = taint.makers.get(value)
    return step is not None and step.kind in ("Floor", "Ceil", "Round")


def _scaled(taint: Taint, step: Step, made: State, constants: list[int], several: bool) -> State:
    if several:
        return made if made.bits & Bits.BOOLEAN and step.kind == "Mul" else bent(made)
    if step.kind == "Pow" or (step.kind == "Div" and taint.state(step.inputs[0]) is None):
        return bent(made)
    weights = [value for value in constants if (taint.values.size(value) or 2) > 1]
    for value in weights:
        array = taint.values.array(value)
        if value not in taint.values.constant or (array is not None and np.ptp(array.astype(np.float64)) == 0):
            continue
        data = taint.values.dims(step.inputs[0 if taint.state(step.inputs[0]) else 1])
        result = taint.values.dims(step.outputs[0])
        wide = (taint.values.last(value) or 0) >= _WIDE
        grows = data and result and (data[-1] == 1 or len(data) < len(result))
        if wide and grows and not made.bits & (Bits.TEST | Bits.WHOLE | Bits.NONLINEAR):
            taint.reads(made)
            return State(int(Bits.NET), 1)  # a vector for each number: the embedding of a table's column
        made = made.plus(Bits.WEIGHTED)
    if all(_is(taint, value, 1) for value in constants):
        return made
    made = made.minus(Bits.HIDES)
    arrays = [taint.values.array(value) for value in constants]
    if made.bits & Bits.BOOLEAN and all(array is not None and hides(array) for array in arrays):
        made = made.plus(Bits.HIDES)
    return made.minus(Bits.BOOLEAN)


def _of_nets(taint: Taint, step: Step, constants: list[int]) -> State:
    taint.meet_all(step, "meet")
    nets = [(value, state) for value in step.inputs if (state := taint.state(value)) and state.net]
    depth = max(state.depth for _, state in nets)
    if len({value for value, _ in nets}) == 1:
        state = nets[0][1]
        wide = any((taint.values.size(value) or 2) > 1 for value in constants)
        turns = wide and step.kind in ("Mul", "Div") and state.bits & (Bits.NET_TEST | Bits.NARROW)
        same = state.bits & (Bits.NET_TEST | Bits.NARROW | Bits.OFFSET)
        return State(int(Bits.NET) | same | (Bits.OFFSET if turns else 0), depth)
    for value, state in nets:
        others = tuple(other for other, _ in nets if other != value)
        if state.bits & Bits.OFFSET and step.kind in ("Add", "Sub", "Sum", "Max", "Min", "QLinearAdd"):
            taint.meet("offset", value, others)
        elif any(other.depth > state.depth for _, other in nets):
            taint.meet("nets", value, others)
    kept = int(Bits.NET_TEST | Bits.NARROW)
    for _, state in nets:
        kept &= state.bits
    return State(Bits.NET | kept, depth)


def hides(array: NDArray[Any]) -> bool:
    """Whether a constant is zero, or one number that hides, in every element."""
    return (
        array.dtype.kind in "fiu"
        and len(set(array[array != 0])) <= 1
        and bool((array <= 0).all())
        and bool(((array == 0) | (array <= HIDING)).all())
    )


def _near_zero(taint: Taint, values: list[int]) -> bool:
    arrays = [taint.values.array(value) for value in values]
    return all(array is not None and array.size and bool((np.abs(array) <= _GUARD).all()) for array in arrays)


def _is(taint: Taint, value: int, number: int) -> bool:
    array = taint.values.array(value)
    return array is not None and bool((array == number).all())


def kink(taint: Taint, step: Step, read: list[State]) -> State:
    """A function with a step or a kink."""
    made = taint.mixed(step, read, lambda state: state)
    if step.kind in ("IsNaN", "IsInf"):
        return State(made.bits | Bits.BOOLEAN | Bits.NONLINEAR, made.depth)
    if made.net:
        return made
    if step.kind == "Clip":
        bounds = [value for value in step.inputs[1:] if value >= 0]
        bounds_in = [a.f for a in step.node.attribute if a.name in ("min", "max")]
        if len(bounds) + len(bounds_in) < 2 and _near_zero(taint, bounds) and all(abs(b) <= _GUARD for b in bounds_in):
            return made.plus(Bits.NONLINEAR)
    if step.kind in ("Floor", "Ceil", "Round") and not made.bits & (Bits.SHIFT | Bits.HASH):
        return made.plus(Bits.NONLINEAR)
    return kinked(made)
