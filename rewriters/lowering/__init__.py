"""Lowering of fused attention operators, and of products that are not a plain P·V node; one module for each form.

Lowering replaces the operator by nodes that make its map a value of the graph. It keeps the operator's own output where
possible, so that unflagged samples stay bit-identical and only the map costs time.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from ..emit import Emitter
from ..sites import Site
from . import (
    integer_product,
    kept_product,
    microsoft_attention,
    microsoft_group_query,
    microsoft_multi_head,
    microsoft_quantized,
    onnx_attention,
    scaled_product,
    signed_product,
)
from .microsoft_recomputed import Recomputed
from .operands import Operands

__all__ = ["FUSED", "lower_fused"]

_LOWERINGS: dict[str, Callable[[Emitter, Site, onnx.NodeProto], Operands]] = {
    onnx_attention.FORM: onnx_attention.lower_site,
    microsoft_attention.FORM: microsoft_attention.lower_site,
    microsoft_group_query.FORM: microsoft_group_query.lower_site,
    microsoft_multi_head.FORM: microsoft_multi_head.lower_site,
    microsoft_quantized.FORM: microsoft_quantized.lower_site,
    **dict.fromkeys(integer_product.FORMS, integer_product.lower_site),
    **dict.fromkeys(kept_product.FORMS, kept_product.lower_site),
    **dict.fromkeys(scaled_product.FORMS, scaled_product.lower_site),
    **dict.fromkeys(signed_product.FORMS, signed_product.lower_site),
}

FUSED = frozenset(_LOWERINGS)
"""Forms (`Site.form`) that can be lowered."""


def lower_fused(e: Emitter, site: Site, node: onnx.NodeProto, *, whole: bool = True) -> Operands:
    """Emit the nodes that replace a fused operator; its first output gets another name.

    Args:
        whole: also emit a map that is computed next to the operator; otherwise the caller does (`Recomputed.with_map`).
    """
    operands = _LOWERINGS[site.form](e, site, node)
    return operands.with_map(e) if whole and isinstance(operands, Recomputed) else operands
