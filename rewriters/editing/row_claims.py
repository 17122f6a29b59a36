"""A plan's claim about the rows of a map is used only where the graph shows that it is true.

Calibration saw only some rows of data, which need not show every mask of the graph. So a plan's
`every_row_sees_every_column` is kept for a site where

1. all rows are shown to see the same columns, see `finding.row_masks`, or nothing is added to the scores, and
2. nothing between the map and its product could take a column from a row.

Everywhere else the patch checks row by row, which gives the same numbers where the plan was right.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import onnx

from ..finding.row_masks import RowMasks
from ..finding.view import op_types
from ..plan import PatchPlan
from ..sites import Site

__all__ = ["ShownRows", "with_shown_rows"]

_HARMLESS = op_types(
    "Cast DequantizeLinear DynamicQuantizeLinear Dropout Flatten Identity QuantizeLinear Reshape Squeeze Transpose"
    " Unsqueeze"
)
_SCORES = op_types("Einsum FusedMatMul MatMul")
_MAKES = op_types("Softmax QLinearSoftmax BiasSoftmax")


class ShownRows:
    """Where the graph of one model shows that the claim is true; each site is looked at once.

    Args:
        model: not to be changed; tensors in external files are not read.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._masks = cache(lambda: RowMasks(model))  # only where a site needs it: the whole graph is analyzed
        self._shown: dict[str, bool] = {}

    def at(self, site: Site) -> bool:
        """Whether it is shown at a site of the model."""
        if site.id not in self._shown:
            shown = _reaches_the_product(site) and (_only_scaled(site) or bool(self._masks().alike(site)))
            self._shown[site.id] = shown
        return self._shown[site.id]


def with_shown_rows(plan: PatchPlan, rows: ShownRows, sites: dict[str, Site]) -> PatchPlan:
    """The plan without its claims about rows at sites where the graph does not show them."""
    claimed = [name for name, one in plan.sites.items() if one.every_row_sees_every_column]
    if not claimed:
        return plan
    dropped = [name for name in claimed if not rows.at(sites[name])]
    kept = {
        name: replace(one, every_row_sees_every_column=False) if name in dropped else one
        for name, one in plan.sites.items()
    }
    return replace(plan, sites=kept)


def _only_scaled(site: Site) -> bool:
    """Whether the scores of a Softmax are a product of queries and keys that is only scaled, cast or moved."""
    if "Softmax" not in site.chain:
        return False
    first, *between = site.chain[: site.chain.index("Softmax")] or ("",)
    return first in _SCORES and {*between} <= _HARMLESS | {"Div", "Mul"}


def _reaches_the_product(site: Site) -> bool:
    """Rule 2; it always holds for a fused operator, whose map no other node changes."""
    if not site.probabilities:
        return True
    behind = next((place for place, kind in enumerate(site.chain) if kind in _MAKES), None)
    return behind is not None and {*site.chain[behind + 1 : -1]} <= _HARMLESS
