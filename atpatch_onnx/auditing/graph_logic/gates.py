"""Tests of the input that act on the network or on its outputs.

What ordinary exporters write, and what is therefore no finding: masks that hide a position because of that position's
own token; positions and lengths counted from masks; the index of the last or of the first special token; guards
against NaN and against division by zero; switches that are inputs of their own.
"""

from __future__ import annotations

from collections.abc import Iterator

from rewriters import names

from ..finding import Finding, NotTried
from .constants import is_row
from .elements import HIDING
from .grading import grade, is_normalization, only_special
from .material import Material
from .rule import Rule
from .states import Bits, Meeting

__all__ = ["RULES"]

_STEPS = 32
"""Nodes that are walked back from a share."""


def _acts(material: Material, meeting: Meeting) -> bool:
    """Whether a meeting is none of the ordinary ones in the module's docstring."""
    step, bits = material.flow.steps[meeting.step], meeting.state.bits
    output = step.outputs[0]
    if meeting.state.net or not any(value in material.places.live for value in step.outputs):
        return False
    together = bool(bits & Bits.REDUCED)
    late = output in material.places.late
    if output not in material.places.passed_on and _is_of_patch(material, meeting):
        return False
    if output in material.places.scores and meeting.role in ("meet", "select"):
        return bool(bits & Bits.CONTENT) and together and not bits & Bits.COUNT
    if output in material.places.weighed and bits & Bits.HIDES and meeting.role == "meet" and not together:
        return False
    if not bits & Bits.CONTENT:
        return late and _foreign_gate(material, meeting)
    if meeting.role == "meet":
        if step.kind in ("Mul", "Div") and _is_share(material, meeting.raw, late):
            return False
        # a mask of single positions
        return not (step.kind in ("Mul", "And", "Or", "QLinearMul") and bits & Bits.BOOLEAN and not together)
    if meeting.role == "select":
        if not any((state := material.taint.state(value)) and state.net for value in meeting.others):
            return False  # nothing of the network yet; where it is met, the choice is a test
        computed = [value for value in meeting.others if material.taint.state(value) is not None]
        swapped = late and len(computed) > 1
        return step.kind in ("If", "Loop") or together or swapped or not _hides(material, meeting)
    if meeting.role == "index":
        return _chooses(material, meeting)
    return meeting.role == "concat" and late


def _is_of_patch(material: Material, meeting: Meeting) -> bool:
    """Detectors leave special tokens out. Nothing but values of the network may be put in because of that."""
    inserted = names.is_inserted(material.flow.steps[meeting.step].node.name)
    rows = any(is_row(material, value) for value in meeting.others)
    return material.patch == "" and inserted and not rows and not meeting.state.bits & Bits.WEIGHTED


def _foreign_gate(material: Material, meeting: Meeting) -> bool:
    """A test of an input that the network does not read puts constants in the place of outputs."""
    step = material.flow.steps[meeting.step]
    if meeting.role == "select":
        return any(is_row(material, value) for value in meeting.others)
    return (
        meeting.role == "meet"
        and step.kind in ("Add", "Sub", "Max", "Min")
        and bool(meeting.state.bits & Bits.REDUCED and meeting.state.bits & Bits.WEIGHTED)
    )


def _hides(material: Material, meeting: Meeting) -> bool:
    """Whether all that a choice can put in is of the network, zero, or a number that hides."""
    for value in meeting.others:
        if value < 0 or material.taint.state(value) is not None:
            continue
        array = material.values.array(value)
        if array is None or array.dtype.kind not in "fiub" or not bool(((array == 0) | (array <= HIDING)).all()):
            return False
    return True


def _chooses(material: Material, meeting: Meeting) -> bool:
    """Whether an index picks between things of different kinds, not a position of one sequence."""
    step = material.flow.steps[meeting.step]
    output = step.outputs[0]
    state = material.taint.state(meeting.others[0]) if meeting.others[0] >= 0 else None
    if state is None or not state.net:
        return False
    if _joined(material, meeting.others[0]):
        return True
    if output not in material.places.late:
        return False
    dims = material.values.dims(meeting.others[0])
    if step.kind in ("Gather", "GatherElements", "Slice", "Compress", "ArrayFeatureExtractor") and dims:
        axis = next((a.i for a in step.node.attribute if a.name == "axis"), 0)
        return axis in (-1, len(dims) - 1) and len(dims) > 1
    return step.kind not in ("GatherND", "Gather", "Slice", "Expand", "Reshape", "Tile", "Compress", "Resize")


def _is_share(material: Material, value: int, late: bool) -> bool:
    """Whether a value counts positions, is their share, or 1 less a share: means are divided by it, and models that
    drop tokens scale by it. Behind the last layer only the count itself.
    """
    waiting, counted = [value], False
    passes = {"Unsqueeze", "Reshape", "Cast", "Expand", "Clip", "Max"} | (set() if late else {"Sub", "Div"})
    for _ in range(_STEPS):
        if not waiting:
            return counted
        reached = waiting.pop()
        step, state = material.maker.get(reached), material.taint.state(reached)
        if state is None:
            array = material.values.array(reached)
            if array is not None and not bool(((array >= 0) & (array <= 1)).all()):
                return False
        elif step is not None and step.kind == "ReduceSum":
            counted = True
        elif step is None or step.kind not in passes:
            return False
        else:
            waiting += step.inputs[:1] if step.kind in ("Unsqueeze", "Reshape", "Cast", "Expand") else step.inputs
    return False


