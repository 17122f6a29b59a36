"""The whole model as one list of steps, each a node that makes values from values.

1. A call of a local function becomes the function's own steps, with values of that call.
2. The body of an If, Loop or Scan becomes steps of the list. What leaves it is made by a step "If" or "Loop" that reads
   what decides (`Step.decides`) and what it chooses from.
3. A value that a Loop carries is read back from the end of its body (`Step.back`), so the list has no cycle.
4. Steps are in an order in which every value is made before it is read, but for 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import onnx

from rewriters.sites import Where

from ..finding import label

__all__ = ["MOST_STEPS", "Flow", "Step", "TooDeep", "flatten"]

MOST_STEPS = 200_000
"""With all calls of functions written out."""
_DEEPEST = 64

Home = tuple[Where, int]
"""Body and index of a node."""


class TooDeep(Exception):
    """The model cannot be written out; the message says why."""


@dataclass(frozen=True)
class Step:
    """One node, or what an If, Loop or Scan chooses.

    Attributes:
        kind: operator type; "If" and "Loop" choose among `inputs` by `decides`; "Unknown" for a foreign operator.
        inputs, outputs: numbers of values; -1 for one left out.
        decides: values that decide which input is taken, or how often a body runs.
        back: values read from the end of a Loop's body.
        node, home: what it was made from.
        path: subgraph path, as in `Finding.nodes`.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    node: onnx.NodeProto
    home: Home
    path: str
    decides: tuple[int, ...] = ()
    back: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """As `Finding.nodes` wants it."""
        return f"{self.path}/{label(self.node)}".lstrip("/")


@dataclass
class Flow:
    """The list.

    Attributes:
        inputs, outputs: name → value, of the main graph; inputs without initializers' defaults.
        tensors: value → the initializer that it is, in any body.
        infos: value → what the graph declares of it; inputs and outputs of the main graph.
        count: number of values.
        loops: whether a value is read back.
    """

    steps: list[Step] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    tensors: dict[int, onnx.TensorProto | onnx.SparseTensorProto] = field(default_factory=dict)
    infos: dict[int, onnx.ValueInfoProto] = field(default_factory=dict)
    count: int = 0
    loops: bool = False

    def new(self) -> int:
        self.count += 1
        return self.count - 1


_Scope = dict[str, int]


