"""Maps with zeros of their own: Relu and sparsemax give nothing to many columns that a row does see.

Of a Softmax a zero tells a mask. Here it does not, so what a row sees has to be read off the graph: every column, where

1. between the score product and the map numbers change by what is the same for all columns only: by one number, or by a
   threshold that was taken from the scores themselves,
2. between the map and the product too: by one number, by something of the row, by the map itself.
"""

from __future__ import annotations

import onnx_ir as ir

from .backward import Scores
from .facts import Facts
from .forward import Hit
from .softmax_match import Anchor
from .view import View, op_types

__all__ = ["is_unmasked"]

_FORMS = ("relu", "sparsemax")
_ALIKE = op_types("Cast Div Dropout Flatten Identity Mul Neg Pow Reshape Sqrt Squeeze Tanh Transpose Unsqueeze")
_MOVES = op_types("Flatten Reshape Squeeze Transpose Unsqueeze")
_ARITHMETIC = ("Add", "Sub", "Mul", "Div")
_SHIFTS = op_types("Add Sub")


def is_unmasked(view: View, facts: Facts, anchor: Anchor, hit: Hit, scores: Scores) -> bool:
    """True only for these maps, and where it can be shown; see the rule above."""
    if anchor.form not in _FORMS:
        return False
    before, value = True, scores.node.outputs[0]
    by_row = anchor.axis == -1 and all(node.op_type not in _MOVES for node in hit.path)
    for node in (*scores.path, *hit.path):
        if node in hit.path and before:
            before, value = False, anchor.output
        threshold = before and anchor.form == "sparsemax" and node is anchor.scores.producer()
        if node.op_type not in (_ALIKE | _SHIFTS if before else _ALIKE):
            return False
        others = [other for other in node.inputs if other is not None and other is not value]
        if (
            node.op_type in _ARITHMETIC
            and not threshold
            and not all(_alike(view, facts, other, by_row and not before) for other in others)
        ):
            return False
        value = node.outputs[0]
    return True


def _alike(view: View, facts: Facts, other: ir.Value, by_row: bool) -> bool:
    """Whether a value is the same for all columns: one number, or one number a row."""
    shape = facts.shape(other)
    if shape is None:
        return False
    return all(dim == 1 for dim in shape) or (by_row and not view.is_constant(other) and shape[-1] == 1)