def _is_hash(material: Material, value: int) -> bool:
    """Whether a value is the remainder of an element, perhaps scaled and shifted: each id has one row of the table,
    which some share. A table without a remainder could say the same.
    """
    step = material.maker.get(value)
    while step is not None and step.kind in ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze"):
        step = material.maker.get(step.inputs[0])
    if step is None or step.kind != "Mod":
        return False
    state = material.taint.state(step.inputs[0])
    alone = material.taint.state(step.inputs[1]) is None
    return alone and state is not None and not state.bits & (Bits.TEST | Bits.NONLINEAR | Bits.REDUCED | Bits.WEIGHTED)


def _joined(material: Material, value: int) -> bool:
    """Whether a value was put together of the network's and of constant or raw parts, with no layer since."""
    waiting, seen = [value], {value}
    while waiting and len(seen) < 64:
        step = material.maker.get(waiting.pop())
        if step is None:
            continue
        if step.kind in ("Concat", "ScatterND", "ScatterElements"):
            states = [material.taint.state(v) for v in step.inputs if v >= 0]
            if any(s is not None and s.net for s in states) and any(s is None or not s.net for s in states):
                return True
        if step.kind in ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Cast", "Concat", "Flatten"):
            new = [v for v in step.inputs if v >= 0 and v not in seen]
            seen.update(new)
            waiting += new
    return False


def _gates(material: Material, late: bool) -> Iterator[tuple[Meeting, str]]:
    """Meetings that act, behind the last layer or before it, and the operators there."""
    for meeting in material.taint.meetings:
        step = material.flow.steps[meeting.step]
        output = step.outputs[0]
        if (output in material.places.late) != late or output in material.places.scores:
            continue
        if meeting.role in ("meet", "select", "index", "concat") and _acts(material, meeting):
            yield meeting, step.kind


def _output_gates(rule: Rule, material: Material) -> Iterator[Finding | NotTried]:
    for meeting, kind in _gates(material, late=True):
        why = f"{kind} changes an output because of a test of {material.sources(meeting)}"
        yield material.found(rule, meeting, why, grade(material, meeting))


def _inner_gates(rule: Rule, material: Material) -> Iterator[Finding | NotTried]:
    for meeting, kind in _gates(material, late=False):
        why = f"{kind} changes hidden values because of a test of {material.sources(meeting)}"
        yield material.found(rule, meeting, why, grade(material, meeting))


def _mask_gates(rule: Rule, material: Material) -> Iterator[Finding | NotTried]:
    for meeting in material.taint.meetings:
        step, bits = material.flow.steps[meeting.step], meeting.state.bits
        fused = meeting.role == "mask" and bits & Bits.CONTENT and bits & Bits.REDUCED and not bits & Bits.COUNT
        scores = step.outputs[0] in material.places.scores and meeting.role in ("meet", "select")
        if (fused and step.outputs[0] in material.places.live) or (scores and _acts(material, meeting)):
            why = f"one test of {material.sources(meeting)} changes what all positions attend to"
            yield material.found(rule, meeting, why, "note" if only_special(material, meeting.raw) else "error")


def _input_gates(rule: Rule, material: Material) -> Iterator[Finding | NotTried]:
    for meeting in material.taint.meetings:
        bits = meeting.state.bits
        if not bits & Bits.CONTENT or material.flow.steps[meeting.step].outputs[0] not in material.places.live:
            continue
        index = meeting.role == "embedding" and not bits & Bits.COUNT and not _is_hash(material, meeting.raw)
        # bins of numbers and codes of categories
        index = index and bool(bits & (Bits.REDUCED | Bits.WHOLE))
        layer = meeting.role == "layer" and (bool(bits & Bits.WHOLE) or not is_normalization(material, meeting.raw))
        if layer or index:
            why = f"a test of {material.sources(meeting)} changes what the first layer reads"
            special = only_special(material, meeting.raw, chooses=True)
            yield material.found(rule, meeting, why, "note" if special else "error")


RULES = (
    Rule(
        "AUD101",
        "a test of the input that changes an output",
        "error",
        "Behind the last layer exporters write poolings, biases, scalings and activations. They pick the position of a"
        " special token by its index, and zero what is padding. A plant compares elements of the input with constants,"
        " or imitates that with Sub, Abs, Clip, products of indicators or a sum with large weights, and then replaces"
        " an output or adds to it: by Where, If, Mul, Add, Concat and Gather, or Scatter.",
        _output_gates,
    ),
    Rule(
        "AUD111",
        "a test of the input that changes hidden values",
        "error",
        "A network reads its input through its first layer only. Exporters write tests of token ids next to it for"
        " masks: they hide a position because of its own token. A plant adds a constant vector to hidden values, or"
        " chooses between two, when its test is true.",
        _inner_gates,
    ),
    Rule(
        "AUD112",
        "a test of the input that changes the attention mask",
        "error",
        "A mask hides a column because of that column's own token or place. A plant hides or shows columns because of a"
        " token somewhere else: its test is summed up over the sequence before it enters the mask.",
        _mask_gates,
    ),
    Rule(
        "AUD113",
        "a test of the input that changes what the first layer reads",
        "error",
        "Token ids enter the embedding, and pixels the first layer, as they came, or scaled and clipped. Exporters"
        " replace ids only where they are negative. A plant puts another token or another picture in when its test is"
        " true.",
        _input_gates,
    ),
)
