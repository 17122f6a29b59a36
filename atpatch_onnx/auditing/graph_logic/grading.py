"""How much a test of the input proves: the severity of a finding.

1. *error*: the test puts in constants that are not all equal, such as a row of scores: they decide for a class. No
   exporter writes that.
2. *warning*: it only chooses among, scales or takes out what the network computed. Models with several heads, exits
   or steps after the network do that as well; so does a plant with a network of its own.
3. *note*: it can hardly decide for a class. What it puts in is the same for all classes; or it looks only for special
   tokens and for ids outside the vocabulary, which no text has, as switches of languages and tasks do.
"""

from __future__ import annotations

from ..finding import Severity
from . import operators as ops
from .constants import is_row
from .flow import Step
from .material import Material
from .states import Bits, Meeting
from .tokens import is_special, vocabulary

__all__ = ["grade", "is_normalization", "only_special"]

_CHANGED = Bits.NONLINEAR | Bits.SHIFT | Bits.HASH | Bits.TEST | Bits.WEIGHTED
_BOUNDS = frozenset({"Clip", "Min", "Max"})
_PRODUCTS = frozenset(ops.LAYERS) | {"Mul", "Div", "Einsum"}
_SCALES = ops.names(
    "Cast Unsqueeze Squeeze Reshape Expand Identity Sqrt Div Add Sub Mul Max Clip Reciprocal ReduceMean ReduceSum"
    " ReduceMax ReduceMin ReduceL2 ReduceSumSquare Pow Abs Neg Tile Flatten GlobalAveragePool"
)
"""Operators of statistics of a whole sample: means, spreads, extremes."""


def grade(material: Material, meeting: Meeting) -> Severity:
    """Of a test that acts on values of the network."""
    if any(is_row(material, value) or _holds_row(material, value) for value in meeting.others):
        return "error"
    special = only_special(material, meeting.raw)
    if meeting.role not in ("select", "index") and meeting.state.bits & (Bits.WEIGHTED | Bits.HASH):
        return "error" if not special or _is_scaled_row(material, meeting.raw) else "note"
    return "note" if special or _same_for_all_classes(material, meeting) else "warning"


def _holds_row(material: Material, value: int) -> bool:
    step = material.maker.get(value)
    return step is not None and step.kind == "Concat" and any(is_row(material, part) for part in step.inputs)


def _is_scaled_row(material: Material, value: int) -> bool:
    """Whether a test was multiplied by a row of numbers, on the way to a value."""
    return any(_scales_row(material, step) for step in material.steps_behind(value, decides=False))


def _scales_row(material: Material, step: Step) -> bool:
    rows = [v for v in step.inputs if is_row(material, v) and _is_float(material, v)]
    return bool(rows) and step.kind in _PRODUCTS and any(_is_test(material, v) for v in step.inputs)


def _is_float(material: Material, value: int) -> bool:
    array = material.values.array(value)
    return array is None or array.dtype.kind == "f"


def _same_for_all_classes(material: Material, meeting: Meeting) -> bool:
    """A row of scores is replaced by one number, or multiplied by 0 or 1."""
    step = material.flow.steps[meeting.step]
    dims = material.values.dims(step.outputs[0])
    if step.outputs[0] not in material.places.passed_on or dims is None or len(dims) != 2:
        return False
    if not isinstance(dims[1], int) or dims[1] < 2 or not _one_a_sample(material, meeting.raw, dims):
        return False
    if meeting.role == "meet":
        return step.kind in ("Mul", "And") and bool(meeting.state.bits & Bits.BOOLEAN)
    constants = [value for value in meeting.others if value >= 0 and material.taint.state(value) is None]
    return step.kind == "Where" and len(constants) == 1 and material.values.array(constants[0]) is not None


def _one_a_sample(material: Material, value: int, dims: tuple[int | str, ...]) -> bool:
    own = material.values.dims(value)
    return own is not None and (len(own) < len(dims) or own[-1] == 1)


