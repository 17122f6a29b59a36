"""Maps with zeros that no mask made: Relu and sparsemax give weight 0 to many columns that a row does see.

After a Softmax a zero shows a mask. Here it does not, so the graph has to prove that a row sees every column:

1. Between the score product and the map, all columns are changed in the same way: by one number, or by a threshold that
   was computed from the scores.
2. Between the map and the product as well: by one number, by one number for each row, or by the map itself.
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
    """True only for these maps, and only where the graph proves it; see the rules above."""
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
    """Whether a value is the same for all columns: one number, or one number for each row."""
    shape = facts.shape(other)
    if shape is None:
        return False
    return all(dim == 1 for dim in shape) or (by_row and not view.is_constant(other) and shape[-1] == 1)
