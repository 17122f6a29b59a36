"""Applies a redistribution to the values: out = f(A · (V ⊙ (1 - m))) masks rows of V, O(K·D), and keeps the map."""

from __future__ import annotations

from onnx import TensorProto

from ..emit import Emitter
from ..lowering.operands import Operands
from ..plan import SitePlan
from .alike_rows import AlikeRows, redistribute_alike
from .context import MapContext
from .redistribution import Rows, redistribute

__all__ = ["value_side"]


def value_side(e: Emitter, operands: Operands, plan: SitePlan, context: MapContext, mask: str) -> str:
    """The patched output of a site in its own layout, for flagged columns `mask` (B, K).

    What is not flagged comes out bit-identical.
    """
    rows: Rows | AlikeRows
    if context.alike:
        rows = redistribute_alike(e, plan.benign, context, mask, operands.values(e))
    else:
        rows = redistribute(e, plan.benign, context, mask, operands.values(e))
    rest = operands.remainder(e, rows.flagged, rows.kept_values)
    active = rows.active(e) if rest.untouched != rest.product else ""
    patched = rows.patched(e, rest.product)
    if operands.dtype == TensorProto.DOUBLE:
        patched = e.cast(patched, operands.dtype)
    if active:
        patched = e.op("Where", active, patched, rest.untouched)
    if rows.lost is not None:
        # In such a row the product lacks the part of the flagged columns.
        patched = e.op("Where", e.unsqueeze(rows.lost, 3), operands.canonical(e, operands.original(e)), patched)
    return operands.restore(e, patched, rest.like)
