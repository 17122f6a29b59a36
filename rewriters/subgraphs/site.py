"""Everything that is inserted at one site: detector, gate, redistribution."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from ..bodies import Wiring
from ..emit import Emitter
from ..lowering import FUSED, open_fused
from ..plan import BenignPair, Cnn, SitePlan, Static
from ..sites import Site
from .canonical import Canonical
from .context import MapContext
from .detectors import scores
from .operands import Operands, ProductOperands
from .sides import map_side, value_side
from .validity import valid_columns

__all__ = ["Controls", "Replacement", "SitePatch", "detect_site", "patch_site", "redistribute_site"]


@dataclass(frozen=True)
class Controls:
    """Value names of the runtime controls in the body at hand: `enabled` bool, `threshold` float32, both 0-d."""

    enabled: str
    threshold: str


@dataclass(frozen=True)
class Replacement:
    """The node that makes `output` is replaced by `nodes`, which end in one that makes `output` again."""

    output: str
    nodes: tuple[onnx.NodeProto, ...]


@dataclass(frozen=True)
class SitePatch:
    """Replacements of one site, and the value (B, K) bool that says which columns are flagged."""

    replacements: tuple[Replacement, ...]
    columns: str


def patch_site(
    e: Emitter, site: Site, plan: SitePlan, controls: Controls, gated: bool, wiring: Wiring, carried: str | None = None
) -> SitePatch:
    """Emit the patch of one site into `e`.

    Args:
        gated: put the redistribution in an If on "any column flagged"; else emit it branch-free.
        wiring: of the body that holds the site.
        carried: columns (B, K) flagged at an earlier site over the same tokens; they are flagged here too.
    """
    e.conditional = gated
    operands = _operands(e, site, wiring.maker[site.product])
    context = _context(e, site, plan, operands)
    columns = _flag(e, plan, context, controls)
    if carried is not None:
        columns = e.op("Or", columns, carried, role="joined_columns")
    any_flagged = e.op("Greater", e.reduce("Max", e.float(columns), 0, 1, keepdims=False), e.constant(0.5), role="any_flagged")
    if site.quantizer is not None:
        return SitePatch(_quantised(e, site, plan, context, columns, any_flagged, gated, wiring), columns)
    if gated:
        then, otherwise = e.branch(), e.branch()
        made = ([value_side(then, operands, plan, context, columns)], [operands.original(otherwise)])
        kind = [operands.dtype]
        e.nodes.append(_gate(e, any_flagged, (then, made[0], kind), (otherwise, made[1], kind), [site.product]))
    else:
        _finish(e, value_side(e, operands, plan, context, columns), site.product)
    return SitePatch((Replacement(site.product, tuple(e.nodes)),), columns)


def detect_site(e: Emitter, site: Site, plan: SitePlan, controls: Controls, wiring: Wiring) -> SitePatch:
    """Emit detection alone: the site's output stays the original, its columns are known."""
    operands = _operands(e, site, wiring.maker[site.product])
    columns = _flag(e, plan, _context(e, site, plan, operands), controls)
    _finish(e, operands.original(e), site.product)
    return SitePatch((Replacement(site.product, tuple(e.nodes)),), columns)


def redistribute_site(e: Emitter, site: Site, plan: SitePlan, columns: str, node: onnx.NodeProto, output: str) -> None:
    """Emit redistribution alone, for columns (B, K) that are known; `output` gets the result in the site's own layout."""
    operands = _operands(e, site, node)
    _finish(e, value_side(e, operands, plan, _context(e, site, plan, operands), columns), output)


def _operands(e: Emitter, site: Site, node: onnx.NodeProto) -> Operands:
    return open_fused(e, site, node) if site.form in FUSED else ProductOperands(site, node)


def _context(e: Emitter, site: Site, plan: SitePlan, operands: Operands) -> MapContext:
    canonical_map = operands.map(e)
    valid = None if _fixed_length(plan) else valid_columns(e, site, canonical_map)
    return MapContext(canonical_map, valid, site.self_attention)


