"""The padding mask of a site: the graph input (B, K) that says which key columns are real.

1. The search starts at the values that are added to the scores or select them, and goes back through mask arithmetic
   only.
2. It must reach exactly one graph input of rank 2 with "mask" in its name. The last axis of that input must be the key
   axis and its first axis the samples of the map. An input that varies along query rows or heads is not a padding mask.
3. A path with an operator that could shift or mix columns (Slice, Concat, Conv, ...) does not count. One other valid
   path is enough, since a column that is masked once stays masked. An operator that reads the mask by index has to read
   every entry at its own place; see `index_masks`.
4. Polarity is computed, not taken from the name: the arithmetic is evaluated for a valid and for a padded column, and
   the input counts only if 1 lets a column through and 0 masks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from .backward import Scores
from .facts import Facts
from .index_masks import mask_read_in_place
from .mask_arithmetic import DATA_FIRST, MASK_ARITHMETIC, Evaluator
from .shape_rules import axes_of
from .softmax_match import Anchor
from .view import View, attribute, op_types, operand

__all__ = ["KeyMasks", "stays_finite"]

_MAX_VISITS = 256
_SHUT = 100.0  # a mask lowers a score by at least this: exp(-100) is 0 in float32 and smaller types
_NOTHING = -1e30  # stands for any number that masks a column completely, -inf included
_LARGEST = float(np.finfo(np.float32).max)
_SAMPLES = -4  # axis of the samples in a mask that a fused operator adds to (B, H, Q, K)
_QLINEAR_SECOND = 3  # the second summand of a QLinearAdd comes after scale and zero point of the first
_INDEPENDENT = op_types("Shape Size Range")
# The outputs of these are hidden states, no longer masks.
_BARRIERS = op_types(
    "MatMul Gemm Einsum FusedMatMul MatMulInteger QLinearMatMul Softmax LayerNormalization GatherElements"
)


@dataclass(frozen=True)
class _Reader:
    """A node on the score path that may read a mask; `scores`: the index of the input with the scores."""

    node: ir.Node
    scores: int


class KeyMasks:
    """Traces the mask of each site of one model."""

    def __init__(self, view: View, facts: Facts) -> None:
        self._view = view
        self._facts = facts
        graph = view.model.graph
        self._candidates = [
            v
            for v in graph.inputs
            if facts.rank(v) == 2 and "mask" in (v.name or "").lower() and not v.is_initializer()
        ]
        self._reach = {candidate: self._reached(candidate) for candidate in self._candidates}

    def trace(self, scores: Scores, anchor: Anchor, columns: int | None, samples: Mapping[ir.Node, int]) -> str | None:
        """Name of the mask input of a site.

        Args:
            scores: the score product and the path from it to the Softmax.
            anchor: the Softmax; a BiasSoftmax reads a mask itself.
            columns: number of key columns of the map where it is fixed.
            samples: see `samples.samples_in`.
        """
        if not self._candidates or any(node.op_type == "Transpose" for node in scores.path):
            return None
        readers = list(_readers(scores, anchor))
        reached: set[ir.Value] = set()
        for reader in readers:
            rank = self._facts.rank(reader.node.outputs[0])
            lead = None if rank is None or reader.node not in samples else samples[reader.node] - rank
            for value in self._mask_operands(reader):
                reached |= self._candidates_behind(value, anchor.axis, lead) or set()
        return self._verdict(reached, columns, lambda evaluator: _openness(evaluator, readers))

    def trace_operand(self, mask: ir.Value, columns: int | None) -> str | None:
        """Name of the mask input that the mask of a fused operator is computed from.

        Args:
            mask: the operand; its last two axes are query rows and key columns. True lets a column through, numbers are
                added to the scores.
            columns: number of key columns where it is fixed.
        """
        selects = self._facts.element_type(mask) == int(ir.DataType.BOOL)

        def openness(evaluator: Evaluator) -> float:
            value = evaluator.value(mask)
            return 0.0 if value is None else max(value, _NOTHING) if not selects else 0.0 if value else _NOTHING

        return (
            self._verdict(self._candidates_behind(mask, -1, _SAMPLES) or set(), columns, openness)
            if self._candidates
            else None
        )

    def _verdict(
        self, reached: set[ir.Value], columns: int | None, openness: Callable[[Evaluator], float]
    ) -> str | None:
        if len(reached) != 1:
            return None
        (candidate,) = reached
        width = self._facts.static(candidate, -1)
        fits = width is None or columns is None or width == columns
        return candidate.name if fits and self._lets_through(candidate, openness) else None

    def _reached(self, candidate: ir.Value) -> set[ir.Value]:
        """Values computed from a candidate without passing a barrier."""
        reached, waiting = {candidate}, [candidate]
        while waiting:
            value = waiting.pop()
            for node, _ in value.uses():
                if node.op_type not in _BARRIERS and node.op_type not in _INDEPENDENT:
                    new = [output for output in node.outputs if output not in reached]
                    reached.update(new)
                    waiting.extend(new)
        return reached

    def _mask_operands(self, reader: _Reader) -> list[ir.Value]:
        if reader.node.op_type == "QLinearAdd":
            indices: Iterable[int] = [_QLINEAR_SECOND - reader.scores]
        else:
            indices = [index for index in range(len(reader.node.inputs)) if index != reader.scores]
        return [value for value in (operand(reader.node, index) for index in indices) if value is not None]

    def _candidates_behind(self, start: ir.Value, axis: int, lead: int | None) -> set[ir.Value] | None:
        """Candidates reached through mask arithmetic, along the key axis `axis` and the axis of the samples `lead`.

        None where one is reached through an operator that could shift or mix columns.
        """
        found: set[ir.Value] = set()
        waiting: list[tuple[ir.Value, int | None, int | None]] = [(start, axis, lead)]
        seen: set[tuple[ir.Value, int | None, int | None]] = set()
        while waiting and len(seen) < _MAX_VISITS:
            value, at, first = waiting.pop()
            if (value, at, first) in seen or self._view.is_constant(value):
                continue
            seen.add((value, at, first))
            if value in self._reach:
                if (at, first) == (-1, -2):
                    found.add(value)
                elif at is not None:
                    return None
                continue
            node = value.producer()
            if node is None:
                waiting.extend((same, at, first) for same in self._view.backward.get(value, ()))
            elif (at, first) == (-1, -(self._facts.rank(value) or 0)) and (
                read := self._read_in_place(value)
            ) is not None:
                found.add(read)
            elif node.op_type in MASK_ARITHMETIC:
                behind = self._axis_behind(node, at)
                if behind is False:
                    return None
                first_behind = self._axis_behind(node, first) or None
                sources = [operand(node, 0)] if node.op_type in DATA_FIRST else list(node.inputs)
                waiting.extend((source, behind, first_behind) for source in sources if source is not None)
            elif node.op_type not in _INDEPENDENT and any(value in reach for reach in self._reach.values()):
                return None
        return found

    def _read_in_place(self, value: ir.Value) -> ir.Value | None:
        return mask_read_in_place(self._view, self._facts, value, self._reach)

    def _axis_behind(self, node: ir.Node, axis: int | None) -> int | bool | None:
        """The key axis in a node's data input: None when the input does not vary along it, False when unknown."""
        if axis is None:
            return None
        output, source = node.outputs[0], operand(node, 0)
        if node.op_type in ("Gather", "GatherND", "Flatten"):
            return False
        if node.op_type == "Pad":
            return False if any(attribute(node, "pads") or self._facts.ints(operand(node, 1)) or [True]) else axis
        if node.op_type in ("Squeeze", "Unsqueeze"):
            axes, narrow = axes_of(self._facts, node), self._facts.rank(source)
            if axes is None or narrow is None:
                return False
            wide = narrow + len(axes) if node.op_type == "Unsqueeze" else narrow
            special = {a % wide for a in axes}
            kept = [a for a in range(wide) if a not in special]
            if node.op_type == "Squeeze":
                return kept[axis + len(kept)] - wide if -axis <= len(kept) else None
            return kept.index(axis + wide) - narrow if axis + wide in kept else None
        if node.op_type == "Reshape":
            return self._behind_reshape(self._facts.shape(source), self._facts.shape(output), axis)
        rank = self._facts.rank(source)
        if node.op_type == "Expand" and rank is not None and (-axis > rank or self._facts.static(source, axis) == 1):
            return None
        return axis

    @staticmethod
    def _behind_reshape(source: tuple[Any, ...] | None, target: tuple[Any, ...] | None, axis: int) -> int | bool | None:
        """The axis before a Reshape that only adds or removes axes of size 1; None and False as in `_axis_behind`."""
        if source is None or target is None or [d for d in source if d != 1] != [d for d in target if d != 1]:
            return False
        if -axis > len(target) or target[axis] == 1:
            return None
        behind = sum(1 for dim in target[axis:] if dim != 1)
        return next(
            (at for at in range(-1, -len(source) - 1, -1) if sum(1 for d in source[at:] if d != 1) == behind), False
        )

    def _lets_through(self, candidate: ir.Value, openness: Callable[[Evaluator], float]) -> bool:
        """Whether 1 marks a valid column and 0 a padded one.

        This has to hold for at least one value of all unknown booleans, and the opposite for none.
        """
        verdicts = set()
        for rest in (0.0, 1.0):
            valid, padded = (openness(Evaluator(self._view, candidate, mask, rest)) for mask in (1.0, 0.0))
            if abs(valid - padded) > _SHUT:
                verdicts.add(valid - padded > _SHUT)
        return verdicts == {True}


