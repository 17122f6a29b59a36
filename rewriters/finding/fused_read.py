"""The result of reading a fused operator: see `finding.fused`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from ..sites import Layout
from .facts import Dim, Facts
from .products import Refused
from .view import View

__all__ = ["CANONICAL", "FusedRead", "Reader"]


CANONICAL = Layout(4)


@dataclass(frozen=True)
class FusedRead:
    """A fused operator that can be lowered.

    Attributes:
        form: key in `lowering.FUSED`.
        values: the operand that carries V (packed with others in some forms).
        heads, head_dim: H and D where they are known.
        self_attention: queries and keys are the same tokens.
        mask: operand (B, K) that is non-zero at valid columns, if the operator has a mask of this form.
        attn_mask: operand over query rows and key columns (its last axes): booleans (True: attends), or numbers that
            are added to the scores.
        columns: K where it is fixed.
        query_dim: head size of queries and keys where it is fixed.
        size: see `Site`.
        layout: of values and output; the map is canonical.
    """

    form: str
    values: ir.Value
    heads: int | None
    head_dim: int | None
    self_attention: bool
    mask: ir.Value | None = None
    attn_mask: ir.Value | None = None
    columns: int | None = None
    layout: Layout = CANONICAL
    query_dim: int | None = None
    size: tuple[Dim, Dim] | None = None


Reader = Callable[[View, Facts, ir.Node], FusedRead | Refused]
"""Takes a node and returns what it offers, or why it is refused."""
