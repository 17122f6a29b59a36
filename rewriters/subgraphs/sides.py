"""The two places where a redistribution can be applied.

`value_side`: out = f(A · (V ⊙ (1 - m))): masks rows of V, O(K·D), and never rewrites the map. The default.
`map_side`: rewrites the map, to be quantised again, and adds the benign part to the product's output, so that Q/DQ pairs stay around the
MatMul and onnxruntime can still fuse them.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from ..emit import Emitter
from ..plan import SitePlan
from ..sites import Site
from .canonical import Canonical
from .context import MapContext
from .operands import Operands
from .redistribution import redistribute

__all__ = ["map_side", "value_side"]


def value_side(e: Emitter, operands: Operands, plan: SitePlan, context: MapContext, mask: str) -> str:
    """The patched output of a site in its own layout, for flagged columns `mask` (B, K). What is not flagged comes out bit-identical."""
    rows = redistribute(e, plan, context, mask, operands.values(e))
    rest = operands.remainder(e, rows.flagged)
    patched = e.op("Sub", e.op("Mul", rest.product, rows.scale), rows.gap(e), role="patched")
    if operands.dtype == TensorProto.DOUBLE:
        patched = e.cast(patched, operands.dtype)
    if rest.untouched != rest.product:
        patched = e.op("Where", e.unsqueeze(rows.active, 3), patched, rest.untouched)
    if rows.lost is not None:
        # What such a row gave to flagged columns is missing from the product.
        patched = e.op("Where", e.unsqueeze(rows.lost, 3), operands.canonical(e, operands.original(e)), patched)
    return operands.restore(e, patched, rest.like)


def map_side(e: Emitter, site: Site, plan: SitePlan, context: MapContext, mask: str, unchanged: str) -> tuple[str, str]:
    """The patched map in P's own layout, and the benign part (B, H, Q, D) float32 to add to the output.

    Args:
        unchanged: what rows that do not change give, in P's own layout.
    """
    canonical = Canonical(site)
    rows = redistribute(e, plan, context, mask, canonical.values(e, site.values))
    scaled = e.op("Mul", e.op("Mul", context.map, e.op("Transpose", rows.kept, perm=[0, 1, 3, 2])), rows.scale)
    patched = e.op("Add", scaled, rows.refuge_map(e))
    change = e.unsqueeze(rows.active, 3)
    new_map = e.op("Where", change, patched, canonical.probabilities(e, unchanged))
    benign = e.op("Where", change, rows.benign(e), e.constant(0.0, np.float32))
    return canonical.restore(e, new_map, site.probabilities, site.layout.probabilities), benign
