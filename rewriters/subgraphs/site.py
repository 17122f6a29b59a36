"""All nodes that are inserted at one site: detector, gate, redistribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto

from ..emit import Emitter
from ..lowering.kept_product import KeptOperands
from ..lowering.microsoft_opened import Opened
from ..lowering.microsoft_recomputed import Recomputed
from ..lowering.operands import HALF, Operands, ProductOperands
from ..lowering.signed_product import SignedOperands
from ..model.bodies import Wiring
from ..plan import OneClass, Profile, SitePlan, Static
from ..sites import Site
from .between_pairs import patch_between_pairs
from .context import MapContext
from .detectors import answer_row, evidence
from .fixed_columns import FixedColumns, fixed_columns, flag_fixed, redistribute_fixed
from .flagging import Controls, flag, where_enabled, with_companions
from .gating import Branch, Replacement, gate
from .masked_scores import MaskedScores, masked_scores, redistribute_masked
from .reading import context_of, operands_of, reading_early, takes_in_scale
from .sides import value_side

__all__ = [
    "Controls",
    "Replacement",
    "SitePatch",
    "detect_site",
    "patch_site",
    "redistribute_site",
    "score_site",
    "with_companions",
]


@dataclass(frozen=True)
class SitePatch:
    """Replacements of one site, and the name of the flagged columns (B, K) bool.

    companions: (B, K) bool, columns above the lower threshold, which count only in flagged samples; None without a
        lower threshold.
    score: (B, K) float32, -inf at padding, instead of the columns where sites decide together (`score_site`); None at a
        site that never fires.
    seen: (B, K) bool, valid columns that the answer row sees; others score 0. None at a site whose detector reads more
        than that row.
    valid: (B, K) bool, columns that are not padding, next to a mask or score; None where there is none, and where the
        mask may hold padding.
    fixed: the flagged columns, where they are the same in every request (see `fixed_columns`);
        `columns` may be "" then.
    """

    replacements: tuple[Replacement, ...]
    columns: str = ""
    companions: str | None = None
    score: str | None = None
    seen: str | None = None
    valid: str | None = None
    fixed: FixedColumns | None = None


def patch_site(
    e: Emitter,
    site: Site,
    plan: SitePlan,
    controls: Controls,
    wiring: Wiring,
    earlier: SitePatch | None = None,
    *,
    reported: bool = True,
) -> SitePatch:
    """Emit the patch of one site: the redistribution, in an If on "any column flagged" unless `e` is not conditional.

    Args:
        wiring: of the body with the site.
        earlier: of a site over the same tokens; the columns flagged there are flagged here too.
        reported: whether the flagged columns must be a value of the graph even if nothing here reads them.
    """
    carried, known = "" if earlier is None else earlier.columns, _known_columns(earlier)
    fixed = None if known is None else fixed_columns(e, site, plan, wiring, known)
    if fixed is not None:
        columns = carried if fixed.columns == known else ""
        return _patch_fixed(e, site, plan, fixed, controls, wiring, columns, reported)
    taken: list[Replacement] = []
    site = reading_early(e, site, wiring, taken)
    operands = operands_of(
        e, site, plan, wiring.maker[site.product], kept=site.quantizer is None and takes_in_scale(site, wiring)
    )
    context = context_of(e, site, plan, operands)

    def decide(inner: Emitter) -> list[str]:
        columns, companions = flag(inner, plan, context, controls)
        if carried or known:
            others = carried or flag(inner, replace(plan, detector=Static(known or ())), context, controls)[0]
            columns = inner.op("Or", columns, others, role="joined_columns")
        if companions is not None:
            columns = with_companions(inner, columns, companions)
        return [columns, inner.cast(inner.peak(inner.number(columns), 0, 1, keepdims=False), TensorProto.BOOL)]

    columns, any_flagged = where_enabled(e, controls, context, decide, ("columns", "any_flagged"))
    of_other_padding = bool(carried) and earlier is not None and earlier.valid != context.valid
    context = replace(context, masks_have_padding=of_other_padding)
    known_valid = None if of_other_padding else context.valid
    if site.quantizer is not None:

        def redistributed(inner: Emitter, kept: KeptOperands) -> str:
            return value_side(inner, kept, plan, context, columns)

        replaced = patch_between_pairs(e, site, any_flagged, wiring, redistributed)
        return SitePatch((*replaced, *taken), columns, valid=known_valid)
    masked, product = masked_scores(e, site, plan, wiring), wiring.maker[site.product]

    def patched(inner: Emitter) -> str:
        if masked is not None and isinstance(operands, ProductOperands):
            return redistribute_masked(inner, site, plan, masked, product, columns)
        return _patched(inner, operands, plan, context, columns)

    _choose(e, site, operands, any_flagged, patched)
    return SitePatch((Replacement(site.product, tuple(e.nodes)),), columns, valid=known_valid)


def _known_columns(earlier: SitePatch | None) -> tuple[int, ...] | None:
    """The columns that an earlier site flags in every request; None where they are not known."""
    if earlier is None:
        return ()
    return None if earlier.fixed is None else earlier.fixed.columns


def _patch_fixed(
    e: Emitter,
    site: Site,
    plan: SitePlan,
    fixed: FixedColumns,
    controls: Controls,
    wiring: Wiring,
    columns: str,
    reported: bool,
) -> SitePatch:
    """The patch of a site whose columns are known; columns: their mask, "" where it is not there yet."""
    enabled = None if controls.frozen else controls.enabled
    elsewhere = redistribute_fixed(e, site, plan, fixed, wiring, enabled)
    if reported and not columns:
        columns = flag_fixed(e, fixed, site.product, enabled)
    return SitePatch((Replacement(site.product, tuple(e.nodes)), *elsewhere), columns, fixed=fixed)


def _choose(e: Emitter, site: Site, operands: Operands, any_flagged: str, patched: Callable[[Emitter], str]) -> None:
    """Emit the patched output in an If, or for all requests, under the name of the product."""
    if not e.conditional:
        _finish(e, patched(e), site.product)
        return
    original = operands.original
    if isinstance(operands, Opened) and operands.unsure is not None:
        # Such a request takes the first branch, where every sample without a flagged column gets the operator's bits.
        any_flagged, original = e.op("Or", any_flagged, operands.unsure, role="any_flagged"), operands.product
    then, otherwise = e.branch(), e.branch()
    value, kinds = patched(then), [operands.dtype]
    if operands.dtype not in HALF:
        branches = Branch(then, [value], kinds), Branch(otherwise, [original(otherwise)], kinds)
        gate(e, any_flagged, *branches, [site.product])
        return
    # The If returns float32: runtimes that compute half precision in float32 then see adjacent casts and drop them, as
    # in the original.
    kept, gated, kinds = e.float(operands.original(e)), e.value("gated"), [int(TensorProto.FLOAT)]
    branches = Branch(then, [then.float(value)], kinds), Branch(otherwise, [otherwise.op("Identity", kept)], kinds)
    gate(e, any_flagged, *branches, [gated])
    _finish(e, e.cast(gated, operands.dtype), site.product)


def detect_site(e: Emitter, site: Site, plan: SitePlan, controls: Controls, wiring: Wiring) -> SitePatch:
    """Emit only the detection: the site's output stays the original, and its flagged columns are computed."""
    taken: list[Replacement] = []
    site = reading_early(e, site, wiring, taken)
    operands = operands_of(e, site, plan, wiring.maker[site.product])
    context = context_of(e, site, plan, operands)

    def decide(inner: Emitter) -> list[str]:
        columns, companions = flag(inner, plan, context, controls)
        return [columns] if companions is None else [columns, companions]

    columns, *companions = where_enabled(e, controls, context, decide, ("columns", "companions"))
    _finish(e, operands.original(e), site.product)
    lower = companions[0] if companions else None
    return SitePatch((Replacement(site.product, tuple(e.nodes)), *taken), columns, lower, valid=context.valid)


