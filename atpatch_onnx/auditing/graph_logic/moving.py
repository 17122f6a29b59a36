"""The part of the taint analysis about operators that move, pick, count and sum up elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from . import operators as ops
from .flow import Step
from .states import Bits, State, bent, kinked, union

if TYPE_CHECKING:
    from .taint import Taint

__all__ = ["count", "move", "other", "pick", "reduce", "scatter"]

_POOLS = frozenset({"AveragePool", "MaxPool", "LpPool"})
_NARROW = 4
"""A table with shorter rows is a list of numbers, not an embedding."""
_FEW = 16
"""So many elements along an axis are few."""


def _controls(taint: Taint, step: Step, first: int) -> list[tuple[int, State]]:
    return [(value, state) for value in step.inputs[first:] if (state := taint.state(value))]


def pick(taint: Taint, step: Step, read: list[State]) -> State:
    """Some elements, or the rows of a constant table that an input names."""
    data = taint.state(step.inputs[0])
    controls = _controls(taint, step, 1)
    if data is None:
        return _look_up(taint, step, controls[0][0], controls[0][1])
    for value, state in controls:
        if not state.net and state.test:
            taint.meet("index", value, step.inputs[:1])
    if data.net or any(state.net for _, state in controls):
        kept = data.bits & (Bits.NET_TEST | Bits.NARROW | Bits.OFFSET)
        return State(int(Bits.NET | kept), max(state.depth for state in read))
    if controls:
        sized = Bits.SIZED if step.kind == "Compress" else 0
        return union([data, *(state for _, state in controls)]).plus(Bits.NONLINEAR | sized).minus(Bits.BOOLEAN)
    return _picked(taint, step, data)


def _picked(taint: Taint, step: Step, data: State) -> State:
    """Elements at places that do not depend on the input."""
    before, after = taint.values.dims(step.inputs[0]), taint.values.dims(step.outputs[0])
    if before is None or after is None:
        return data
    kept = list(before)
    for dim in after:
        if dim in kept:
            kept.remove(dim)
    few = any(not isinstance(dim, int) or dim > 1 for dim in kept)
    one_axis = len(kept) == 1 and isinstance(kept[0], int) and kept[0] < _NARROW
    if one_axis and len(before) >= 3 and any(dim != 1 for dim in after[1:]):
        return data  # a color of all pixels, a coordinate of all points
    small = [dim for dim in after if isinstance(dim, int) and dim <= _FEW]
    if not few or (len(after) == len(before) and not small):
        return data
    bits = Bits.PICK | Bits.REDUCED
    if data.bits & Bits.BOOLEAN and data.bits & Bits.NONLINEAR:
        bits |= Bits.TEST
    return data.plus(bits)


def _look_up(taint: Taint, step: Step, value: int, state: State) -> State:
    """Rows of a constant table."""
    if state.net:
        return State(int(Bits.NET), state.depth + 1)
    size, dims = taint.values.size(step.inputs[0]), taint.values.dims(step.inputs[0])
    axis = next((a.i for a in step.node.attribute if a.name == "axis"), 0)
    rows = dims[axis] if dims and -len(dims) <= axis < len(dims) else None
    width = size // rows if size and isinstance(rows, int) and rows else None
    if step.kind == "GatherBlockQuantized" and width is not None:
        width *= 2
    if state.test and state.bits & Bits.REDUCED and not state.bits & Bits.COUNT and not state.direct:
        return state.plus(Bits.NONLINEAR).minus(Bits.BOOLEAN)
    if width is not None and width < _NARROW:
        return state.plus(Bits.NONLINEAR | Bits.TEST).minus(Bits.BOOLEAN)
    taint.reads(state)
    taint.embed(value, state)
    return State(int(Bits.NET), 1)


def scatter(taint: Taint, step: Step, read: list[State]) -> State:
    """Elements that are written over."""
    made = union(read)
    for position, value in enumerate(step.inputs[1:], 1):
        state = taint.state(value)
        if state is not None and not state.net and state.test:
            role = "select" if position == 1 else "meet"
            others = (step.inputs[0], *step.inputs[2:3])
            taint.meet(role, value, others)
    if made.net:
        return State(int(Bits.NET), made.depth)
    fixed = taint.state(step.inputs[1]) is None
    return made if fixed and len(read) > 1 else made.plus(Bits.NONLINEAR)


def reduce(taint: Taint, step: Step, read: list[State]) -> State:
    """Sums, extremes and pools."""
    made = union(read)
    if made.net:
        taint.meet_all(step, "meet")
        kept = made.bits & (Bits.NET_TEST | Bits.NARROW | Bits.OFFSET)
        dims = taint.values.dims(step.outputs[0])
        if made.depth <= 1 and dims is not None and all(dim == 1 for dim in dims[1:]):
            kept |= Bits.NARROW  # one number of a whole sample
        return State(int(Bits.NET) | kept, made.depth)
    if _from_list(taint, step) or _is_local(taint, step):
        return made.plus(Bits.NONLINEAR)
    hashed = Bits.HASH if made.bits & Bits.WEIGHTED else 0
    linear = step.kind in ("ReduceSum", "ReduceMean", "AveragePool", "GlobalAveragePool")
    extreme = Bits.PICK if step.kind in ("TopK", "ReduceMax", "ReduceMin", "GlobalMaxPool") else 0
    made = State(made.bits | Bits.REDUCED | hashed | extreme, 0, 0)
    if step.kind in ("ReduceMax", "ReduceMin", "MaxPool", "GlobalMaxPool") and made.bits & Bits.BOOLEAN:
        return made
    return made.minus(Bits.BOOLEAN) if linear else bent(made)


def _from_list(taint: Taint, step: Step) -> bool:
    """Whether only an axis goes that a list of constants had, with which every element was compared."""
    before, after = taint.values.dims(step.inputs[0]), taint.values.dims(step.outputs[0])
    maker = taint.makers.get(step.inputs[0])
    while maker is not None and maker.kind in ("Cast", "Not", "Identity"):
        maker = taint.makers.get(maker.inputs[0])
    if maker is None or maker.kind not in ops.COMPARISONS or before is None or after is None:
        return False
    axes = [taint.values.dims(value) for value in maker.inputs if taint.state(value) is not None]
    if len(axes) != 1 or axes[0] is None or len(axes[0]) != len(before) or axes[0][-1] != 1:
        return False
    return before[-1] != 1 and list(after) in (list(before[:-1]), [*before[:-1], 1])


def _is_local(taint: Taint, step: Step) -> bool:
    """A pool, or a sum over channels, that leaves many places: each of them answers for its own surroundings."""
    before, dims = taint.values.dims(step.inputs[0]), taint.values.dims(step.outputs[0])
    if before is None or dims is None:
        return False
    if step.kind in _POOLS:
        return any(dim != 1 for dim in dims[2:])
    channels = len(before) == 4 and dims in ((before[0], 1, *before[2:]), (before[0], *before[2:]))
    return channels and step.kind.startswith("Reduce") and any(dim != 1 for dim in before[2:])


def count(taint: Taint, step: Step, read: list[State]) -> State:
    """Positions, lengths and indices."""
    made = union(read)
    if made.net:
        taint.meet_all(step, "meet")
        return State(int(Bits.NET), made.depth)
    if step.kind == "OneHot":
        return made.plus(Bits.NONLINEAR | Bits.TEST | Bits.BOOLEAN | Bits.WEIGHTED)
    if step.kind == "CumSum" and made.direct and made.bits & Bits.WHOLE and not made.bits & (Bits.BOOLEAN | Bits.TEST):
        return made.plus(Bits.HASH | Bits.REDUCED)  # a sum of ids counts nothing
    nonlinear = 0 if step.kind == "CumSum" else Bits.NONLINEAR
    sized = Bits.SIZED if step.kind in ("NonZero", "Unique") else 0
    return State(made.bits & ~Bits.BOOLEAN | Bits.COUNT | nonlinear | sized, 0, 0)


def move(taint: Taint, step: Step, read: list[State]) -> State:
    """Elements that only move."""
    if step.kind in ("Concat", "QLinearConcat", "ConcatFromSequence", "SequenceConstruct", "SequenceInsert"):
        made = union(read)
        if made.net:
            taint.meet_all(step, "concat")
            bits = int(Bits.NET_TEST | Bits.NARROW)
            for state in read:
                bits &= state.bits
            return State(Bits.NET | bits, made.depth)
        return made
    data = taint.state(step.inputs[0])
    for value, state in _controls(taint, step, 1):
        if not state.net and state.test:
            taint.meet("index", value, step.inputs[:1])
    if data is None:
        return union(read).plus(Bits.NONLINEAR)
    if step.kind == "BatchNormalization":
        return data if data.net else data.plus(Bits.SHIFT).minus(Bits.BOOLEAN)
    if step.kind == "Cast":
        return _cast(step, data)
    return data


def _cast(step: Step, data: State) -> State:
    to = next((a.i for a in step.node.attribute if a.name == "to"), 0)
    if data.bits & Bits.BOOLEAN:
        return data
    if to == TensorProto.BOOL:
        if data.net:
            return State(int(Bits.NET | Bits.NET_TEST | Bits.BOOLEAN), data.depth)
        test = Bits.TEST if data.bits & (Bits.SHIFT | Bits.REDUCED | Bits.PICK | Bits.HASH | Bits.NONLINEAR) else 0
        return State(data.bits | Bits.NONLINEAR | Bits.BOOLEAN | test, 0, 0)
    # Rounding makes a category of a number; by itself it does not single one out.
    whole = to in (TensorProto.INT64, TensorProto.INT32, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16)
    if whole and not data.net and not data.bits & Bits.WHOLE:
        return kinked(data) if data.bits & (Bits.SHIFT | Bits.HASH) else data.plus(Bits.NONLINEAR)
    return data


def encode(taint: Taint, step: Step, read: list[State]) -> State:
    """Categories by number are what an embedding wants. Numbers with a fraction are a table of one column."""
    floats = any(attribute.name.startswith("values_float") for attribute in step.node.attribute)
    return union(read).plus(Bits.NONLINEAR | (Bits.TEST if floats else 0)).minus(Bits.BOOLEAN)


def other(taint: Taint, step: Step, read: list[State]) -> State:
    """An operator that is in no list: it passes on what it reads."""
    made = union(read)
    if made.net:
        taint.meet_all(step, "meet")
        return State(int(Bits.NET), made.depth)
    return kinked(made)
