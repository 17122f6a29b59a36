"""Attention operators that hide their map, and products that are no plain P·V node, opened up. One module a form.

Opening writes nodes in place of the fused operator until its map is a value of the graph, and keeps the operator's own
output wherever it can: what is not flagged then stays bit-identical, at no cost but the map.
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
    microsoft_quantised,
    onnx_attention,
    scaled_product,
    signed_product,
)
from .microsoft_beside import Beside
from .operands import Operands

__all__ = ["FUSED", "lower_fused"]

_LOWERINGS: dict[str, Callable[[Emitter, Site, onnx.NodeProto], Operands]] = {
    onnx_attention.FORM: onnx_attention.lower_site,
    microsoft_attention.FORM: microsoft_attention.lower_site,
    microsoft_group_query.FORM: microsoft_group_query.lower_site,
    microsoft_multi_head.FORM: microsoft_multi_head.lower_site,
    microsoft_quantised.FORM: microsoft_quantised.lower_site,
    **dict.fromkeys(integer_product.FORMS, integer_product.lower_site),
    **dict.fromkeys(kept_product.FORMS, kept_product.lower_site),
    **dict.fromkeys(scaled_product.FORMS, scaled_product.lower_site),
    **dict.fromkeys(signed_product.FORMS, signed_product.lower_site),
}

FUSED = frozenset(_LOWERINGS)
"""Forms (`Site.form`) of fused operators that can be opened."""


def lower_fused(e: Emitter, site: Site, node: onnx.NodeProto, *, whole: bool = True) -> Operands:
    """Emit what takes the place of a fused operator; its first output is no longer made under its own name.

    Args:
        whole: emit the map too where it is computed beside the operator; without, the caller does that
            (`Beside.opened`).
    """
    operands = _LOWERINGS[site.form](e, site, node)
    return operands.opened(e) if whole and isinstance(operands, Beside) else operands
