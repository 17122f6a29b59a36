"""Where keys and values of a decoder can be healed: values with one row for each new token, so that a flagged token
can be given the row of its neighbor.

For each attention whose keys and values are computed from this request's tokens:

1. The place is the nearest value on the way to the keys (and one on the way to the values) through which all content
   passes, see `token_rows`. So a cache that it is written to, or appended to, carries the healed row too.
2. It has the samples on its first axis and the new tokens on its second, and these lead back to the input.
3. Between it and the projections behind it nothing depends on the position: no rotary embedding, no other attention, no
   operand that differs from token to token. Biases, norms and quantization stay on either side.
4. Nothing but keys and values of attention is computed from it: no queries, no further layer. Only where queries, keys
   and values enter an operator as one value, its keys and values are a part of the place.
5. Keys of other tokens (cross attention, as the decoder sees it) are left as they are.
6. One attention that cannot be healed refuses the model: most attacks get through if only a part is healed.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from .attention_operands import AttentionOperands, Packed, attention_operands
from .facts import Facts
from .finder import Searched, search
from .hiding import Hiding, hiding_of
from .self_attention import is_projection
from .token_index import Index, index_of
from .token_positions import position_before
from .token_rows import TokenRows, content_of, token_candidates
from .view import View, attribute, op_types

__all__ = ["HealingPlaces", "Place", "Unhealable", "healing_by_input", "healing_places"]

_SIZES = op_types("Shape Size")
_TOKENS = 1
_MOST_STEPS = 2048


@dataclass(frozen=True)
class Place:
    """A value (B, S, ...) of the main graph whose rows are healed.

    Attributes:
        value: its name.
        packed: only a part of each row is keys and values; None: all of it.
    """

    value: str
    packed: Packed | None = None


@dataclass(frozen=True)
class HealingPlaces:
    """All that has to be healed.

    Attributes:
        tokens: graph input (B, S) or (B, S, E) with the new tokens.
        places: each once, in graph order.
        healed: ids of sites whose keys and values the places are.
        judged: those of them whose columns of the new tokens are known: the last S columns, or with
            GroupQueryAttention those at the end of each sample; and whose rows are the new tokens too, unlike those of
            cross attention. Only these can detect.
        embeddings: values that the tokens are looked up as, or `tokens` itself where it is embeddings.
        types: element types of the main graph's values, as far as they are known.
        sizes: their shapes, with 0 for what is not fixed, as far as ranks are known.
        states: outputs with the hidden state of each new token, (B, S, E), as wide as embeddings. No node reads them.
        hides: the inputs that hide tokens of a call; None where that is not proven.
    """

    tokens: str
    places: tuple[Place, ...]
    healed: tuple[str, ...]
    judged: tuple[str, ...]
    embeddings: tuple[str, ...]
    types: Mapping[str, int]
    sizes: Mapping[str, tuple[int, ...]]
    states: tuple[str, ...] = ()
    hides: Hiding | None = None


@dataclass(frozen=True)
class Unhealable:
    """Why keys and values cannot be healed, in one line."""

    why: str


def healing_places(model: onnx.ModelProto, detecting: Collection[str] = ()) -> HealingPlaces | Unhealable:
    """What has to be healed.

    Args:
        detecting: ids of sites that are to detect; they choose the tokens where a model has several inputs of them.
    """
    reason = Unhealable("the graph does not show an input of tokens that are looked up in a table")
    for found in healing_by_input(model):
        if isinstance(found, HealingPlaces) and set(detecting) <= set(found.healed):
            return found
        if isinstance(found, Unhealable):
            reason = found if reason.why.startswith("the graph does") else reason
    return reason


def healing_by_input(model: onnx.ModelProto) -> Iterator[HealingPlaces | Unhealable]:
    """What has to be healed for each input of tokens, likeliest first: an encoder-decoder has two."""
    searched = search(model)
    if searched is None:
        yield Unhealable("the graph is malformed and cannot be analyzed")
        return
    attentions = list(attention_operands(searched))
    candidates = token_candidates(searched.view, searched.facts)
    rows = TokenRows(searched.view, searched.facts, [value for value, _ in candidates])
    for tokens, embeddings in candidates:
        yield _Search(searched, rows, tokens, embeddings).run(attentions)


class _Refused(Exception):
    """One attention cannot be healed."""


class _Search:
    """The places for one input of tokens."""

    def __init__(self, searched: Searched, rows: TokenRows, tokens: ir.Value, embeddings: Sequence[ir.Value]) -> None:
        self._searched = searched
        self._view: View = searched.view
        self._facts: Facts = searched.facts
        self._rows, self._tokens, self._embeddings = rows, tokens, embeddings
        self._content = content_of(searched.view, embeddings)
        self._order = {node: position for position, node in enumerate(searched.view.homes)}

    def run(self, attentions: Sequence[AttentionOperands]) -> HealingPlaces | Unhealable:
        self._roles = {entry: role for one in attentions for entry, role in one.entries()}
        places: dict[ir.Value, Place] = {}
        healed, judged = [], []
        for one in sorted(attentions, key=lambda one: self._order[one.node]):
            try:
                here = self._of(one)
            except _Refused as refusal:
                return Unhealable(f"{one.name}: {refusal}")
            places.update(here)
            if here and one.site is not None:
                healed.append(one.site)
                judged += [one.site] if self._knows_columns(one, set(here)) and self._has_rows(one) else []
        if not places:
            return Unhealable("no attention has keys that are computed from the request's own tokens")
        order = sorted(places, key=lambda value: self._position(value))
        inside = [value for node in self._view.model.graph for value in node.outputs]
        return HealingPlaces(
            str(self._tokens.name),
            tuple(places[value] for value in order),
            tuple(healed),
            tuple(judged),
            tuple(str(value.name) for value in self._embeddings),
            self._facts.known_types(inside),
            self._facts.known_sizes(inside),
            tuple(str(value.name) for value in self._view.model.graph.outputs if self._is_state(value)),
            hiding_of(self._searched, attentions, self._tokens, self._content, order),
        )

    def _is_state(self, value: ir.Value) -> bool:
        width = self._facts.static(value, -1)
        return (
            value in self._content
            and self._facts.rank(value) == 3
            and not value.uses()
            and width is not None
            and width in {self._facts.static(one, -1) for one in self._embeddings}
            and self._tokens in self._rows.owners(value)
        )

    def _of(self, one: AttentionOperands) -> dict[ir.Value, Place]:
        """The places of one attention; none where its keys are of other tokens."""
        if one.obstacle:
            if any(value in self._content for value in one.node.inputs):
                raise _Refused(one.obstacle)
            return {}
        parts = [value for value in (one.keys, one.values) if value is not None]
        if not any(value in self._content for value in parts):
            return {}
        if self._view.homes[one.node].where:
            raise _Refused("it lies in a branch, a loop or a function")
        places: dict[ir.Value, Place] = {}
        for value in parts:
            found = self._place(value, one)
            if found is None:
                return {}
            places[found] = Place(str(found.name), one.packed)
        return places

    def _place(self, operand_: ir.Value, one: AttentionOperands) -> ir.Value | None:
        """The nearest value that meets the rules; None where its rows are those of other tokens."""
        reason = "all of its keys do not come from one value"
        for value in [operand_] if one.packed else self._gates(operand_):
            node = value.producer()
            if node is None or self._view.homes[node].where:
                reason = "its keys or values are an input of the graph, or made in a branch"
                continue
            owners = self._rows.owners(value)
            if owners and self._tokens not in owners:
                return None
            if not owners:
                reason = f"the graph does not show that the rows of {value.name} are the new tokens"
            elif (varying := position_before(self._view, self._facts, self._rows, self._content, value)) is not None:
                reason = f"what makes {value.name} reads {varying}, which may depend on positions"
            elif (reader := self._other_reader(value, one)) is not None:
                reason = f"{reader} reads {value.name}, not only keys and values"
            else:
                return value
        raise _Refused(reason)

    def _gates(self, start: ir.Value) -> Iterator[ir.Value]:
        """Values through which all content on the way to `start` passes, nearest first, up to the projection."""
        waiting = [(-self._position(start), 0, start)]
        seen, count = {start}, 0
        while waiting and len(seen) < _MOST_STEPS:
            _, _, value = heapq.heappop(waiting)
            if not waiting:
                yield value
            node = value.producer()
            if node is None or is_projection(self._view, node) or value in self._view.backward:
                return
            for source in self._followed(node):
                if source not in seen:
                    seen.add(source)
                    count += 1
                    heapq.heappush(waiting, (-self._position(source), count, source))

    def _followed(self, node: ir.Node) -> list[ir.Value]:
        """Inputs with content, but for numbers that are the same for all tokens, such as a scale."""
        return [
            value
            for value in node.inputs
            if value is not None and value in self._content and node.op_type not in _SIZES and not self._single(value)
        ]

    def _single(self, value: ir.Value) -> bool:
        shape = self._facts.shape(value)
        return shape is not None and all(dim == 1 for dim in shape)

    def _other_reader(self, start: ir.Value, one: AttentionOperands) -> str | None:
        """A node that reads a value, or what is made of it, as something else than keys and values of attention."""
        waiting, seen = [start], {start}
        while waiting:
            value = waiting.pop()
            after = [*self._view.forward.get(value, ())]
            for node, place in value.uses():
                role = self._roles.get((node, place))
                if role == "keys" or (role == "packed" and node is one.node) or node.op_type in _SIZES:
                    continue
                if role or is_projection(self._view, node) or len(seen) > _MOST_STEPS:
                    return node.name or node.op_type
                after += node.outputs
            fresh = [further for further in after if further not in seen]
            seen.update(fresh)
            waiting += fresh
        return None

    def _position(self, value: ir.Value) -> int:
        node = value.producer()
        return -1 if node is None else self._order[node]

    def _knows_columns(self, one: AttentionOperands, places: Collection[ir.Value]) -> bool:
        """Whether the new tokens are the last columns: they come last in every Concat, and nothing cuts them off."""
        if one.node.op_type == "GroupQueryAttention" or one.packed is not None:
            return True
        assert one.keys is not None
        rank = self._facts.rank(one.keys)
        start = None if rank is None or one.key_axis is None else index_of(self._facts, one.keys, one.key_axis)
        waiting, seen = [] if start is None else [start], set[Index]()
        while waiting and len(seen) < _MOST_STEPS:
            index = waiting.pop()
            seen.add(index)
            if index.value in places:
                return index.axes == (_TOKENS,)
            node = index.value.producer()
            if node is not None and node.op_type == "Concat" and self._joins(node, index):
                last = index_of(self._facts, node.inputs[-1], index.axes[0])
                behind = [] if last is None else [last]
            else:
                behind = self._rows.behind(index)
            waiting += [further for further in behind if further not in seen and further.value in self._content]
        return False

    def _has_rows(self, one: AttentionOperands) -> bool:
        """Whether the query rows are the new tokens."""
        if one.packed is not None or one.node.op_type == "GroupQueryAttention":
            return True
        gates = () if one.queries is None else self._gates(one.queries)
        return any(self._tokens in self._rows.owners(value) for value in gates)

    def _joins(self, node: ir.Node, index: Index) -> bool:
        """Whether a Concat is along an index."""
        rank = self._facts.rank(index.value) or 1
        return attribute(node, "axis", 0) % rank in index.axes
