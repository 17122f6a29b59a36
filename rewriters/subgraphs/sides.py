"""The two places where a redistribution can be applied.

`value_side`: out = f(A · (V ⊙ (1 - m))): masks rows of V, O(K·D), and never rewrites the map. The default.
`map_side`: rewrites the map before QuantizeLinear and adds the benign part to the product's output, so that Q/DQ pairs stay
around the MatMul and onnxruntime can still fuse them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import helper

from ..emit import Emitter
from ..plan import SitePlan
from ..sites import Site
from .canonical import Canonical
from .context import MapContext
from .redistribution import redistribute

__all__ = ["map_side", "value_side"]

Product = Callable[[str, str], str]
"""(values, role) → output of a copy of the model's own P·V node on other values."""


def value_side(e: Emitter, site: Site, plan: SitePlan, context: MapContext, mask: str, product: Product) -> str:
    """The patched P·V output, in the site's own layout.

    Samples that are not flagged run through the very same kernel with the very same values, so they come out bit-identical.
    """
    canonical = Canonical(site)
    rows = redistribute(e, plan, context, mask, canonical.values(e, site.values))
    zero = e.constant(0, helper.tensor_dtype_to_np_dtype(site.dtype))
    hidden = canonical.column_mask(e, rows.flagged, site.probabilities)
    kept = product(e.op("Where", hidden, zero, site.values), "product_unflagged")
    unflagged = canonical.output(e, kept)
    moved = e.op("Where", rows.saturated, e.op("Mul", rows.spread, rows.refuge), e.op("Mul", rows.scale, unflagged))
    patched = e.op("Add", moved, rows.benign, role="patched")
    if rows.lost is not None:
        patched = e.op("Where", rows.lost, canonical.output(e, product(site.values, "product_original")), patched)
    return canonical.restore_output(e, e.op("Where", rows.active, patched, unflagged), kept)


def map_side(e: Emitter, site: Site, plan: SitePlan, context: MapContext, mask: str) -> tuple[str, str]:
    """The patched map in P's own layout, and the benign part (B, H, Q, D) float32 to add to the output."""
    canonical = Canonical(site)
    rows = redistribute(e, plan, context, mask, canonical.values(e, site.values))
    kept = e.op("Transpose", rows.kept, perm=[0, 1, 3, 2])
    scaled = e.op("Mul", e.op("Mul", context.map, kept), rows.scale)
    patched = e.op("Where", rows.saturated, e.op("Mul", rows.spread, rows.refuge_columns), scaled)
    change = rows.active
    if rows.lost is not None:
        change = e.op("And", change, e.op("Not", rows.lost))
    new_map = e.op("Where", change, patched, context.map)
    benign = e.op("Where", change, rows.benign, e.constant(0.0, np.float32))
    return canonical.restore(e, new_map, site.probabilities, site.layout.probabilities), benign
