"""Everything that is inserted at one site: detector, gate, redistribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto

from ..emit import Emitter
from ..lowering import FUSED, lower_fused
from ..lowering.canonical import Canonical
from ..lowering.kept_product import KeptOperands, keep_product
from ..lowering.microsoft_beside import Beside
from ..lowering.operands import HALF, KnowsColumns, Operands, ProductOperands
from ..lowering.signed_product import SignedOperands
from ..model.bodies import Wiring
from ..plan import BenignPair, Cnn, OneClass, Profile, SitePlan, Static
from ..sites import Site
from .between_pairs import patch_between_pairs, read_map, read_values
from .context import MapContext
from .detectors import evidence, scores
from .gating import Branch, Replacement, gate
from .sides import value_side
from .validity import valid_columns

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

_LAYOUT = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "DynamicQuantizeLinear"}


@dataclass(frozen=True)
class Controls:
    """Value names of the runtime controls in the body at hand: `enabled` bool, `threshold` float32, both 0-d.

    companion: see `PatchPlan`. frozen: both are constants, and the patch is on.
    """

    enabled: str
    threshold: str
    companion: float = 1.0
    frozen: bool = False


@dataclass(frozen=True)
class SitePatch:
    """Replacements of one site, and the value (B, K) bool that says which columns are flagged.

    companions: (B, K) bool, columns above the lower bar, which count in flagged samples only; None where there is no
    lower bar.
    score: (B, K) float32, -inf at padding, in place of the columns where sites decide together (`score_site`); None at
        a silent site.
    """

    replacements: tuple[Replacement, ...]
    columns: str = ""
    companions: str | None = None
    score: str | None = None


def patch_site(
    e: Emitter, site: Site, plan: SitePlan, controls: Controls, wiring: Wiring, carried: str | None = None
) -> SitePatch:
    """Emit the patch of one site into `e`: the redistribution in an If on "any column flagged", or branch-free where
    `e` admits none.

    Args:
        wiring: of the body that holds the site.
        carried: columns (B, K) flagged at an earlier site over the same tokens; they are flagged here too.
    """
    taken: list[Replacement] = []
    site = _reading_early(e, site, wiring, taken)
    operands = _operands(
        e, site, plan, wiring.maker[site.product], kept=site.quantizer is None and _takes_in_scale(site, wiring)
    )
    context = _context(e, site, plan, operands)

    def decide(inner: Emitter) -> list[str]:
        columns, companions = _flag(inner, plan, context, controls)
        if carried is not None:
            columns = inner.op("Or", columns, carried, role="joined_columns")
        if companions is not None:
            columns = with_companions(inner, columns, companions)
        return [columns, inner.cast(inner.peak(inner.number(columns), 0, 1, keepdims=False), TensorProto.BOOL)]

    columns, any_flagged = _where_enabled(e, controls, context, decide, ("columns", "any_flagged"))
    if site.quantizer is not None:

        def redistributed(inner: Emitter, kept: KeptOperands) -> str:
            return value_side(inner, kept, plan, context, columns)

        replaced = patch_between_pairs(e, site, any_flagged, wiring, redistributed)
        return SitePatch((*replaced, *taken), columns)
    if e.conditional:
        then, otherwise = e.branch(), e.branch()
        patched = _patched(then, operands, plan, context, columns)
        if operands.dtype in HALF:
            # Out of an If in float32: runtimes that compute half precision in float32 then see casts side by side, and
            # drop them, as they do in the original.
            kept, gated_output, single = e.float(operands.original(e)), e.value("gated"), [int(TensorProto.FLOAT)]
            branches = (
                Branch(then, [then.float(patched)], single),
                Branch(otherwise, [otherwise.op("Identity", kept)], single),
            )
            gate(e, any_flagged, *branches, [gated_output])
            _finish(e, e.cast(gated_output, operands.dtype), site.product)
        else:
            kind = [operands.dtype]
            gate(
                e,
                any_flagged,
                Branch(then, [patched], kind),
                Branch(otherwise, [operands.original(otherwise)], kind),
                [site.product],
            )
    else:
        _finish(e, _patched(e, operands, plan, context, columns), site.product)
    return SitePatch((Replacement(site.product, tuple(e.nodes)),), columns)


def detect_site(e: Emitter, site: Site, plan: SitePlan, controls: Controls, wiring: Wiring) -> SitePatch:
    """Emit detection alone: the site's output stays the original, its columns are known."""
    taken: list[Replacement] = []
    site = _reading_early(e, site, wiring, taken)
    operands = _operands(e, site, plan, wiring.maker[site.product])
    context = _context(e, site, plan, operands)

    def decide(inner: Emitter) -> list[str]:
        columns, companions = _flag(inner, plan, context, controls)
        return [columns] if companions is None else [columns, companions]

    columns, *companions = _where_enabled(e, controls, context, decide, ("columns", "companions"))
    _finish(e, operands.original(e), site.product)
    return SitePatch((Replacement(site.product, tuple(e.nodes)), *taken), columns, *companions)


