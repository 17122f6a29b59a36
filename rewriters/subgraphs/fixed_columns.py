"""Redistribution of columns that are known when the graph is patched: no detector, no `If`, four operators.

With the flagged columns m, the benign shares q and the benign values v of a site known, most of eq. 11 is too:

    out_i = (1 - T_i) · Σ_{k∉m} A_ik V_k / Σ_{k∉m} A_ik  +  Σ_{k∈m} q_ik v_k,        T_i = Σ_{k∈m} q_ik

The quotient is what the Softmax itself gives without the flagged columns. So

    scores + [-∞ at m, else 0]  →  Softmax  →  product  →  × (1 - T)  →  + Σ q v

1. A site gets this form if its detector is `Static`, its benign pair is for one length (so K is known, and nothing is
   padding), its map is a Softmax that is only moved on its way to the product, and every row sees every column. Columns
   that earlier sites of its group flag must be known too.
2. Rules 1 and 3 of `redistribution` are decided here, and its rules 2 and 5 cannot occur. There is no saturated row
   (rule 4): however much of a row the flagged columns had, the others share the rest as their scores say.
3. Where nothing else reads the map it is made from the new scores; else a copy of it is.
4. Switched off, 0 is added to the scores, and the output is the product itself, bit for bit.
5. A site of which no column is flagged, or every column, stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ..emit import Emitter
from ..model.bodies import Wiring
from ..plan import BenignPair, SitePlan, Static
from ..sites import Site
from .context import fixed_size, rows_alike
from .gating import Replacement
from .masked_scores import columns_axis, softmax_chain

__all__ = ["FixedColumns", "fixed_columns", "flag_fixed", "redistribute_fixed"]

_FEW = 1 << 14
"""Up to so many numbers a constant is written out for rows too: runtimes add and multiply faster then."""
_DTYPES = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


@dataclass(frozen=True)
class FixedColumns:
    """What is known of one site.

    Attributes:
        flagged: (K,) bool.
        chain: the Softmax and the operators behind it that move its result to the product, in order.
        axis: of the columns in the scores, negative.
        samples: axis of the samples in the product.
        rows: Q, where rows are the axis in front of the columns and their number is known; else 1.
    """

    flagged: NDArray[np.bool_]
    chain: tuple[onnx.NodeProto, ...] = ()
    axis: int = -1
    samples: int = 0
    rows: int = 1

    @property
    def columns(self) -> tuple[int, ...]:
        return tuple(int(column) for column in np.flatnonzero(self.flagged))


def fixed_columns(
    e: Emitter, site: Site, plan: SitePlan, wiring: Wiring, carried: Iterable[int] = ()
) -> FixedColumns | None:
    """What is known of a site, where rule 1 holds.

    Args:
        carried: columns that earlier sites of the group flag in every request.
    """
    pair = plan.benign
    size = fixed_size(site, plan)
    if not isinstance(plan.detector, Static) or size is None or not rows_alike(site, plan):
        return None
    if site.form not in ("softmax", "softmax+scaled") or site.dtype not in _DTYPES:
        return None
    layout = site.layout
    if layout.rank not in (3, 4) or layout.merged_heads or layout.single_head or layout.widths > 1:
        return None
    plain = site.form == "softmax" and (layout.rank, layout.values, layout.output, layout.values_lack) == (
        4,
        None,
        None,
        (),
    )
    if (pair.own_values or pair.values is None) and not plain:
        return None
    chain = softmax_chain(site, wiring)
    axis = columns_axis(e, site, chain[0]) if chain else None
    if axis is None:
        return None
    flagged = np.isin(np.arange(size.columns), [*plan.detector.columns, *carried])
    samples = 0 if layout.output is None else layout.output[0]
    # behind anything else than a cast the rows of the map may be another axis of the scores
    in_place = (
        axis == -1 and layout.probabilities is None and {node.op_type for node in chain[1:]} <= {"Cast", "Identity"}
    )
    return FixedColumns(flagged, chain, axis, samples, pair.attention.shape[1] if in_place else 1)


def flag_fixed(e: Emitter, fixed: FixedColumns, like: str, enabled: str | None) -> str:
    """(B, K) bool, for those who report flags.

    Args:
        like: a value with the samples on axis `fixed.samples`.
        enabled: 0-d bool; None where the patch cannot be switched off.
    """
    listed = e.constant(fixed.flagged[None], np.bool_)
    batch = e.dims(like, fixed.samples, fixed.samples + 1)
    everywhere = e.op("Expand", listed, e.shape(batch, len(fixed.flagged)), role="columns")
    return everywhere if enabled is None else e.op("And", everywhere, enabled, role="columns")


def redistribute_fixed(
    e: Emitter, site: Site, plan: SitePlan, fixed: FixedColumns, wiring: Wiring, enabled: str | None
) -> list[Replacement]:
    """Emit the patched output, under the name of the product; also the replacements of other nodes."""
    product = wiring.maker[site.product]
    if fixed.flagged.all() or not fixed.flagged.any():
        e.copy(product, product.input, "product")
        e.nodes[-1].output[0] = site.product
        return []
    made, elsewhere = _map(e, site, fixed, wiring, enabled)
    inputs = list(product.input)
    inputs[site.operand] = made
    kept = e.copy(product, inputs, "product_unflagged")
    q = _benign_shares(plan.benign, fixed.flagged)
    share = q.sum(-1, keepdims=True)  # T, (H | 1, Q | 1, 1)
    patched = kept
    if share.any():
        scaled = e.op("Mul", kept, _constant(e, site, _over_width(plan.benign, 1 - share)), role="scaled")
        patched = e.op("Add", scaled, _benign_part(e, site, plan.benign, q, fixed.flagged), role="patched")
    if enabled is not None:
        patched = e.op("Where", enabled, patched, kept, role="switched")
    e.nodes[-1].output[0] = site.product
    return elsewhere


def _map(
    e: Emitter, site: Site, fixed: FixedColumns, wiring: Wiring, enabled: str | None
) -> tuple[str, list[Replacement]]:
    """The map without the flagged columns, by rule 3."""
    softmax, *movers = fixed.chain
    dtype = helper.tensor_dtype_to_np_dtype(site.dtype)
    addend = np.where(fixed.flagged, -np.inf, 0.0).reshape(-1, *[1] * (-fixed.axis - 1))
    if fixed.rows * addend.size <= _FEW:
        addend = np.broadcast_to(addend, (fixed.rows, addend.size))
    hidden = e.constant(addend, dtype)
    if enabled is not None:
        key, nothing = f"hidden:{hidden}", e.constant(0, dtype)
        hidden = e.ahead(key, lambda body: body.op("Where", enabled, hidden, nothing, role="hidden"))
    if all(wiring.has_one_reader(node.output[0]) for node in fixed.chain):
        inner = e.branch()
        inner.copy(softmax, [inner.op("Add", softmax.input[0], hidden, role="scores")], "map")
        inner.nodes[-1].output[0] = softmax.output[0]
        return site.probabilities, [Replacement(softmax.output[0], tuple(inner.nodes))]
    made = e.copy(softmax, [e.op("Add", softmax.input[0], hidden, role="scores")], "map")
    for node in movers:
        made = e.copy(node, [made, *node.input[1:]], "map")
    return made, []


def _benign_shares(pair: BenignPair, flagged: NDArray[np.bool_]) -> NDArray[np.float64]:
    """q of the flagged columns, 0 elsewhere, each row's sum at most 1: (H | 1, Q | 1, K)."""
    q = np.where(flagged, pair.attention.astype(np.float64), 0.0)
    return np.asarray(q / np.maximum(q.sum(-1, keepdims=True), 1.0))