def _finish(e: Emitter, value: str, output: str) -> None:
    """Give the value that the last node made the name under which the model knows it."""
    assert e.nodes[-1].output[0] == value
    e.nodes[-1].output[0] = output


def _fixed_length(plan: SitePlan) -> bool:
    """A per-column reference is bound to one length, so there is no padding to look for."""
    pair: BenignPair = plan.benign
    return not pair.relative or isinstance(plan.detector, Cnn)


def _flag(e: Emitter, plan: SitePlan, context: MapContext, controls: Controls) -> str:
    """(B, K) bool."""
    threshold = e.constant(0.0) if isinstance(plan.detector, Static) else controls.threshold
    over = e.op("Greater", scores(e, context, plan.detector), threshold)
    if context.valid is not None:
        over = e.op("And", over, context.valid)
    return e.op("And", over, controls.enabled, role="columns")


def _gate(
    e: Emitter,
    condition: str,
    then: tuple[Emitter, list[str], list[int]],
    otherwise: tuple[Emitter, list[str], list[int]],
    outputs: list[str],
) -> onnx.NodeProto:
    name = e.value("gate")
    branches = {}
    for key, (emitter, made, dtypes) in {"then_branch": then, "else_branch": otherwise}.items():
        # Shapes are left open: onnxruntime infers them, and a wrong guess would be worse than none.
        infos = [helper.make_tensor_value_info(value, dtype, None) for value, dtype in zip(made, dtypes, strict=True)]
        branches[key] = helper.make_graph(emitter.nodes, f"{name}/{key}", [], infos)
    return helper.make_node("If", [condition], outputs, name=name, **branches)


def _quantised(
    e: Emitter,
    site: Site,
    plan: SitePlan,
    context: MapContext,
    columns: str,
    any_flagged: str,
    gated: bool,
    wiring: Wiring,
) -> tuple[Replacement, ...]:
    """Between Softmax and QuantizeLinear, and once more behind the product, so that both Q/DQ pairs stay whole."""
    if gated:
        then, otherwise = e.branch(), e.branch()
        made = list(map_side(then, site, plan, context, columns))
        kept = [otherwise.op("Identity", site.probabilities), otherwise.op("Identity", otherwise.constant([[[[0.0]]]]))]
        new_map, benign = e.value("map"), e.value("benign")
        dtypes = [site.dtype, TensorProto.FLOAT]
        e.nodes.append(_gate(e, any_flagged, (then, made, dtypes), (otherwise, kept, dtypes), [new_map, benign]))
    else:
        new_map, benign = map_side(e, site, plan, context, columns)
    quantizer = onnx.NodeProto()
    quantizer.CopyFrom(wiring.maker[site.quantizer or ""])
    quantizer.input[0] = new_map
    before = Replacement(quantizer.output[0], (*e.nodes, quantizer))

    behind = e.branch()
    anchor = _after_requantisation(wiring, site.product)
    node = onnx.NodeProto()
    node.CopyFrom(wiring.maker[anchor])
    raw = behind.value("product_requantised")
    node.output[0] = raw
    behind.nodes.append(node)
    canonical = Canonical(site)
    added = behind.op("Add", canonical.output(behind, raw), benign)
    behind.op("Where", any_flagged, canonical.restore_output(behind, added, raw), raw)
    behind.nodes[-1].output[0] = anchor
    return before, Replacement(anchor, tuple(behind.nodes))


def _after_requantisation(wiring: Wiring, product: str) -> str:
    """Output of DequantizeLinear when the product goes through one Q/DQ pair and nowhere else, else the product itself."""
    value = product
    for op_type in ("QuantizeLinear", "DequantizeLinear"):
        readers = wiring.readers[value]
        if len(readers) != 1 or readers[0].op_type != op_type:
            return product
        value = readers[0].output[0]
    return value