def score_site(e: Emitter, site: Site, plan: SitePlan, wiring: Wiring) -> SitePatch:
    """Emit only the detector, for sites that decide together what is flagged; the output stays the original."""
    taken: list[Replacement] = []
    site = reading_early(e, site, wiring, taken)
    operands = operands_of(e, site, plan, wiring.maker[site.product])
    score = seen = valid = None
    if not isinstance(plan.detector, Static):
        context = context_of(e, site, plan, operands)
        score = evidence(e, context, plan.detector)
        valid = context.valid
        if isinstance(plan.detector, Profile | OneClass) and plan.detector.answer_row:
            seen = answer_row.seen(e, context, answer_row.heads_of(plan.detector))
            score = e.op("Where", seen, score, e.constant(0.0), role="seen_score")
        elif valid is not None:
            score = e.op("Where", valid, score, e.constant(-np.inf), role="valid_score")
    _finish(e, operands.original(e), site.product)
    return SitePatch((Replacement(site.product, tuple(e.nodes)), *taken), score=score, seen=seen, valid=valid)


def redistribute_site(
    e: Emitter,
    site: Site,
    plan: SitePlan,
    columns: str,
    node: onnx.NodeProto,
    output: str,
    masked: MaskedScores | None = None,
) -> None:
    """Emit only the redistribution for known columns (B, K); `output` gets the result in the site's own layout.

    Args:
        masked: how the map is made again, where it can be.
    """
    if masked is not None:
        _finish(e, redistribute_masked(e, site, plan, masked, node, columns), output)
        return
    operands = operands_of(e, site, plan, node)
    _finish(e, _patched(e, operands, plan, context_of(e, site, plan, operands), columns), output)


def _patched(e: Emitter, operands: Operands, plan: SitePlan, context: MapContext, columns: str) -> str:
    """The redistribution; a map that the detector did not need is emitted first, a signed map is done in two parts."""
    if isinstance(operands, Recomputed):
        operands = operands.with_map(e)
        context = replace(context, map=operands.map(e))
    if isinstance(operands, SignedOperands):
        given, taken = (
            value_side(e, part, plan, replace(context, map=part.map(e)), columns) for part in operands.parts(e)
        )
        return operands.difference(e, given, taken, columns, context.valid)
    return value_side(e, operands, plan, context, columns)


def _finish(e: Emitter, value: str, output: str) -> None:
    """Rename the output of the last node to `output`, the model's own name."""
    assert e.nodes[-1].output[0] == value
    e.nodes[-1].output[0] = output
