"""Hidden states (B, T, D): what an attention makes its keys of.

1. *Tokens* are an input with a row for each token of the request (see `token_rows`).
2. The state of a site is the one value that its keys are projected from (see `self_attention.roots`), or the data input
   of a fused operator with its weights inside.
3. Samples and tokens must be its first two axes, its width must be fixed, and it must lie in the main graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from .attention_operands import AttentionOperands, attention_operands
from .finder import Searched, search
from .self_attention import roots
from .token_index import index_of
from .token_rows import TokenRows, token_candidates
from .view import operand

__all__ = ["HiddenState", "hidden_states"]


@dataclass(frozen=True)
class HiddenState:
    """A value (B, T, D): its name, D, and its onnx.TensorProto.DataType; 0 where that is not known."""

    name: str
    width: int
    dtype: int


def hidden_states(model: onnx.ModelProto) -> dict[str, HiddenState]:
    """Id of a site → its state, all of the same tokens; nothing where the graph does not show them."""
    searched = search(model)
    if searched is None:
        return {}
    candidates = [tokens for tokens, _ in token_candidates(searched.view, searched.facts)]
    rows = TokenRows(searched.view, searched.facts, candidates)
    read = dict(_read(searched))
    for tokens in candidates:
        found = {site: _described(searched, value) for site, value in read.items() if tokens in rows.owners(value)}
        if found:
            return found
    return {}


def _read(searched: Searched) -> Iterator[tuple[str, ir.Value]]:
    facts, view = searched.facts, searched.view
    for one in attention_operands(searched):
        value = None if one.site is None else _source(searched, one)
        if one.site is None or value is None or facts.rank(value) != 3 or facts.static(value, -1) is None:
            continue
        node = value.producer()
        if value in view.model.graph.inputs if node is None else not view.homes[node].where:
            yield one.site, value


def _source(searched: Searched, one: AttentionOperands) -> ir.Value | None:
    """The value that keys are projected from."""
    if one.keys is None:
        return operand(one.node, 0) if one.node.op_type == "Attention" else None
    start = index_of(searched.facts, one.keys, 1 if one.key_axis is None else one.key_axis)
    found = frozenset() if start is None else roots(searched.view, searched.facts, start)[0]
    index = next(iter(found)) if len(found) == 1 else None
    return index.value if index is not None and index.axes == (1,) and not index.picks else None


def _described(searched: Searched, value: ir.Value) -> HiddenState:
    width = searched.facts.static(value, -1)
    assert width is not None
    return HiddenState(str(value.name), width, searched.facts.element_type(value) or 0)
