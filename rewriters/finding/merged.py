"""The number of heads in a rank-3 map (B·H, Q, K), whose leading axis mixes samples and heads."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from .backward import Scores
from .facts import Dims
from .forward import Hit
from .heads import LeadingAxes
from .monomials import Monomial
from .self_attention import roots
from .token_index import Index
from .view import View, op_types, operand

__all__ = ["merged_heads"]

_MAX_STEPS = 24
_SKIPPED = op_types(
    "Cast Dropout Identity Mul Div QLinearAdd QLinearMul Transpose Reshape Expand Unsqueeze Squeeze QuantizeLinear"
    " DequantizeLinear Slice Add Where"
)


def merged_heads(axes: LeadingAxes) -> int | None:
    """H, from a Reshape that merges (B, H, Q, ...) into the leading axis or splits that axis again.

    None without such a Reshape, and where the axis is proven to count tokens (see `heads`).
    """
    view, facts, hit, scores = axes.view, axes.facts, axes.hit, axes.scores
    if hit.product.rank != 3 or scores.additive:
        return None
    for node in _witnesses(view, hit, scores):
        source, target = facts.shape(operand(node, 0)), facts.shape(node.outputs[0])
        if source is not None and target is not None:
            heads = _merge(source, target) if len(target) == 3 else _merge(target, source)
            if heads is not None:
                return None if _are_tokens(axes, heads) else heads
    return None


def _are_tokens(axes: LeadingAxes, heads: int) -> bool:
    """Whether the leading axis counts tokens, by the values of the product or by what the site reads."""
    product = axes.hit.product
    lead = 0 if product.values_perm is None else product.values_perm[0]
    found, projected = roots(axes.view, axes.facts, Index(product.values, (lead,), Monomial(heads)))
    if found and projected:
        return True
    row = 0 if product.probabilities_perm is None else product.probabilities_perm[0]
    parts = (Index(axes.values, (lead,), Monomial(heads)), Index(axes.read, (row,), Monomial(heads)))
    return axes.kind_of(*parts) == "tokens"


def _merge(wide: Dims, narrow: Dims) -> int | None:
    """H when (B, H, M, N) and (B·H, M, N) hold the same data."""
    if len(wide) != 4 or len(narrow) != 3 or not isinstance(wide[1], int):
        return None
    merged = wide[0] != narrow[0] or wide[0] == 1  # an unchanged leading axis has not merged with another
    rows = wide[-2] == narrow[-2] or not (isinstance(wide[-2], int) and isinstance(narrow[-2], int))
    # The last dimensions must be known to agree: if both are unknown, (B, C, H, W) -> (B, C, H·W) looks the same.
    return (
        wide[1]
        if merged and rows and wide[-1] == narrow[-1] and (wide[-2] == narrow[-2] or isinstance(wide[-1], int))
        else None
    )


def _witnesses(view: View, hit: Hit, scores: Scores) -> Iterator[ir.Node]:
    """Reshapes on the paths of the map, of the output and of the factors, nearest first."""
    yield from (node for node in (*hit.path, *scores.path) if node.op_type == "Reshape")
    output = hit.product.node.outputs[0]
    for _ in range(3):
        readers = [node for node, _ in output.uses()]
        yield from (node for node in readers if node.op_type == "Reshape")
        if len(readers) != 1 or readers[0].op_type not in ("Cast", "Transpose", "Identity", "Slice"):
            break
        output = readers[0].outputs[0]
    for factor in (hit.product.values, scores.operands.first, scores.operands.second):
        yield from _reshapes_behind(view, factor)


def _reshapes_behind(view: View, value: ir.Value | None) -> Iterator[ir.Node]:
    for _ in range(_MAX_STEPS):
        node = None if value is None else value.producer()
        if node is None or node.op_type not in _SKIPPED:
            return
        if node.op_type == "Reshape":
            yield node
        value = next((v for v in node.inputs if v is not None and not view.is_constant(v)), None)
