"""How a site is read: its operands, where its map comes from, and the inputs of its detector."""

from __future__ import annotations

from dataclasses import replace

import onnx
from onnx import TensorProto

from ..emit import Emitter
from ..lowering import FUSED, lower_fused
from ..lowering.canonical import Canonical
from ..lowering.kept_product import KeptOperands, keep_product
from ..lowering.microsoft_opened import Opened
from ..lowering.microsoft_recomputed import Recomputed
from ..lowering.operands import HALF, KnowsColumns, Operands, ProductOperands
from ..model.bodies import Wiring
from ..plan import BenignPair, Cnn, OneClass, Profile, SitePlan
from ..sites import Site
from .between_pairs import read_map, read_values
from .context import MapContext, fixed_size, rows_alike
from .gating import Replacement
from .validity import knows_padding, valid_columns

__all__ = ["context_of", "operands_of", "reading_early", "takes_in_scale"]

_LAYOUT = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "DynamicQuantizeLinear"}


def reading_early(e: Emitter, site: Site, wiring: Wiring, taken: list[Replacement]) -> Site:
    """The site with its map read where runtimes can still fuse: next to Q/DQ pairs, before casts to half precision.

    The needed replacements are added to `taken`.
    """
    if site.quantizer is not None:
        return read_values(e, read_map(e, site, wiring, taken), wiring, taken)
    while site.dtype in HALF and (cast := wiring.maker.get(site.probabilities)) is not None and cast.op_type == "Cast":
        site = replace(site, probabilities=cast.input[0])
    return site


def operands_of(e: Emitter, site: Site, plan: SitePlan, node: onnx.NodeProto, kept: bool = False) -> Operands:
    """The operands with their map emitted, unless the detector needs only some rows of a map that must be computed.

    Args:
        kept: leave a plain product where it is, outside the gate.
    """
    if kept and site.form not in FUSED:
        return KeptOperands(site, keep_product(e, node, "kept_product"), Canonical(site))
    operands = lower_fused(e, site, node, whole=False) if site.form in FUSED else ProductOperands(site, node)
    if not isinstance(operands, Recomputed):
        return operands
    if _reads_the_answer_row(plan) and operands.emit_answer is not None and operands.emit_map is not None:
        return operands
    sparing = isinstance(plan.detector, Profile | OneClass) and plan.detector.every > 1 and not _fixed_length(plan)
    return (
        operands if sparing and operands.emit_rows is not None and operands.valid is not None else operands.with_map(e)
    )


def takes_in_scale(site: Site, wiring: Wiring) -> bool:
    """Whether a factor of the product is multiplied by a constant right before it.

    onnxruntime fuses such a constant into the product (MatMulScaleFusion), which changes the rounding. It cannot do so
    if the product is inside an If.
    """
    makers = (wiring.maker.get(name) for name in (site.probabilities, site.values))
    scalings = [node for node in makers if node is not None and node.op_type in ("Mul", "Div")]
    factors = [wiring.maker.get(name) for node in scalings for name in node.input]
    return any(factor is None or factor.op_type == "Constant" for factor in factors)


def context_of(e: Emitter, site: Site, plan: SitePlan, operands: Operands) -> MapContext:
    """The inputs of a detector: the map, its padding and its rows."""
    if isinstance(operands, Recomputed) and operands.emit_map is not None:
        whole = MapContext(
            "", operands.valid, site.self_attention, values=operands.values, alike=rows_alike(site, plan)
        )
        if _reads_the_answer_row(plan):
            return replace(whole, valid=operands.answer_valid, answer_row=operands.emit_answer)
        return replace(whole, some_rows=operands.emit_rows)
    canonical_map = operands.map(e)
    known = operands.valid if isinstance(operands, KnowsColumns) else None
    valid = None if _fixed_length(plan) or site.unmasked else valid_columns(e, site, canonical_map, known)
    return MapContext(
        canonical_map,
        valid,
        site.self_attention,
        isinstance(operands, Opened) or _sums_to_one(site),
        values=operands.values,
        size=fixed_size(site, plan),
        alike=rows_alike(site, plan),
        ahead=valid is not None and knows_padding(site),
        common=isinstance(operands, Opened) and valid == operands.valid and site.size is not None,
    )


def _sums_to_one(site: Site) -> bool:
    """Whether the map is a float32 Softmax over columns, followed only by changes of layout."""
    if not site.form.startswith("softmax") or site.form.startswith("softmax-flat") or site.quantizer is not None:
        return False
    behind = site.chain[site.chain.index("Softmax") + 1 : -1] if "Softmax" in site.chain else (None,)
    return site.dtype == TensorProto.FLOAT and {*behind} <= _LAYOUT


def _reads_the_answer_row(plan: SitePlan) -> bool:
    """Whether this is all of a map that is read."""
    detector = plan.detector
    if not isinstance(detector, Profile | OneClass) or not detector.answer_row or _fixed_length(plan):
        return False
    return not (isinstance(detector, Profile) and detector.seeing_rows)


def _fixed_length(plan: SitePlan) -> bool:
    """Whether the plan has per-column references: these are for one length, so there is no padding."""
    pair: BenignPair = plan.benign
    return not pair.relative or isinstance(plan.detector, Cnn)