def _benign_part(e: Emitter, site: Site, pair: BenignPair, q: NDArray[np.float64], flagged: NDArray[np.bool_]) -> str:
    """Σ q v, of a shape that broadcasts to the product's."""
    if pair.own_values or pair.values is None:
        weights = q if pair.own_values else q.sum(-1, keepdims=True) * (~flagged / (~flagged).sum())
        return e.op("MatMul", e.constant(weights, helper.tensor_dtype_to_np_dtype(site.dtype)), site.values)
    values = np.broadcast_to(pair.values, (pair.values.shape[0], len(flagged), pair.values.shape[2]))
    return _constant(e, site, q @ values)


def _over_width(pair: BenignPair, share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numbers of rows (H | 1, Q | 1, 1) written out for all of D where they stay few: runtimes multiply faster then."""
    width = 1 if pair.values is None else pair.values.shape[2]
    return np.broadcast_to(share, (*share.shape[:2], width)) if share.size * width <= _FEW else share


def _constant(e: Emitter, site: Site, array: NDArray[np.float64]) -> str:
    """Canonical numbers (H | 1, Q | 1, D | 1) in the layout and type of the product."""
    layout = site.layout
    if layout.rank == 3:
        (array,) = array
    order = None if layout.output is None else np.argsort(layout.output)
    if order is not None:
        array = array.reshape(*[1] * (layout.rank - array.ndim), *array.shape).transpose(order)
    return e.constant(array, helper.tensor_dtype_to_np_dtype(site.dtype))