class _Writer:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.flow = Flow()
        self._sizes: dict[tuple[str, str, str], int] = {}
        self._functions = {
            (function.domain, function.name, function.overload): (index, function)
            for index, function in enumerate(model.functions)
        }

    def size(self, nodes: Iterable[onnx.NodeProto], depth: int = 0) -> int:
        """Number of steps with all calls written out; raises TooDeep for more than are followed."""
        if depth > _DEEPEST:
            raise TooDeep(f"bodies and functions are nested more than {_DEEPEST} deep")
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type, node.overload)
            if key in self._functions and key not in self._sizes:
                self._sizes[key] = self.size(self._functions[key][1].node, depth + 1)
            total += 1 + self._sizes.get(key, 0)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    total += self.size(attribute.g.node, depth + 1)
        if total > MOST_STEPS:
            raise TooDeep(f"with all calls written out the model has more than {MOST_STEPS} nodes")
        return total

    def main(self, graph: onnx.GraphProto) -> Flow:
        flow = self.flow
        scope: _Scope = {}
        self._declare(graph, scope)
        weights = set(scope)
        for value in graph.input:
            if value.name not in weights:
                scope[value.name] = flow.inputs[value.name] = flow.new()
                flow.infos[scope[value.name]] = value
        self._body(graph.node, scope, (), "", 0)
        for value in graph.output:
            flow.outputs[value.name] = _read(scope, value.name)
            flow.infos.setdefault(flow.outputs[value.name], value)
        return flow

    def _declare(self, graph: onnx.GraphProto, scope: _Scope) -> None:
        for tensor in graph.initializer:
            scope[tensor.name] = self.flow.new()
            self.flow.tensors[scope[tensor.name]] = tensor
        for sparse in graph.sparse_initializer:
            scope[sparse.values.name] = self.flow.new()
            self.flow.tensors[scope[sparse.values.name]] = sparse

    def _body(self, nodes: Sequence[onnx.NodeProto], scope: _Scope, where: Where, path: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise TooDeep(f"bodies and functions are nested more than {_DEEPEST} deep")
        for index, node in _ordered(nodes):
            home = (where, index)
            called = self._functions.get((node.domain, node.op_type, node.overload))
            if called is not None:
                self._call(node, called, scope, path, depth)
            elif node.op_type == "If" and node.domain in ("", "ai.onnx"):
                self._branch(node, scope, home, path, depth)
            elif node.op_type in ("Loop", "Scan") and node.domain in ("", "ai.onnx"):
                self._repeat(node, scope, home, path, depth)
            else:
                inner = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
                inputs = tuple(_read(scope, name) for name in node.input)
                captured = tuple(scope[name] for graph in inner for name in _captured(graph, 0) if name in scope)
                self._add(node.op_type, (*inputs, *captured), self._make(node, scope), node, home, path)

    def _make(self, node: onnx.NodeProto, scope: _Scope) -> tuple[int, ...]:
        made = []
        for name in node.output:
            made.append(self.flow.new() if name else -1)
            if name:
                scope[name] = made[-1]
        return tuple(made)

    def _add(
        self,
        kind: str,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        node: onnx.NodeProto,
        home: Home,
        path: str,
        decides: tuple[int, ...] = (),
        back: tuple[int, ...] = (),
    ) -> None:
        self.flow.steps.append(Step(kind, inputs, outputs, node, home, path, decides, back))

    def _call(
        self, node: onnx.NodeProto, called: tuple[int, onnx.FunctionProto], scope: _Scope, path: str, depth: int
    ) -> None:
        index, function = called
        inner = {name: _read(scope, value) for name, value in zip(function.input, node.input, strict=False)}
        inside = f"{path}/{function.name}".lstrip("/")
        self._body(function.node, inner, ((index, "function"),), inside, depth + 1)
        for name, inside_name in zip(node.output, function.output, strict=False):
            if name:
                scope[name] = _read(inner, inside_name)

    def _graph(
        self, graph: onnx.GraphProto, scope: _Scope, home: Home, attribute: str, path: str, depth: int
    ) -> tuple[int, ...]:
        """Write out a body whose inputs are in the scope already; its results."""
        self._declare(graph, scope)
        self._body(graph.node, scope, (*home[0], (home[1], attribute)), path, depth + 1)
        return tuple(_read(scope, value.name) for value in graph.output)

    def _branch(self, node: onnx.NodeProto, scope: _Scope, home: Home, path: str, depth: int) -> None:
        results = [
            self._graph(a.g, dict(scope), home, a.name, f"{path}/{label(node)}/{a.name}".lstrip("/"), depth)
            for a in node.attribute
            if a.type == onnx.AttributeProto.GRAPH
        ]
        decides = tuple(_read(scope, name) for name in node.input[:1])
        for position, made in enumerate(self._make(node, scope)):
            choices = tuple(result[position] for result in results if position < len(result))
            self._add("If", choices, (made,), node, home, path, decides)

    def _repeat(self, node: onnx.NodeProto, scope: _Scope, home: Home, path: str, depth: int) -> None:
        body = next((a.g for a in node.attribute if a.name == "body" and a.type == onnx.AttributeProto.GRAPH), None)
        if body is None:
            raise TooDeep(f"the {node.op_type} node {node.name!r} has no body")
        loop = node.op_type == "Loop"
        given = tuple(_read(scope, name) for name in node.input)
        decides, first = (given[:2], given[2:]) if loop else ((), given)
        inner, flow = dict(scope), self.flow
        scanned = next((a.i for a in node.attribute if a.name == "num_scan_inputs"), 0)
        carried = len(first) - (0 if loop else scanned)
        parameters = [value.name for value in body.input]
        offset = 2 if loop else 0
        entered = []
        for position, name in enumerate(parameters):
            inner[name] = flow.new()
            if position >= offset:
                entered.append((position - offset, inner[name]))
        begin = len(flow.steps)
        if loop and len(parameters) > 1:
            self._add("Identity", given[1:2], (inner[parameters[1]],), node, home, path)
            self._add("Range", given[:1], (inner[parameters[0]],), node, home, path)
        results = self._graph(body, inner, home, "body", f"{path}/{label(node)}/body".lstrip("/"), depth)
        goes_on, results = (results[:1], results[1:]) if loop else ((), results)
        entries = []
        for position, value in entered:
            back = (results[position],) if position < min(carried, len(results)) else ()
            entries.append(Step("LoopIn", first[position : position + 1], (value,), node, home, path, back=back))
        flow.steps[begin:begin] = entries
        flow.loops = True
        for position, made in enumerate(self._make(node, scope)):
            ends = results[position : position + 1]
            starts = first[position : position + 1] if position < carried else ()
            self._add("Loop", (*starts, *ends), (made,), node, home, path, (*decides, *goes_on))


def _read(scope: _Scope, name: str) -> int:
    return scope.get(name, -1) if name else -1


def _ordered(nodes: Sequence[onnx.NodeProto]) -> list[tuple[int, onnx.NodeProto]]:
    """Makers before readers; onnxruntime sorts as well. Raises TooDeep for a cycle."""
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    reads: list[set[str]] = []
    sorted_already = True
    for index, node in enumerate(nodes):
        names = set(node.input)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                names |= _captured(attribute.g, 0)
        reads.append({name for name in names if name in makers})
        sorted_already &= all(makers[name] < index for name in reads[-1])
    if sorted_already:
        return list(enumerate(nodes))
    waiting = [len({makers[name] for name in names}) for names in reads]
    readers: dict[int, list[int]] = {}
    for index, names in enumerate(reads):
        for maker in {makers[name] for name in names}:
            readers.setdefault(maker, []).append(index)
    ready = [index for index, count in enumerate(waiting) if count == 0]
    order = []
    while ready:
        index = ready.pop()
        order.append((index, nodes[index]))
        for reader in readers.get(index, ()):
            waiting[reader] -= 1
            if waiting[reader] == 0:
                ready.append(reader)
    if len(order) < len(nodes):
        raise TooDeep("its nodes form a cycle")
    return order


def _captured(graph: onnx.GraphProto, depth: int) -> set[str]:
    """Names that a body reads and does not make."""
    if depth > _DEEPEST:
        raise TooDeep(f"bodies are nested more than {_DEEPEST} deep")
    names = {value.name for value in graph.output}
    for node in graph.node:
        names |= set(node.input)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                names |= _captured(attribute.g, depth + 1)
    names -= {name for node in graph.node for name in node.output}
    return names - {value.name for value in (*graph.input, *graph.initializer)}


def flatten(model: onnx.ModelProto) -> Flow:
    """Write out a model. Raises TooDeep where that cannot be done."""
    writer = _Writer(model)
    writer.size(model.graph.node)
    return writer.main(model.graph)