def stays_finite(view: View, scores: Scores, anchor: Anchor, mask: ir.Value) -> bool:
    """Whether the score of a column that a mask hides is a finite float32, so that a row with no other columns is too.

    Args:
        mask: the padding mask of the site (`KeyMasks.trace`).
    """
    for rest in (0.0, 1.0):
        evaluator = Evaluator(view, mask, 0.0, rest)
        effects = (_effect(evaluator, reader) for reader in _readers(scores, anchor))
        if not abs(sum(effect for effect in effects if effect is not None)) <= _LARGEST:
            return False
    return True


def _readers(scores: Scores, anchor: Anchor) -> Iterable[_Reader]:
    came = scores.node.outputs[0]
    for node in (*scores.path, anchor.node):
        if node.op_type in ("Add", "Sub", "Where", "Mul", "Min", "BiasSoftmax", "QLinearAdd"):
            yield _Reader(node, next((i for i, value in enumerate(node.inputs) if value is came), 0))
        came = node.outputs[0]


def _openness(evaluator: Evaluator, readers: list[_Reader]) -> float:
    """What the score path adds to a column's score: 0 lets it through, a very low number masks it."""
    effects = (_effect(evaluator, reader) for reader in readers)
    return sum(max(effect, _NOTHING) for effect in effects if effect is not None)


def _effect(evaluator: Evaluator, reader: _Reader) -> float | None:
    """The number that a reader adds to a score of 0."""
    node = reader.node
    if node.op_type == "Where":
        condition = evaluator.value(operand(node, 0))
        if condition is None or reader.scores == 0:
            return None
        chosen = 1 if condition else 2
        return 0.0 if chosen == reader.scores else evaluator.value(operand(node, chosen))
    if node.op_type == "Mul":
        return None
    second = _QLINEAR_SECOND if node.op_type == "QLinearAdd" else 1
    other = evaluator.value(operand(node, second - reader.scores)) if second > 1 or len(node.inputs) == 2 else None
    if other is None:
        return None
    return -other if node.op_type == "Sub" else other
