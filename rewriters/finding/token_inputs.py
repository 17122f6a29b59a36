"""What the inputs of a text model mean, read from its graph.

1. An input holds token ids if it is of integers, and a table of embeddings is looked up with it: directly, or after
   operators that only cast or reshape it. The tokens of the text are those with the largest table.
2. The other inputs of this kind are positions if their name says so, else token types.
3. The padding mask of a site, and every other input whose name says that it is a mask, marks the tokens.
4. What any other input means is not known.
5. A text may be as long as the shortest table of positions: one as wide as that of the tokens, with `LEAST_POSITIONS`
   rows or more, that is looked up with numbers that the graph makes itself, or with positions that are an input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx
import onnx_ir as ir
from onnx import TensorProto

from ..sites import Site
from .facts import Facts
from .skeleton import skeleton
from .sweep import gather_facts
from .view import View, build_view, op_types, operand

__all__ = ["Meaning", "TokenInputs", "token_inputs"]

Meaning = Literal["tokens", "positions", "types", "mask"]

LEAST_POSITIONS = 8
"""Tables of token types are as wide, but shorter."""

_INTEGERS = (TensorProto.INT64, TensorProto.INT32)
_RESHAPING = op_types("Cast Identity Reshape Squeeze Unsqueeze Flatten")
_TABLES = {
    "Gather": {1: 0},
    "GatherBlockQuantized": {1: 0},
    "EmbedLayerNormalization": {0: 2, 1: 4, 8: 3},
    "QEmbedLayerNormalization": {0: 2, 1: 4, 8: 3},
}
"""Operator → which input holds ids → which input holds their table."""


@dataclass(frozen=True)
class TokenInputs:
    """The inputs of a text model, all of shape (samples, tokens).

    Attributes:
        meanings: input → what it holds.
        tokens: the input with the token ids.
        vocabulary: number of rows of the table that they index.
        width: size of an embedding, None if the graph does not show it.
        longest: number of tokens that the table of positions has room for, None without such a table.
        unknown: inputs whose meaning is not known.
    """

    meanings: Mapping[str, Meaning]
    tokens: str
    vocabulary: int
    width: int | None
    longest: int | None
    unknown: tuple[str, ...]


def token_inputs(model: onnx.ModelProto, sites: Sequence[Site]) -> TokenInputs | None:
    """The inputs of a text model; None if the graph shows no input with token ids.

    Args:
        sites: of this model, for their padding masks.
    """
    view = build_view(ir.from_proto(skeleton(model)))
    facts = gather_facts(view)
    inputs = [value for value in view.model.graph.inputs if not value.is_initializer()]
    tables = {
        str(value.name): max(found, key=_rows)
        for value in inputs
        if facts.element_type(value) in _INTEGERS and facts.rank(value) == 2 and (found := _lookups(view, facts, value))
    }
    if not tables:
        return None
    tokens = max(tables, key=lambda name: _rows(tables[name]))
    masks = {site.key_mask for site in sites}
    meanings: dict[str, Meaning] = {}
    unknown = []
    for value in inputs:
        name = str(value.name)
        if name == tokens:
            meanings[name] = "tokens"
        elif name in tables:
            meanings[name] = "positions" if "position" in name.lower() else "types"
        elif facts.rank(value) == 2 and (name in masks or "mask" in name.lower()):
            meanings[name] = "mask"
        else:
            unknown.append(name)
    given = {name for name, meaning in meanings.items() if meaning != "positions"}
    positions = _other_lookups(view, facts, [value for value in inputs if value.name in given])
    width = tables[tokens].columns
    longest = min((one.rows for one in positions if one.columns == width and one.rows >= LEAST_POSITIONS), default=None)
    return TokenInputs(meanings, tokens, tables[tokens].rows, width, longest, tuple(unknown))


@dataclass(frozen=True)
class _Lookup:
    """A node that looks up rows of a constant table."""

    node: ir.Node
    rows: int
    columns: int | None


def _rows(lookup: _Lookup) -> int:
    return lookup.rows


def _lookup(view: View, facts: Facts, node: ir.Node, index: int) -> _Lookup | None:
    """What input `index` of a node looks up, if it holds ids."""
    place = _TABLES.get(node.op_type, {}).get(index)
    table = None if place is None else operand(node, place)
    rows = facts.static(table, 0)
    if table is None or rows is None or not view.is_constant(table) or facts.rank(table) != 2:
        return None
    return _Lookup(node, rows, facts.static(table, 1))


def _other_lookups(view: View, facts: Facts, inputs: Sequence[ir.Value]) -> list[_Lookup]:
    """Look-ups with other ids than these inputs."""
    direct = {one.node for value in inputs for one in _lookups(view, facts, value)}
    found = [
        _lookup(view, facts, node, index)
        for node in view.model.graph
        if node not in direct
        for index in _TABLES.get(node.op_type, {})
    ]
    return [one for one in found if one is not None]


def _lookups(view: View, facts: Facts, ids: ir.Value) -> list[_Lookup]:
    """The look-ups with these ids."""
    found = []
    waiting, seen = [ids], {ids}
    while waiting:
        value = waiting.pop()
        for node, index in value.uses():
            if (lookup := _lookup(view, facts, node, index)) is not None:
                found.append(lookup)
            elif node.op_type in _RESHAPING and index == 0:
                fresh = [value for value in node.outputs if value not in seen]
                seen.update(fresh)
                waiting += fresh
    return found
