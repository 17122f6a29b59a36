"""What the finder says about a graph: a `Site` or a `Rejection` for every attention map.

Shape letters, used everywhere in this package: B samples, H heads, Q query rows, K key columns, D value width.
An attention map A has the canonical shape (B, H, Q, K), its values V (B, H, K, D), their product (B, H, Q, D).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import onnx

from .names import ALARM, SPAN, SPAN_ATTENTION
from .summary import Summarized, some

__all__ = [
    "MAP_FORMS",
    "Confidence",
    "Inspection",
    "Layout",
    "Rejection",
    "Site",
    "Where",
    "alarm_in_words",
    "span_in_words",
]

Where = tuple[tuple[int, str], ...]
"""Path from the model to a body of nodes: () is the main graph; each step is (node index, attribute name) into a
subgraph. A first step (i, "function") enters `model.functions[i]`."""

Confidence = Literal["high", "medium"]

MAP_FORMS = (
    "softmax",
    "softmax-flat",
    "decomposed",
    "bias-softmax",
    "qlinear-softmax",
    "log-softmax",
    "logsumexp",
    "sparsemax",
    "exp",
    "relu",
    "sigmoid",
    "softplus",
)
"""How a map is made; the last four normalize nothing, so each row of such a map has a sum of its own."""


@dataclass(frozen=True)
class Layout:
    """How the tensors of one P·V product lie in memory, against the canonical order (leading..., Q, K), (..., K, D),
    (..., Q, D).

    Attributes:
        rank: rank of the probabilities at the product, 2 or more.
        probabilities, values, output: permutation that brings the tensor to canonical order; None when it is there
            already.
        merged_heads: H when batch and heads share the leading axis of a rank-3 map (B·H, Q, K); None otherwise.
        values_lack: negative canonical axes that the values do not have: shared by all heads (-3,), or fewer leading
            axes than the map.
        single_head: no axis of a map of rank 4 or more counts heads: all in front of the query rows count samples, or
            what is judged like one (rows of an image, frames, windows).

    The permutations of values and output may be longer than the rank: then all axes behind K (or Q) together are the
    width D, as where one map weighs every row of an alignment.
    """

    rank: int
    probabilities: tuple[int, ...] | None = None
    values: tuple[int, ...] | None = None
    output: tuple[int, ...] | None = None
    merged_heads: int | None = None
    # Not in the repr, and so not in the fingerprint: it follows from the rank and the permutations, and hotfixes fitted
    # before it fit on.
    values_lack: tuple[int, ...] = field(default=(), repr=False)
    # Not in the repr for the same reason; `Site.fingerprint` adds it where it is set.
    single_head: bool = field(default=False, repr=False)

    @property
    def has_heads(self) -> bool:
        """Whether heads of a sample are in the map, on an axis of their own or merged into the first."""
        return self.merged_heads is not None or (self.rank >= 4 and not self.single_head)

    @property
    def samples_lead(self) -> bool:
        """Whether the canonical map has one entry for each entry of the first axis, heads aside."""
        return self.merged_heads is not None or (self.rank == 4 and not self.single_head)

    @property
    def widths(self) -> int:
        """Number of axes that together are D."""
        return 1 if self.values is None else len(self.values) - (self.rank - len(self.values_lack)) + 1


@dataclass(frozen=True, repr=False)
class Site(Summarized):
    """One Softmax (or its like) whose probabilities weigh values in a P·V product.

    Attributes:
        id: unique in the model, of [A-Za-z0-9_.-]; inserted names start with `atpatch/<id>/`.
        softmax, matmul: node names (the first output's name where a node is unnamed); where several operators make the
            map, of the last.
        form: how the map is made, one of `MAP_FORMS` ("softmax-flat": opset < 13; "decomposed": Exp, ReduceSum and Div;
            "log-softmax": Exp of it), or the fused operator's name; with a suffix where the product is no plain one:
            "+qdq" (between Q/DQ pairs), "+qlinear" (QLinearMatMul), "+integer" (MatMulInteger and its kin), "+scaled"
            (a factor inside the operator), "+divided" (by the sums of the map's rows, behind the product), "+summed"
            (Mul and ReduceSum), "+signed" (a difference of maps).
        where: the body that holds the product.
        probabilities: value read as P: the edge into the product, or the input of the quantizer before it; "" inside a
            fused operator.
        values: value multiplied with P, as it enters the product, or the input of the quantizer before an integer
            product.
        product: output of the P·V node, or of the rescaling behind an integer product; names that node within its body.
        query_axis, key_axis: negative axes of P as it enters the product.
        operand: which input of the product P is.
        heads: H when it is known statically.
        head_axis: its negative axis, None when there is no head axis (merged or single).
        head_dim: D when it is known statically.
        scope: module path from the exporter, else the node path.
        confidence: "medium" where an axis had to be assumed through a Reshape of unknown shape, or keys and values of a
            map that is not normalized to be of the same tokens.
        layout: see `Layout`.
        self_attention: queries and keys come from the same tokens, so query row i and key column i are one token.
        key_mask: graph input (B, K) that is non-zero at valid key columns, where it could be traced.
        chain: operator types from the score product to the P·V product.
        quantizer: output of the QuantizeLinear that reads P, when the site is "+qdq".
        quantizer_dtype: its element type, an onnx.TensorProto.DataType.
        softmax_rank: rank of the Softmax's own result, where it is known; the product's may be another.
        softmax_dtype: element type of that result, where it is known, else 0.
        dtype: element type of P, an onnx.TensorProto.DataType; float32 where inference could not tell. At an integer
            product that of `product`.
        map_scale, values_scale: (scale, zero point) that make floats of P and V where they are quantized; the zero
            point is "" for 0.
        ranks: of the inputs of a fused operator, which may mean different things by rank; None where one is left out or
            not known.
        key_size: K when it is known statically.
        query_dim: head size of queries and keys of a fused operator, where it is known statically.
        size: (B, K) of a fused operator, where they are known: numbers, or names that are equal where sizes are.
        unmasked: nothing hides a column from a row, though the map may give it nothing: said of maps with zeros of
            their own (Relu, sparsemax), of which a zero does not tell a mask.
    """

    id: str
    softmax: str
    matmul: str
    form: str
    where: Where
    probabilities: str
    values: str
    product: str
    query_axis: int
    key_axis: int
    operand: int
    heads: int | None
    head_axis: int | None
    head_dim: int | None
    scope: str
    confidence: Confidence
    layout: Layout
    self_attention: bool
    key_mask: str | None
    chain: tuple[str, ...]
    quantizer: str | None = None
    quantizer_dtype: int = onnx.TensorProto.UINT8
    softmax_rank: int | None = None
    softmax_dtype: int = onnx.TensorProto.FLOAT
    dtype: int = onnx.TensorProto.FLOAT
    map_scale: tuple[str, str] | None = None
    values_scale: tuple[str, str] | None = None
    ranks: tuple[int | None, ...] = ()
    key_size: int | None = None
    unmasked: bool = False
    query_dim: int | None = None
    size: tuple[int | str, int | str] | None = None

    @property
    def fingerprint(self) -> str:
        """Digest of the structure (no names, no weights): equal for the same attention block exported the same way."""
        structure = (
            self.form,
            self.chain,
            self.layout,
            self.query_axis,
            self.key_axis,
            self.operand,
            self.heads,
            self.head_dim,
            *(("single head",) if self.layout.single_head else ()),
        )
        return hashlib.sha256(repr(structure).encode()).hexdigest()[:16]

    def summary(self) -> Iterator[tuple[str, str]]:
        yield "id", f"{self.id} ({self.form}, confidence {self.confidence})"
        sizes = (("H", self.heads), ("K", self.key_size), ("D", self.head_dim))
        known = ", ".join(f"{letter} {'not fixed' if size is None else size}" for letter, size in sizes)
        yield "map", f"{known}; query axis {self.query_axis}, key axis {self.key_axis}"
        yield "nodes", f"{self.softmax} → {self.matmul}"
        yield "scope", self.scope

    def to_json(self) -> dict[str, Any]:
        """The keys that `inspect --json` promises."""
        keys = ("id", "softmax", "matmul", "form", "heads", "query_axis", "key_axis", "operand", "confidence", "scope")
        return {key: getattr(self, key) for key in keys}


@dataclass(frozen=True)
class Rejection:
    """A Softmax, or its like, that is no site, and why.

    Attributes:
        softmax: node name (the first output's name where it is unnamed).
        code: one of `finder.REASONS`, which `atpatch-onnx explain CODE` explains.
        reason: one line on this case.
    """

    softmax: str
    code: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """An entry of "rejected" in `inspect --json`."""
        return {"softmax": self.softmax, "code": self.code, "reason": self.reason}


@dataclass(frozen=True, repr=False)
class Inspection(Summarized):
    """Everything the finder has to say about one model.

    Attributes:
        model: facts of the file: "path", "opset", "ir_version", "producer", "nodes", "external_data", and of a patched
            one "patch", its stamp.
        sites: in graph order.
        rejected: every other Softmax, in graph order.
    """

    model: Mapping[str, Any]
    sites: tuple[Site, ...]
    rejected: tuple[Rejection, ...]

    def summary(self) -> Iterator[tuple[str, str]]:
        facts = self.model
        yield "model", f"{facts.get('path') or 'in memory'} (opset {facts.get('opset')}, {facts.get('nodes')} nodes)"
        yield "sites", some(site.id for site in self.sites)
        codes = Counter(rejection.code for rejection in self.rejected)
        yield "rejected", some(f"{count} × {code}" for code, count in codes.most_common()) if codes else "none"
        if "patch" in facts:
            yield "patched", f"sites {facts['patch'].get('sites', '')}"
            if "span" in facts["patch"]:
                yield "marked span", span_in_words(facts["patch"]["span"])
            if "alarm" in facts["patch"]:
                yield "alarm", alarm_in_words(facts["patch"]["alarm"])

    def to_json(self) -> dict[str, Any]:
        """The keys that `inspect --json` promises."""
        return {
            "model": dict(self.model),
            "sites": [site.to_json() for site in self.sites],
            "rejected": [rejection.to_json() for rejection in self.rejected],
        }


def alarm_in_words(fact: str) -> str:
    """What the stamp of a patch says about its alarm (see `editing.alarm`)."""
    return f"output {ALARM}, from the hidden states of {len(fact.split())} sites"


def span_in_words(fact: str) -> str:
    """What the stamp of a patch says about its marked span (see `editing.span`)."""
    try:
        span = json.loads(fact)
        way, heads = str(span["input"]), [*span["heads"].values()]
        size = "" if None in heads else f", {sum(map(int, heads))} heads"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "the record of it is damaged; patch the original again"
    return f"{way} input {SPAN}, output {SPAN_ATTENTION} of {len(heads)} sites{size}"