def only_special(material: Material, value: int, chooses: bool = False) -> bool:
    """Whether a value reads token ids only to compare them with special tokens, or with bounds of the vocabulary.

    Args:
        chooses: the value may be these ids, where a Where leaves them as they are.
    """
    taint, waiting, seen = material.taint, [value], {value}
    ids = {number for place, number in enumerate(material.flow.inputs.values()) if place in taint.embedded}
    while waiting:
        reached = waiting.pop()
        if reached in ids:
            return False
        step = material.maker.get(reached)
        if step is None or _is_leaf(material, reached):
            continue
        read = step.inputs
        if chooses and step.kind == "Where":  # the ids themselves, or others
            read = tuple(v for place, v in enumerate(step.inputs) if place == 0 or v not in ids)
        new = [v for v in (*read, *step.decides) if v not in seen and taint.state(v) is not None]
        seen.update(new)
        waiting += new
    return bool(ids)


def _is_leaf(material: Material, value: int) -> bool:
    step, taint = material.maker[value], material.taint
    if step.kind not in ops.COMPARISONS and step.kind not in _BOUNDS:
        return False
    read = [state for v in step.inputs if (state := taint.state(v)) is not None]
    constants = [v for v in step.inputs if v >= 0 and taint.state(v) is None]
    arrays = [array for v in constants if (array := material.values.array(v)) is not None]
    if len(read) != 1 or not arrays or len(arrays) < len(constants) or read[0].bits & _CHANGED:
        return False
    words = vocabulary(material, read[0].direct)
    if not words:
        return False
    for number in (float(n) for array in arrays for n in array[:64]):
        outside = number <= 0 or number >= words - 1
        if not outside and (step.kind != "Equal" or not is_special(int(number), words)):
            return False
    return True


def is_normalization(material: Material, value: int) -> bool:
    """Whether one number of a whole sample is only subtracted, or divided by, on the way to the first layer, or fills
    places that are masked because of their own elements.

    Real networks scale a picture by its own mean, spread or extremes.
    """
    taint, waiting, seen = material.taint, [value], {value}
    while waiting:
        step = material.maker.get(waiting.pop())
        if step is None or taint.state(step.outputs[0]) is None:
            continue
        read = [v for v in (*step.inputs, *step.decides) if v >= 0 and taint.state(v) is not None]
        wide = max((_places(material, v) for v in (*step.inputs, *step.outputs) if v >= 0), default=0)
        whole = [
            v for v in read if _places(material, v) < wide and _is_test(material, v) and step.kind not in ops.MOVES
        ]
        if len(read) == 1 and _is_row_of_test(material, read[0], step.inputs):
            return False
        if whole:
            others = [v for v in read if v not in whole]
            masks = bool(others) and all(_masks(material, v) for v in others)
            allowed = step.kind in ("Sub", "Add", "Where") or (step.kind == "Div" and whole == list(step.inputs[1:2]))
            if not (allowed or (step.kind == "Mul" and masks)) or step.decides:
                return False
            if step.kind == "Where" and step.inputs[0] in whole:
                return False
            if not all(_is_statistic(material, v) for v in whole):
                return False
            read = others
        new = [v for v in read if v not in seen]
        seen.update(new)
        waiting += new
    return True


def _is_test(material: Material, value: int) -> bool:
    state = material.taint.state(value)
    return state is not None and bool(state.bits & Bits.TEST and state.bits & Bits.REDUCED)


def _is_row_of_test(material: Material, value: int, inputs: tuple[int, ...]) -> bool:
    """One number of a sample, times constants that differ."""
    return _is_test(material, value) and any(is_row(material, other) for other in inputs if other != value)


def _places(material: Material, value: int) -> int:
    """How many axes, without that of the samples, are longer than 1."""
    dims = material.values.dims(value)
    return 0 if dims is None else sum(dim != 1 for dim in dims[1:])


def _masks(material: Material, value: int) -> bool:
    state = material.taint.state(value)
    return state is not None and bool(state.bits & Bits.BOOLEAN) and not state.bits & Bits.REDUCED


def _is_statistic(material: Material, value: int) -> bool:
    """Whether a number of a whole sample has met no comparison since it was made, and comes from all its elements."""
    return all(_keeps_statistic(material, step) for step in material.steps_behind(value, decides=False))


def _keeps_statistic(material: Material, step: Step) -> bool:
    if step.kind in ops.PICKS and material.taint.state(step.inputs[0]) is not None:
        return False
    if _places(material, step.outputs[0]) > 0:
        return True
    window = step.kind == "Clip" and len([v for v in step.inputs[1:] if v >= 0]) > 1
    return step.kind in _SCALES and not window