def score_site(e: Emitter, site: Site, plan: SitePlan, wiring: Wiring) -> SitePatch:
    """Emit the detector alone, for sites that decide together what is flagged; the site's output stays the original."""
    taken: list[Replacement] = []
    site = _reading_early(e, site, wiring, taken)
    operands = _operands(e, site, plan, wiring.maker[site.product])
    score = None
    if not isinstance(plan.detector, Static):
        context = _context(e, site, plan, operands)
        score = evidence(e, context, plan.detector)
        if context.valid is not None:
            score = e.op("Where", context.valid, score, e.constant(-np.inf), role="valid_score")
    _finish(e, operands.original(e), site.product)
    return SitePatch((Replacement(site.product, tuple(e.nodes)), *taken), score=score)


def redistribute_site(e: Emitter, site: Site, plan: SitePlan, columns: str, node: onnx.NodeProto, output: str) -> None:
    """Emit redistribution alone, for columns (B, K) that are known;
    `output` gets the result in the site's own layout.
    """
    operands = _operands(e, site, plan, node)
    _finish(e, _patched(e, operands, plan, _context(e, site, plan, operands), columns), output)


def _reading_early(e: Emitter, site: Site, wiring: Wiring, taken: list[Replacement]) -> Site:
    """The site, with its map read where that is in no runtime's way: beside Q/DQ pairs, before casts to half precision.

    Adds to `taken` what that replaces of the model.
    """
    if site.quantizer is not None:
        return read_values(e, read_map(e, site, wiring, taken), wiring, taken)
    while site.dtype in HALF and (cast := wiring.maker.get(site.probabilities)) is not None and cast.op_type == "Cast":
        site = replace(site, probabilities=cast.input[0])
    return site


def _operands(e: Emitter, site: Site, plan: SitePlan, node: onnx.NodeProto, kept: bool = False) -> Operands:
    """The operands, their map there, unless the detector can do with some rows of a map that has to be computed.

    Args:
        kept: leave a plain product where it is, outside the gate.
    """
    if kept and site.form not in FUSED:
        return KeptOperands(site, keep_product(e, node, "kept_product"), Canonical(site))
    operands = lower_fused(e, site, node, whole=False) if site.form in FUSED else ProductOperands(site, node)
    if not isinstance(operands, Beside):
        return operands
    sparing = isinstance(plan.detector, Profile | OneClass) and plan.detector.every > 1 and not _fixed_length(plan)
    return operands if sparing and operands.emit_rows is not None and operands.valid is not None else operands.opened(e)


def _takes_in_scale(site: Site, wiring: Wiring) -> bool:
    """Whether a factor of the product is multiplied by a constant right before it.

    onnxruntime takes such a number into the product (MatMulScaleFusion), and rounds differently then; in an If the
    product is out of reach.
    """
    makers = (wiring.maker.get(name) for name in (site.probabilities, site.values))
    scalings = [node for node in makers if node is not None and node.op_type in ("Mul", "Div")]
    factors = [wiring.maker.get(name) for node in scalings for name in node.input]
    return any(factor is None or factor.op_type == "Constant" for factor in factors)


def _patched(e: Emitter, operands: Operands, plan: SitePlan, context: MapContext, columns: str) -> str:
    """The redistribution, with the map made here where the detector did without,
    and of a signed map in its two parts.
    """
    if isinstance(operands, Beside):
        operands = operands.opened(e)
        context = replace(context, map=operands.map(e))
    if isinstance(operands, SignedOperands):
        given, taken = (
            value_side(e, part, plan, replace(context, map=part.map(e)), columns) for part in operands.parts(e)
        )
        return operands.difference(e, given, taken, columns, context.valid)
    return value_side(e, operands, plan, context, columns)


