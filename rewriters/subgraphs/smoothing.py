"""Tail-risk smoothing of attention rows: one pass, no training, no data.

After the description of TIGS (arXiv 2604.24162) in its abstract: heads and rows are suspicious by the tail of a
sample's own attention over its content tokens; there a weak smoothing over the content, then a stronger contraction of
the whole row, and the row keeps its sum. The formulas and numbers below are ours.

Of a map A (B, H, Q, K) whose rows are the last of its columns (`finding.own_tokens`):

1. *Content* of a row: the valid columns that it sees, without the first valid one, which is the sink of every decoder.
   c_i is their number, m_i = Σ A_ik over them.
2. *Peak* of a row: r_i = c_i · max A_ik / m_i over the content; 1 is an even row. Rows of padding, and those with fewer
   than `rows` content columns, are not judged; nothing is judged by fewer than `rows` rows, so no decoding step.
3. *Tail* of a head: the mean of the `tail` share of its judged rows with the highest peaks, one at least (its expected
   shortfall). A head is suspicious where its tail, as a robust z-score among the heads of the sample, is above the
   threshold.
4. Suspicious rows: those of a suspicious head whose peak is in the tail.
5. Such a row becomes (1 - strong) · A'_i + strong · σ_i · u_i. A'_i has the share `weak` of its content spread evenly
   over the content, u_i is even over all that the row sees, σ_i is the row's own sum.

All else comes out bit for bit. On the V side: with the means C_i of the content's values and U_i of all values seen,
the output is (1 - strong) · [(1 - weak) · O_i + weak · (σ_i - m_i) · v_sink + weak · m_i · C_i] + strong · σ_i · U_i,
so no map is written.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from ..emit import Emitter
from ..lowering import FUSED, lower_fused
from ..lowering.answer_row import counted
from ..lowering.microsoft_recomputed import Recomputed
from ..lowering.operands import HALF, KnowsColumns, Operands, ProductOperands
from ..model.bodies import Wiring
from ..plan import Smoothing
from ..sites import Site
from .context import VISIBLE
from .gating import Branch, Replacement, gate
from .reading import reading_early
from .site import Controls, SitePatch
from .validity import valid_columns

__all__ = ["smooth_site"]

MAD_TO_SIGMA = 1.4826
"""Makes the median absolute deviation of a normal sample estimate its standard deviation."""

LEAST_MASS = 1e-6
"""Of content: below it a peak is only rounding."""

_TO_END = np.iinfo(np.int64).max


def smooth_site(e: Emitter, site: Site, detector: Smoothing, controls: Controls, wiring: Wiring) -> SitePatch:
    """Emit the patch of one site. The columns that it reports are those at which suspicious rows have their peaks."""
    taken: list[Replacement] = []
    site = reading_early(e, site, wiring, taken)
    node = wiring.maker[site.product]
    operands = lower_fused(e, site, node, whole=False) if site.form in FUSED else ProductOperands(site, node)
    half = operands.dtype in HALF
    original = operands.original(e)
    # Runtimes that compute half precision in float32 then see adjacent casts and drop them, as in the original.
    kept = e.float(original) if half else original
    output = operands.canonical(e, original)
    rows = e.squeeze(e.dims(output, 2, 3), 0)

    def smoothed(inner: Emitter) -> tuple[str, str]:
        whole = operands.with_map(inner) if isinstance(operands, Recomputed) else operands
        found = _Rows(inner, site, detector, controls, whole)
        patched = operands.restore(inner, found.smoothed(output), original)
        return inner.float(patched) if half else patched, found.columns()

    if not e.conditional:
        patched, columns = smoothed(e)
        e.op("Identity", e.cast(patched, operands.dtype) if half else patched)
        e.nodes[-1].output[0] = site.product
        return SitePatch((Replacement(site.product, tuple(e.nodes)), *taken), columns)
    several = e.op("Not", e.op("Less", rows, e.constant(detector.rows, np.int64)), role="several_rows")
    then, otherwise = e.branch(), e.branch()
    kind = int(TensorProto.FLOAT) if half else operands.dtype
    results = list(smoothed(then))
    silent = [otherwise.op("Identity", kept), _no_columns(otherwise, operands, output)]
    names = [e.value("gated") if half else site.product, e.value("columns")]
    kinds = [kind, int(TensorProto.BOOL)]
    condition = several if controls.frozen else e.op("And", several, controls.enabled)
    gate(e, condition, Branch(then, results, kinds), Branch(otherwise, silent, kinds), names)
    if half:
        e.cast(names[0], operands.dtype)
        e.nodes[-1].output[0] = site.product
    return SitePatch((Replacement(site.product, tuple(e.nodes)), *taken), names[1])


def _no_columns(e: Emitter, operands: Operands, output: str) -> str:
    """(B, K) bool, all False."""
    size = e.shape(e.dims(output, 0, 1), e.dims(operands.values(e), 2, 3))
    return e.op("Expand", e.constant(False, np.bool_), size)


@dataclass(frozen=True)
class _Seen:
    """Value names, float32.

    Attributes:
        content: (B, 1, Q, K), 1 where a row sees a content column.
        count: (B, 1, Q), how many.
        sink: (B, 1, 1, K), 1 at the first valid column.
        sees_sink: (B, 1, Q), 1 where a row sees it.
    """

    content: str
    count: str
    sink: str
    sees_sink: str


class _Rows:
    """What is known of the rows of one map, and what becomes of them."""

    def __init__(self, e: Emitter, site: Site, detector: Smoothing, controls: Controls, operands: Operands) -> None:
        self._e, self._detector, self._operands = e, detector, operands
        self._map = operands.map(e)
        known = operands.valid if isinstance(operands, KnowsColumns) else None
        valid = None if site.unmasked else valid_columns(e, site, self._map, known)
        self._seen = self._look(valid)
        on_content = e.op("Mul", self._map, self._seen.content, role="on_content")
        self._mass = e.reduce("Sum", on_content, 3, keepdims=False, role="content_mass")
        highest = e.reduce("Max", on_content, 3, keepdims=False, role="highest")
        self._place = e.op("ArgMax", on_content, axis=3, keepdims=0, role="place_of_peak")
        peak = e.op("Mul", e.op("Div", highest, e.at_least(self._mass, LEAST_MASS)), self._seen.count, role="peak")
        self._suspicious = self._judge(peak, self._judged(valid), controls)

    def _look(self, valid: str | None) -> _Seen:
        e = self._e
        seen = e.number(e.op("Greater", e.reduce("Mean", self._map, 1), e.constant(VISIBLE), role="seen"))
        if valid is None:
            ones = e.ones(1, e.dims(self._map, 3))
            first = e.op("Less", e.op("CumSum", ones, e.constant(1, np.int64)), e.constant(1.5))
        else:
            seen = e.op("Mul", seen, e.unsqueeze(e.number(valid), 1, 2))
            first = e.op("And", valid, e.op("Less", counted(e, valid), e.constant(1.5)))
        sink = e.unsqueeze(e.number(first), 1, 2)
        of_sink = e.op("Mul", seen, sink)
        content = e.op("Sub", seen, of_sink, role="content")
        count, sees = (e.reduce("Sum", x, 3, keepdims=False) for x in (content, of_sink))
        return _Seen(content, count, sink, sees)

    def _judged(self, valid: str | None) -> str:
        """(B, 1, Q) bool."""
        e, least = self._e, self._e.constant(self._detector.rows - 0.5)  # counts are float32
        enough = e.op("Greater", self._seen.count, least)
        if valid is not None:
            # the rows are the last of the columns
            start = e.op("Sub", e.dims(self._map, 3), e.dims(self._map, 2, 3))
            rows = e.op("Slice", valid, start, e.constant([_TO_END], np.int64), e.constant([1], np.int64))
            enough = e.op("And", enough, e.unsqueeze(rows, 1))
        count = e.reduce("Sum", e.number(enough), 2)
        return e.op("And", enough, e.op("Greater", count, least), role="judged")

    def _judge(self, peak: str, judged: str, controls: Controls) -> str:
        """(B, H, Q) bool: suspicious rows of suspicious heads."""
        e, one = self._e, self._e.constant(1.0)
        peak = e.op("Where", judged, peak, e.constant(0.0), role="judged_peak")
        count = e.reduce("Sum", e.number(judged), 2)  # (B, 1, 1)
        size = e.at_least(e.op("Ceil", e.op("Mul", count, e.constant(self._detector.tail))), 1.0)
        descending = self._descending(peak, 2)
        place = e.cast(e.op("Sub", size, one), TensorProto.INT64)
        place = e.op("Expand", place, e.shape(e.dims(peak, 0, 2), 1))
        total = e.op("CumSum", descending, e.constant(2, np.int64))
        tail = e.op("Div", e.op("GatherElements", total, place, axis=2), size, role="tail")  # (B, H, 1)
        least = e.op("GatherElements", descending, place, axis=2, role="least_of_tail")
        center = self._median(tail)
        apart = e.op("Sub", tail, center)
        spread = e.op("Mul", self._median(e.op("Abs", apart)), e.constant(MAD_TO_SIGMA))
        score = e.op("Div", apart, e.op("Add", spread, e.constant(self._detector.floor)), role="robust_z")
        heads = e.op("Greater", score, controls.threshold, role="suspicious_heads")
        rows = e.op("And", e.op("Not", e.op("Less", peak, least)), judged)
        found = e.op("And", rows, heads, role="suspicious_rows")
        # in a branch that is taken only while the patch is on, this has been asked
        return found if e.conditional or controls.frozen else e.op("And", found, controls.enabled, role="rows")

    def _descending(self, x: str, axis: int) -> str:
        e = self._e
        return e.top(x, e.dims(x, axis, axis + 1), axis, "sorted")[0]

    def _median(self, x: str) -> str:
        """Over the heads of x (B, H, 1), (B, 1, 1)."""
        e = self._e
        descending, heads = self._descending(x, 1), e.dims(x, 1, 2)
        two, one = e.constant([2], np.int64), e.constant([1], np.int64)
        middle = [e.op("Div", e.op("Sub", heads, one), two), e.op("Div", heads, two)]
        low, high = (e.op("Gather", descending, place, axis=1) for place in middle)
        return e.op("Mul", e.op("Add", low, high), e.constant(0.5), role="median")

    def columns(self) -> str:
        """(B, K) bool: where suspicious rows have their peaks."""
        e = self._e
        size, batch = e.dims(self._map, 3), e.dims(self._map, 0, 1)
        # all other rows mark a column behind the last one, which is cut off
        places = e.op("Where", self._suspicious, self._place, size)
        places = e.reshape(places, batch, -1)
        wide = e.op("Add", size, e.constant([1], np.int64))
        empty = e.op("Expand", e.constant(0.0), e.shape(batch, wide))
        marked = e.op("ScatterElements", empty, places, e.op("Expand", e.constant(1.0), e.op("Shape", places)), axis=1)
        inside = e.op("Slice", marked, e.constant([0], np.int64), size, e.constant([1], np.int64))
        return e.op("Greater", inside, e.constant(0.5), role="peaked_columns")

    def smoothed(self, output: str) -> str:
        """(B, H, Q, D) of the original output of this shape."""
        e, detector, seen = self._e, self._detector, self._seen
        values = self._operands.values(e)
        total = e.reduce("Sum", self._map, 3, keepdims=False, role="row_sum")
        content = e.op("MatMul", seen.content, values, role="content_values")  # sums
        of_sink = e.op("MatMul", seen.sink, values, role="sink_value")  # (B, H, 1, D)
        mean = e.op("Div", content, e.unsqueeze(e.at_least(seen.count, 1.0), 3))
        reached = e.op("Mul", e.unsqueeze(seen.sees_sink, 3), of_sink)
        all_seen = e.at_least(e.op("Add", seen.count, seen.sees_sink), 1.0)
        even = e.op("Div", e.op("Add", content, reached), e.unsqueeze(all_seen, 3))
        weak, strong = e.constant(detector.weak), e.constant(detector.strong)
        rest = e.op("Sub", total, self._mass)
        moved = e.op("Add", e.op("Mul", e.unsqueeze(rest, 3), of_sink), e.op("Mul", e.unsqueeze(self._mass, 3), mean))
        single = output if self._operands.dtype != TensorProto.DOUBLE else e.float(output)
        anchored = e.op(
            "Add", e.op("Mul", single, e.constant(1 - detector.weak)), e.op("Mul", moved, weak), role="anchored"
        )
        level = e.op("Mul", e.op("Mul", e.unsqueeze(total, 3), even), strong)
        patched = e.op("Add", e.op("Mul", anchored, e.constant(1 - detector.strong)), level, role="contracted")
        if self._operands.dtype == TensorProto.DOUBLE:
            patched = e.cast(patched, TensorProto.DOUBLE)
        return e.op("Where", e.unsqueeze(self._suspicious, 3), patched, output, role="smoothed")
