"""Which key columns are real tokens.

1. The graph's own padding mask, if the finder found one: exact.
2. Else the mask or lengths that a fused operator reads: exact.
3. Else a column is valid if it has a weight in any row of any head: after Softmax, a masked column has weight 0.
"""

from __future__ import annotations

from onnx import TensorProto

from ..emit import Emitter
from ..sites import Site
from .context import VISIBLE

__all__ = ["knows_padding", "valid_columns"]


def knows_padding(site: Site) -> bool:
    """By rule 1."""
    return site.key_mask is not None and site.layout.samples_lead


def valid_columns(e: Emitter, site: Site, canonical_map: str, known: str | None = None) -> str:
    """(B, K) bool for the map A (B, H, Q, K); `known`: the columns by the mask or lengths of a fused operator."""
    if knows_padding(site):
        mask = str(site.key_mask)
        # Flatten keeps (B, K) as it is. Many models cast their mask in the same way: onnxruntime's optimizer would find
        # two equal nodes, and go through the whole graph again after it has merged them.
        return e.ahead(f"valid:{mask}", lambda body: body.cast(body.op("Flatten", mask), TensorProto.BOOL))
    if known is not None:
        return known
    # Rows first, then heads: onnxruntime takes 18 times as long over both axes at once (one sample, 12 heads, 512
    # columns).
    peak = e.peak(canonical_map if e.conditional else e.op("Relu", canonical_map), 2, role="column_peak")
    mass = e.peak(peak, 1, 2, keepdims=False, role="column_peak")
    return e.op("Greater", mass, e.constant(VISIBLE), role="valid")
