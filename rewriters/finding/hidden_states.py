"""Hidden states (B, T, D): what an attention makes its queries, keys and values of, and what the last one leads to.

1. *Tokens* are an input with a row for each token of the request (see `token_rows`).
2. The state of a site is the one value that its keys are projected from (see `self_attention.roots`), or the data input
   of a fused operator with its weights inside. Samples and tokens must be its first two axes, its width must be fixed,
   and it must lie in the main graph.
3. The last state is the last value of the main graph behind the last such site with the same three axes, which is what
   a pooler or a class head reads. Its id is `LAST`.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import onnx_ir as ir

from .attention_operands import AttentionOperands, attention_operands
from .finder import Searched, search
from .self_attention import roots
from .token_index import index_of
from .token_rows import TokenRows, content_of, token_candidates
from .view import operand

__all__ = ["LAST", "HiddenState", "hidden_states"]

LAST = ""


@dataclass(frozen=True)
class HiddenState:
    """A value (B, T, D): its name, D, and its onnx.TensorProto.DataType; 0 where that is not known."""

    name: str
    width: int
    dtype: int


def hidden_states(model: onnx.ModelProto) -> dict[str, HiddenState]:
    """Id of a site, or `LAST` → its state, in graph order; nothing where the graph does not show them."""
    searched = search(model)
    if searched is None:
        return {}
    candidates = token_candidates(searched.view, searched.facts)
    rows = TokenRows(searched.view, searched.facts, [tokens for tokens, _ in candidates])
    attentions = [one for one in attention_operands(searched) if one.site is not None]
    for tokens, embeddings in candidates:
        content = content_of(searched.view, embeddings)

        def state(value: ir.Value | None, tokens: ir.Value = tokens, content: set[ir.Value] = content) -> bool:
            facts = searched.facts
            if value not in content or facts.rank(value) != 3 or facts.static(value, -1) is None:
                return False
            node = value.producer()
            inside = value in searched.view.model.graph.inputs if node is None else not searched.view.homes[node].where
            return inside and tokens in rows.owners(value)

        read = {one: value for one in attentions if state(value := _read(searched, one))}
        if not read:
            continue
        found = {str(one.site): value for one, value in read.items() if value is not None}
        order = {node: position for position, node in enumerate(searched.view.model.graph)}
        behind = max(order.get(one.node, -1) for one in read)
        width = searched.facts.static(next(iter(found.values())), -1)
        later = (value for node, place in order.items() if place > behind for value in node.outputs)
        last = [one for one in later if searched.facts.static(one, -1) == width and state(one)]
        found |= {LAST: last[-1]} if last else {}
        return {name: _described(searched, value) for name, value in found.items()}
    return {}


def _read(searched: Searched, one: AttentionOperands) -> ir.Value | None:
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
