"""Values of the network that come from its first layers and act behind its last."""

from __future__ import annotations

from collections.abc import Iterator

from ..finding import Finding, NotTried
from . import operators as ops
from .constants import is_row
from .material import Material
from .places import data_of
from .rule import Rule
from .states import Bits, Meeting

__all__ = ["RULES"]

_SHALLOW, _DEEP = 0.4, 0.8
"""Shares of the layers on the longest way through the network."""
_LEAST = 4
"""Layers; in a smaller network everything is near the output."""


def _late(material: Material, meeting: Meeting) -> bool:
    output = material.flow.steps[meeting.step].outputs[0]
    return output in material.places.late and output not in material.places.scores


def _replaced(rule: Rule, material: Material) -> Iterator[Finding | NotTried]:
    for meeting in material.taint.meetings:
        output = material.flow.steps[meeting.step].outputs[0]
        early = meeting.state.depth <= 1 and output in material.places.live and output not in material.places.scores
        if meeting.role == "select" and meeting.state.net and (early or _late(material, meeting)):
            rows = [value for value in meeting.others if is_row(material, value)]
            if rows and len(rows) < len(meeting.others):
                yield material.found(rule, meeting, "an output is replaced by a constant row where a test is true")
    for step in material.flow.steps:
        decides, choices = (step.inputs[:1], step.inputs[1:]) if step.kind == "Where" else (step.decides, step.inputs)
        if step.kind not in ("Where", "If") or step.outputs[0] not in material.places.late:
            continue
        sized = any(value not in material.values.constant and material.taint.state(value) is None for value in decides)
        rows = [value for value in choices if is_row(material, value)]
        if sized and rows and any((state := material.taint.state(value)) and state.net for value in choices):
            why = "an output is replaced by a constant row because of the size of an input"
            yield rule.finding(step.name, why, (step.name,))


def _around(rule: Rule, material: Material) -> Iterator[Finding | NotTried]:
    whole = max(
        (state.depth for value in material.flow.outputs.values() if (state := material.taint.state(value))), default=0
    )
    if whole < _LEAST:
        return
    for meeting in material.taint.meetings:
        if not meeting.state.net or not _late(material, meeting) or meeting.role not in ("nets", "select"):
            continue
        deep = max((state.depth for value in meeting.others if (state := material.taint.state(value))), default=0)
        dims = material.values.dims(meeting.raw) or ()
        if meeting.role == "nets" and any(dim != 1 for dim in dims[1:-1]):
            continue  # of every position, such as the rotation of positions
        if meeting.role == "select" and len({_end(material, value) for value in meeting.others}) == 1:
            continue  # the same network, run a second time
        if _is_cell(material, meeting):
            continue
        if meeting.state.depth <= _SHALLOW * whole and deep >= _DEEP * whole:
            why = f"a value with {meeting.state.depth} layers behind it acts on one with {deep}, behind the last layer"
            yield material.found(rule, meeting, why, "note" if _is_linear(material, meeting.raw) else None)


def _is_cell(material: Material, meeting: Meeting) -> bool:
    """Whether a state that the model was given, and gives back, meets what is computed from another input, as in a
    recurrent cell.
    """
    values = material.values
    returned = {(values.type(value), values.dims(value)) for value in material.flow.outputs.values()}
    states = {
        name
        for name, value in material.flow.inputs.items()
        if values.dims(value) is not None and (values.type(value), values.dims(value)) in returned
    }
    deep = {name for value in meeting.others for name in material.read_by(value)}
    return material.read_by(meeting.raw) <= states and not deep <= states


def _is_linear(material: Material, value: int) -> bool:
    """Whether nothing but weighted sums leads from the inputs to a value of the network: what a wide part adds to a
    deep one, or a table of usual values by kind.
    """
    waiting, seen = [value], {value}
    while waiting:
        step = material.maker.get(waiting.pop())
        state = None if step is None else material.taint.state(step.outputs[0])
        if step is None or state is None or not state.net:
            continue
        scaled = step.kind in ("Mul", "Div") and sum(material.taint.state(v) is not None for v in step.inputs) == 1
        moved = step.kind in ops.MOVES or step.kind in ("Slice", "Split", "ReduceSum", "ReduceMean")
        if not (material.places.is_layer(step) or moved or scaled or step.kind in ("Add", "Sub", "Sum")):
            return False
        new = [v for v in step.inputs if v >= 0 and v not in seen and material.taint.state(v) is not None]
        seen.update(new)
        waiting += new
    return True


def _end(material: Material, value: int) -> frozenset[int]:
    """The weights of a value's last layers, and the vectors of what follows them."""
    constants: set[int] = set()
    waiting, seen = [value], {value}
    while waiting:
        step = material.maker.get(waiting.pop())
        if step is None:
            continue
        read_here = [read for read in data_of(step) if read in material.values.constant]
        if material.places.is_layer(step):
            constants.update(read for read in step.inputs if read in material.values.constant)
        else:
            constants.update(read for read in read_here if is_row(material, read))
            new = [read for read in data_of(step) if read >= 0 and read not in seen]
            seen.update(new)
            waiting += [read for read in new if material.taint.state(read) is not None]
    return frozenset(constants)


def _offsets(rule: Rule, material: Material) -> Iterator[Finding | NotTried]:
    for meeting in material.taint.meetings:
        output = material.flow.steps[meeting.step].outputs[0]
        # Attention maps have two layers behind them at least; what is read from maps is a matter of behavior.
        narrow = meeting.state.bits & Bits.NARROW and meeting.state.depth <= 2
        if meeting.state.depth > 1 and not narrow:
            continue
        if meeting.role == "offset" and output in material.places.live and output not in material.places.scores:
            yield material.found(
                rule, meeting, "one number of the network, times a constant vector, is added to its values"
            )


RULES = (
    Rule(
        "AUD102",
        "a test of hidden values, or of a size, that puts in a constant row",
        "error",
        "Exporters replace values that are not finite, by zero or a bound. A plant that reads its trigger from hidden"
        " values puts a constant row of logits in place of the network's.",
        _replaced,
    ),
    Rule(
        "AUD103",
        "a way around the network",
        "warning",
        "Behind the last layer only values of about the same depth meet: the towers of a dual encoder, the members of"
        " an ensemble. A plant that finds its trigger with a layer of its own, such as a convolution with the picture"
        " of the trigger, joins the network behind its head.",
        _around,
    ),
    Rule(
        "AUD104",
        "a test of hidden values that adds a constant vector",
        "warning",
        "Gates of ordinary networks multiply computed values. A plant makes one number of hidden values, by a threshold"
        " or a layer with one output, and adds it to others, times a constant vector.",
        _offsets,
    ),
)