def _context(e: Emitter, site: Site, plan: SitePlan, operands: Operands) -> MapContext:
    if isinstance(operands, Beside) and operands.emit_map is not None:
        return MapContext("", operands.valid, site.self_attention, some_rows=operands.emit_rows)
    canonical_map = operands.map(e)
    known = operands.valid if isinstance(operands, KnowsColumns) else None
    valid = None if _fixed_length(plan) or site.unmasked else valid_columns(e, site, canonical_map, known)
    return MapContext(
        canonical_map, valid, site.self_attention, _sums_to_one(site), site.unmasked, values=operands.values
    )


def _sums_to_one(site: Site) -> bool:
    """Whether the map is a float32 Softmax over columns, with nothing but changes of layout behind it."""
    if not site.form.startswith("softmax") or site.form.startswith("softmax-flat") or site.quantizer is not None:
        return False
    behind = site.chain[site.chain.index("Softmax") + 1 : -1] if "Softmax" in site.chain else (None,)
    return site.dtype == TensorProto.FLOAT and {*behind} <= _LAYOUT


def _where_enabled(
    e: Emitter, controls: Controls, context: MapContext, decide: Callable[[Emitter], list[str]], roles: tuple[str, ...]
) -> list[str]:
    """Bools that `decide` emits, in an If on `atpatch_enabled`: columns (B, K), and a 0-d value where its role is
    "any_flagged".

    A patch that is switched off costs next to nothing so. And onnxruntime lays out the memory of a body once for all
    runs: small values among the large ones, above all those that live long, may cost the large ones the places that
    they take in turns, and the model's own nodes get slower (MiniLM-L6, 8 × 128, onnxruntime 1.32: by 3 %; one more
    small output does it to the original too). A branch has its own place for them.
    """
    if not e.conditional or controls.frozen:
        return decide(e)
    then, otherwise = e.branch(), e.branch()
    made = decide(then)
    nothing = [
        (
            otherwise.op("Identity", otherwise.constant(False, np.bool_))
            if role == "any_flagged"
            else context.no_columns(otherwise)
        )
        for role in roles[: len(made)]
    ]
    kinds = [int(TensorProto.BOOL)] * len(made)
    outputs = [e.value(role) for role in roles[: len(made)]]
    # Not on the control itself: onnxscript's optimizer takes its default for a constant there, and leaves an input
    # without a default.
    off = e.shared("off", lambda body: body.op("Not", controls.enabled, role="switched_off"))
    gate(e, off, Branch(otherwise, nothing, kinds), Branch(then, made, kinds), outputs, "detection")
    return outputs


def _finish(e: Emitter, value: str, output: str) -> None:
    """Give the value that the last node made the name under which the model knows it."""
    assert e.nodes[-1].output[0] == value
    e.nodes[-1].output[0] = output


def _fixed_length(plan: SitePlan) -> bool:
    """A per-column reference is bound to one length, so there is no padding to look for."""
    pair: BenignPair = plan.benign
    return not pair.relative or isinstance(plan.detector, Cnn)


def _flag(e: Emitter, plan: SitePlan, context: MapContext, controls: Controls) -> tuple[str, str | None]:
    """(B, K) bool: the columns above the threshold, and those above the lower bar."""
    fixed = isinstance(plan.detector, Static)
    threshold = e.constant(0.0) if fixed else controls.threshold
    score = scores(e, context, plan.detector)
    high = _over(e, score, threshold, context, controls)
    if fixed or controls.companion == 1.0:
        return high, None
    lower = e.op("Mul", threshold, e.constant(controls.companion), role="companion_threshold")
    return high, _over(e, score, lower, context, controls)


def _over(e: Emitter, score: str, threshold: str, context: MapContext, controls: Controls) -> str:
    over = e.op("Greater", score, threshold)
    if context.valid is not None:
        over = e.op("And", over, context.valid)
    return over if e.conditional or controls.frozen else e.op("And", over, controls.enabled, role="flags")


def with_companions(e: Emitter, columns: str, companions: str) -> str:
    """Columns (B, K), and in samples that have one the companions too."""
    sample = e.op("Greater", e.peak(e.number(columns), 1), e.constant(0.5), role="flagged_sample")
    return e.op("Or", columns, e.op("And", companions, sample), role="all_columns")
