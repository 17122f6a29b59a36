"""A read-only index over all bodies of a model: where nodes are, how values cross scopes, what is constant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from ..sites import Where

__all__ = ["Home", "View", "attribute", "build_view", "is_standard", "op_types", "operand"]

_STANDARD_DOMAINS = ("", "ai.onnx")
_TYPES: dict[str, ir.AttributeType] = {
    **dict.fromkeys(
        [
            *(
                "N",
                "allowzero",
                "axis",
                "do_rotary",
                "end",
                "keepdims",
                "kv_num_heads",
                "num_heads",
                "past_present_share_buffer",
            ),
            *(
                "q_num_heads",
                "sliding_window_cache",
                "start",
                "to",
                "transA",
                "transB",
                "transBatchA",
                "transBatchB",
                "value_int",
            ),
        ],
        ir.AttributeType.INT,
    ),
    **dict.fromkeys(
        ["axes", "ends", "pads", "perm", "qkv_hidden_sizes", "shape", "split", "starts", "value_ints"],
        ir.AttributeType.INTS,
    ),
    **dict.fromkeys(["alpha", "scale", "value_float"], ir.AttributeType.FLOAT),
    "equation": ir.AttributeType.STRING,
    "value": ir.AttributeType.TENSOR,
}
_RANDOM = ("Random", "Bernoulli", "Multinomial")


@dataclass(frozen=True)
class Home:
    """Where a node is: the path of its body, its index there, and the opset of the default domain in it."""

    where: Where
    index: int
    opset: int


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """Value of an attribute; `default` when it is absent, refers to an attribute of the function, or has a wrong type.

    Types are checked here because the onnx checker knows only those of standard operators.
    """
    found = node.attributes.get(name)
    if found is None or found.value is None or _TYPES.get(name, found.type) != found.type:
        return default
    return found.value


def op_types(names: str) -> frozenset[str]:
    """A set of operator types, written as one string with spaces."""
    return frozenset(names.split())


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """Input `index`, None when it is missing or left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def is_standard(node: ir.Node) -> bool:
    """Whether an operator belongs to the default domain."""
    return node.domain in _STANDARD_DOMAINS


class View:
    """The index described above; every look-up is a dictionary access.

    Attributes:
        model: the model as onnx_ir reads it.
        homes: node → its home, in execution order: subgraphs before the node that owns them, functions after the main
            graph.
        forward: value → the same value under other names (branch output → If output, argument → parameter, ...).
        backward: the inverse of `forward`.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.homes: dict[ir.Node, Home] = {}
        self.forward: dict[ir.Value, list[ir.Value]] = {}
        self.backward: dict[ir.Value, list[ir.Value]] = {}
        self.calls: dict[ir.Function, list[ir.Node]] = {}
        self._constants: set[ir.Value] = set()
        self._function_indices = {key: index for index, key in enumerate(model.functions)}

    def function(self, node: ir.Node) -> ir.Function | None:
        """The local function that a node calls."""
        return self.model.functions.get(node.op_identifier())

    def is_constant(self, value: ir.Value | None) -> bool:
        """Whether a value is an initializer, a constant, or computed only from these."""
        return value is None or value in self._constants

    def position(self, node: ir.Node, came: ir.Value) -> int:
        """The index of the input that a value enters, also across borders of bodies."""
        reached, waiting = {came}, [came]
        while waiting:
            for same in self.forward.get(waiting.pop(), ()):
                if same not in reached:
                    reached.add(same)
                    waiting.append(same)
        return next((index for index, value in enumerate(node.inputs) if value in reached), 0)

    def rank_of_function(self, function: ir.Function) -> int:
        return self._function_indices[function.identifier()]

    def link(self, source: ir.Value | None, target: ir.Value | None) -> None:
        if source is not None and target is not None:
            self.forward.setdefault(source, []).append(target)
            self.backward.setdefault(target, []).append(source)

    def mark_constants(self, function: ir.Function | None = None) -> None:
        """One pass over the main graph (None), or over a function whose callers were done before."""
        if function is None:
            self._sweep(self.model.graph)
            return
        calls = self.calls.get(function, [])
        for index, parameter in enumerate(function.inputs):
            if calls and all(self.is_constant(operand(call, index)) for call in calls):
                self._constants.add(parameter)
        self._sweep(function)

    def _sweep(self, body: ir.Graph | ir.Function) -> None:
        if isinstance(body, ir.Graph):
            self._constants.update(body.initializers.values())
        for node in body:
            inner = list(_subgraphs(node))
            for _, graph in inner:
                self._sweep(graph)
            random = node.op_type.startswith(_RANDOM)
            sourceless = not node.inputs and node.op_type != "Constant"
            if not inner and not random and not sourceless and all(self.is_constant(value) for value in node.inputs):
                self._constants.update(node.outputs)


def build_view(model: ir.Model) -> View:
    """Index a model in one pass over its nodes."""
    view = View(model)
    _index(view, model.graph, (), _opset(model.graph.opset_imports))
    for index, function in enumerate(model.functions.values()):
        _index(view, function, ((index, "function"),), _opset(function.opset_imports))
    view.mark_constants()
    for function in _callers_first(view):
        view.mark_constants(function)
    return view


def _opset(imports: Any) -> int:
    return int(next((imports[domain] for domain in _STANDARD_DOMAINS if domain in imports), 1))


def _subgraphs(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    for name, found in node.attributes.items():
        if found.type == ir.AttributeType.GRAPH and isinstance(found.value, ir.Graph):
            yield name, found.value


def _index(view: View, body: ir.Graph | ir.Function, where: Where, opset: int) -> None:
    for index, node in enumerate(body):
        for name, graph in _subgraphs(node):
            _index(view, graph, (*where, (index, name)), opset)
            if node.op_type == "If" and is_standard(node):
                _link_all(view, graph.outputs, node.outputs)
        function = view.function(node)
        if function is not None:
            view.calls.setdefault(function, []).append(node)
            _link_all(view, node.inputs, function.inputs)
            _link_all(view, function.outputs, node.outputs)
        view.homes[node] = Home(where, index, opset)


def _link_all(view: View, sources: Sequence[ir.Value | None], targets: Sequence[ir.Value | None]) -> None:
    for source, target in zip(sources, targets, strict=False):
        view.link(source, target)


def _callers_first(view: View) -> list[ir.Function]:
    """Functions in an order in which every caller comes before the functions that it calls."""
    homes = {
        function: {view.homes[call].where[:1] for call in view.calls.get(function, [])}
        for function in view.model.functions.values()
    }
    ordered: list[ir.Function] = []
    placed: set[Where] = {()}
    waiting = list(homes)
    while waiting:
        ready = [f for f in waiting if all(_is_main(w) or w in placed for w in homes[f])] or waiting
        for function in ready:
            ordered.append(function)
            placed.add(((view.rank_of_function(function), "function"),))
        waiting = [f for f in waiting if f not in ready]
    return ordered


def _is_main(where: Where) -> bool:
    return not where or where[0][1] != "function"
