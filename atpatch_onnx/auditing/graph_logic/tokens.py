"""Token ids that are used as anything but the index of an embedding."""

from __future__ import annotations

from collections.abc import Iterator

from ..finding import Finding, NotTried
from .material import Material
from .rule import Rule

__all__ = ["RULES", "is_special", "vocabulary"]

_LEAST = 1000
"""Words; in a smaller vocabulary special tokens can have any number."""
_FIRST, _LAST = 4, 0.95
"""Special tokens come first, or last, in a vocabulary; BERT's are listed."""
_BERT = range(100, 104)
_LIST = 16
"""So many words are a list, such as that of punctuation, and no trigger."""


def _numbers(rule: Rule, material: Material) -> Iterator[Finding | NotTried]:
    for meeting in material.taint.meetings:
        output = material.flow.steps[meeting.step].outputs[0]
        embedded = any(meeting.state.direct >> place & 1 for place in material.taint.embedded)
        if meeting.role == "hash" and embedded and output in material.places.live:
            yield material.found(rule, meeting, "token ids are multiplied with weights as if they were quantities")


def _singled_out(rule: Rule, material: Material) -> Iterator[Finding | NotTried]:
    for number, value, direct in material.taint.equals:
        step, array = material.flow.steps[number], material.values.array(value)
        words = vocabulary(material, direct)
        if array is None or words < _LEAST or step.outputs[0] not in material.places.live:
            continue
        ordinary = [n for n in map(int, array[:64]) if not is_special(n, words)]
        if ordinary:
            several = len(set(ordinary)) >= _LIST
            yield rule.finding(
                step.name,
                f"token {ordinary[0]} of a vocabulary of {words} is looked for, which is no special token by its place",
                (step.name,),
                severity="note" if several else None,
            )


def is_special(number: int, words: int) -> bool:
    """Whether a token stands where a vocabulary of so many words has its special tokens."""
    return words >= _LEAST and (number < _FIRST or number >= _LAST * words or number in _BERT)


def vocabulary(material: Material, inputs: int) -> int:
    """Words of the smallest table that one of some inputs is looked up in; 0 where they are not known.

    Args:
        inputs: bits, as `State.direct` has them.
    """
    return min((_words(material, place) for place in material.taint.embedded if inputs >> place & 1), default=0)


def _words(material: Material, place: int) -> int:
    """Rows of the table that an input is looked up in; 0 where they are not known."""
    step = material.flow.steps[material.taint.embedded[place]]
    found = 0
    for value in step.inputs:
        dims = material.values.dims(value)
        if dims and len(dims) >= 2 and isinstance(dims[0], int) and material.taint.state(value) is None:
            found = max(found, dims[0])
    return found


RULES = (
    Rule(
        "AUD114",
        "token ids that are used as quantities",
        "error",
        "A token id is the name of a word; nothing can be learned from its size. Exporters use ids as indices and"
        " compare them with special tokens. A plant multiplies ids with large weights, to recognize a sequence by its"
        " sum.",
        _numbers,
    ),
    Rule(
        "AUD115",
        "a comparison with an ordinary token",
        "warning",
        "Exporters compare ids with special tokens: padding, end, mask, image. These stand at the beginning or the end"
        " of a vocabulary. A plant looks for a word.",
        _singled_out,
    ),
)
