"""Whether the padding mask of a decoder can hide places of a request, so that the rest is answered like a shorter
request that is padded there.

The graph has to prove it:

1. Every attention is a site of the main graph whose keys are the tokens of this call, and all of them have the same
   padding mask. A cache would carry the hidden keys to a call whose mask does not hide them, so there is none: no input
   but tokens, mask and positions, and no output that is keys or values.
2. The mask is read at the scores of these sites, for its size, and for positions that are counted from it: sums along
   it that look up rows of a table or turn rotary embeddings. What else reads it may be where the answer is read.
3. Positions that are an input do nothing else than these do.
4. A row that sees only hidden places, as the first rows then do, stays a number: the mask adds a finite number to
   float32 scores, or what is no number becomes 0 behind the Softmax.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx import TensorProto

from ..sites import Site
from .attention_operands import AttentionOperands
from .finder import Searched
from .forward import Hit
from .masks import stays_finite
from .trace import Finding
from .view import op_types, operand

__all__ = ["Hiding", "hiding_of"]

_SIZES = op_types("Shape Size")
_TURNS = op_types("Cos Sin RotaryEmbedding")
_MASKS = (TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT, TensorProto.BOOL)
_INTEGERS = (TensorProto.INT64, TensorProto.INT32)
_MOST_STEPS = 2048


@dataclass(frozen=True)
class Hiding:
    """Graph inputs (B, S).

    Attributes:
        mask: 0 hides a place.
        dtype: element type of the mask, an onnx.TensorProto.DataType.
        positions: the position of each token, "" where they are no input.
    """

    mask: str
    dtype: int
    positions: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.mask, self.positions) if self.positions else (self.mask,)


def hiding_of(
    searched: Searched,
    attentions: Sequence[AttentionOperands],
    tokens: ir.Value,
    content: Collection[ir.Value],
    places: Collection[ir.Value],
) -> Hiding | None:
    """The inputs to change, None where this is not proven.

    Args:
        attentions: all of the model.
        content: all that is computed from the tokens (`token_rows.content_of`).
        places: values that only keys and values of attention are computed from.
    """
    findings = {one.verdict.id: one for one in searched.findings if isinstance(one.verdict, Site)}
    used = [findings.get(one.site or "") for one in attentions]
    inputs = {str(one.name): one for one in searched.view.model.graph.inputs if not one.is_initializer()}
    masks = {_mask_of(searched, one, inputs) for one in used}
    mask = masks.pop() if len(masks) == 1 else None
    rest = [one for one in inputs.values() if one is not tokens and one is not mask]
    if mask is None or len(rest) > 1 or _leave(searched, attentions, places):
        return None
    reads = _Reads(searched, content, {node for one in used if one is not None for node in _score_path(one)})
    dtype = searched.facts.element_type(mask)
    if dtype not in _MASKS or not reads.allowed(mask, counted=False):
        return None
    if any(not _are_positions(searched, one) or not reads.allowed(one, counted=True) for one in rest):
        return None
    return Hiding(str(mask.name), int(dtype), *(str(one.name) for one in rest))


def _mask_of(searched: Searched, finding: Finding | None, inputs: Mapping[str, ir.Value]) -> ir.Value | None:
    """The mask of a site that keeps rules 1 and 4."""
    if finding is None or finding.scores is None or finding.anchor is None or finding.hit is None:
        return None
    site = finding.verdict
    assert isinstance(site, Site)
    mask = inputs.get(site.key_mask or "")
    if mask is None or site.where or not site.self_attention:
        return None
    if _repaired(finding.hit):
        return mask
    exact = searched.facts.element_type(finding.anchor.scores) == TensorProto.FLOAT
    return mask if exact and stays_finite(searched.view, finding.scores, finding.anchor, mask) else None


def _repaired(hit: Hit) -> bool:
    """Whether the map gets other numbers where the Softmax gives none."""
    conditions = [operand(node, 0) for node in hit.path if node.op_type == "Where"]
    makers = [one.producer() for one in conditions if one is not None]
    return any(node is not None and node.op_type == "IsNaN" for node in makers)


def _score_path(finding: Finding) -> list[ir.Node]:
    return [*(finding.scores.path if finding.scores else ()), *([finding.anchor.node] if finding.anchor else ())]


def _are_positions(searched: Searched, value: ir.Value) -> bool:
    facts = searched.facts
    return (
        facts.rank(value) == 2 and facts.element_type(value) in _INTEGERS and "position" in (value.name or "").lower()
    )


def _leave(searched: Searched, attentions: Sequence[AttentionOperands], places: Collection[ir.Value]) -> bool:
    """Whether keys or values are outputs of the graph."""
    outputs = set(searched.view.model.graph.outputs)
    ends = {node for one in attentions for node in (one.node, *one.readers)}
    waiting, seen = [*places], set(places)
    while waiting:
        value = waiting.pop()
        if value in outputs or value in searched.view.forward:
            return True
        fresh = [
            made
            for node, _ in value.uses()
            if node not in ends and node.op_type not in _SIZES
            for made in node.outputs
            if made not in seen
        ]
        seen.update(fresh)
        waiting += fresh
    return False


class _Reads:
    """Where what is computed from a mask or from positions meets the content of the tokens.

    Args:
        scores: nodes on the way from the score products to the maps.
    """

    def __init__(self, searched: Searched, content: Collection[ir.Value], scores: Collection[ir.Node]) -> None:
        self._view, self._facts = searched.view, searched.facts
        self._content, self._scores = content, scores
        self._outputs = set(searched.view.model.graph.outputs)

    def allowed(self, start: ir.Value, *, counted: bool) -> bool:
        """Whether it meets it only by the rules.

        Args:
            counted: the value is positions.
        """
        first = (start, "count" if counted else "mask")
        waiting, seen = [first], {first}
        while waiting:
            value, state = waiting.pop()
            if value in self._outputs or self._view.forward.get(value) or len(seen) > _MOST_STEPS:
                return False
            for node, place in value.uses():
                if node.op_type in _SIZES:
                    continue
                after = self._after(node, place, state)
                if after is None:
                    return False
                fresh = [(made, after) for made in node.outputs if after and (made, after) not in seen]
                seen.update(fresh)
                waiting += fresh
        return True

    def _after(self, node: ir.Node, place: int, state: str) -> str | None:
        """What the outputs of a reader are: "" where content begins, None where the reader is not allowed."""
        if self._view.homes[node].where:
            return None
        if not any(value in self._content for value in node.inputs if value is not None):
            return self._computed(node, place, state)
        turned = state == "count" and node.op_type in _TURNS
        return "" if turned or state == "position" or (state == "mask" and node in self._scores) else None

    def _computed(self, node: ir.Node, place: int, state: str) -> str:
        if state == "mask" and node.op_type == "CumSum" and place == 0:
            return "count"
        table = operand(node, 0) if node.op_type == "Gather" and place == 1 else None
        looked_up = table is not None and self._view.is_constant(table) and self._facts.rank(table) == 2
        return "position" if state == "count" and (looked_up or node.op_type in _TURNS) else state
