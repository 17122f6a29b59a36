"""Turns what the search found at each node into a `Trace` for people.

Nothing is searched again: the operators of a trace are those of the walks. Only the other inputs of these operators are
added, and the graph inputs that they are computed from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from ..model.bodies import body_at
from ..sites import Rejection, Site, Where
from ..traces import Edge, End, Part, Shape, Side, Step, Trace, Traces
from .backward import Scores, arrival
from .einsum import equation_of
from .facts import Facts
from .forward import Hit
from .fused import FusedRead
from .naming import scope_of
from .products import Ended, Refused, product_operands
from .roles import role_of
from .site_builder import node_name
from .softmax_match import Anchor
from .view import View

__all__ = ["Finding", "Tracer"]

_SIZES = ("Shape", "Size")
_NORMALIZERS = {"Sub": "maximum", "Div": "sum", "Mul": "1 / sum"}
"""What the operators of a decomposed Softmax read besides the scores."""


@dataclass(frozen=True)
class Finding:
    """What the search knew when it decided about one node.

    Attributes:
        node: the Softmax (the last operator of a decomposed one) or the fused operator.
        anchor, hit, scores: what the walks found, as far as they went; `hit` without `scores`: the scores did not
            qualify.
        fused: set for a fused operator that can be lowered.
        refusals, reported: all reasons for a rejection, and the reported one.
    """

    node: ir.Node
    verdict: Site | Rejection
    anchor: Anchor | None = None
    hit: Hit | None = None
    scores: Scores | None = None
    fused: FusedRead | None = None
    refusals: tuple[Refused, ...] = ()
    reported: Refused | None = None


class Tracer:
    """Makes the traces of one model.

    Args:
        view, facts: the indexed model.
        protos: node → the node as the model file has it.
        model: the model that was searched.
    """

    def __init__(
        self, view: View, facts: Facts, protos: Mapping[ir.Node, onnx.NodeProto], model: onnx.ModelProto
    ) -> None:
        self._view = view
        self._facts = facts
        self._protos = protos
        self._model = model
        self._order = {node: position for position, node in enumerate(view.homes)}
        self._inputs = _graph_inputs_behind(view)

    def trace(self, findings: Iterable[Finding]) -> Traces:
        scopes = (
            scope_of(proto.name, {p.key: p.value for p in proto.metadata_props}) for proto in self._protos.values()
        )
        return Traces(tuple(self._trace(finding) for finding in findings), tuple(scopes))

    def _trace(self, finding: Finding) -> Trace:
        node, anchor = finding.node, finding.anchor
        return Trace(
            verdict=finding.verdict,
            softmax=node_name(self._protos[node]),
            op_type=node.op_type,
            output=str(node.outputs[0].name),
            body=self._body(node),
            axis=-1 if finding.fused else anchor.axis if anchor else None,
            position=self._order[node],
            source=None if finding.scores or anchor is None else self._edge(anchor.scores),
            steps=self._steps(finding),
            ends=tuple(
                self._end(refusal, finding)
                for refusal in finding.refusals
                if anchor is not None and isinstance(refusal, Ended)
            ),
        )

    def _steps(self, finding: Finding) -> tuple[Step, ...]:
        anchor, hit, scores = finding.anchor, finding.hit, finding.scores
        if anchor is None:
            part: Part = "softmax" if finding.fused is None and "Softmax" in finding.node.op_type else "fused"
            return (
                self._step(part, finding.node, None, {} if finding.fused is None else {finding.fused.values: "values"}),
            )
        nodes: list[tuple[Part, ir.Node]] = [("softmax", node) for node in _inside(anchor)]
        roles: dict[ir.Value, str] = {}
        came: ir.Value | None = anchor.scores
        if scores is not None:
            nodes = [("scores", scores.node), *(("before", node) for node in scores.path), *nodes]
            roles |= self._factors(anchor, scores)
            came = None
        if hit is not None:
            nodes += [*(("after", node) for node in hit.path), ("product", hit.product.node)]
            roles[hit.product.values] = "values"
        return self._walk(nodes, came, roles)

    def _walk(
        self, nodes: Sequence[tuple[Part, ir.Node]], came: ir.Value | None, roles: Mapping[ir.Value, str]
    ) -> tuple[Step, ...]:
        steps = []
        for part, node in nodes:
            steps.append(self._step(part, node, came, roles))
            came = node.outputs[0]
        return tuple(steps)

    def _step(self, part: Part, node: ir.Node, came: ir.Value | None, roles: Mapping[ir.Value, str]) -> Step:
        """One step; `came` is the input on the chain, which is not listed as a side input."""
        along = -1 if came is None else self._view.position(node, came)
        sides = []
        for index, value in enumerate(node.inputs):
            if index == along or value is None:
                continue
            role = roles.get(value) if part in ("scores", "product", "fused") else None
            if part == "softmax" and node.op_type in _NORMALIZERS:
                role = _NORMALIZERS[node.op_type]
            sides.append(Side(role or role_of(node, index, self._view.homes[node].opset), index, self._edge(value)))
        return Step(
            part,
            node_name(self._protos[node]),
            node.op_type,
            self._body(node),
            self._edge(node.outputs[0]),
            tuple(sides),
        )

    def _end(self, refusal: Ended, finding: Finding) -> End:
        anchor = finding.anchor
        assert anchor is not None
        backward = finding.hit is not None
        if backward:
            started = None if refusal.node is None else refusal.node.outputs[0]
            steps = self._walk([("before", node) for node in refusal.path], started, {})
        else:
            steps = self._walk([("after", node) for node in refusal.path], anchor.output, {})
        node = refusal.node
        return End(
            direction="backward" if backward else "forward",
            steps=steps,
            op_type="" if node is None else node.op_type,
            node="" if node is None else node_name(self._protos[node]),
            code=refusal.code,
            detail=refusal.detail,
            reported=refusal is finding.reported,
        )

    def _factors(self, anchor: Anchor, scores: Scores) -> dict[ir.Value, str]:
        """Which factor of the score product holds queries and which keys: the normalized axis comes from the keys."""
        factors = product_operands(scores.node)
        if scores.additive or factors is None or factors.first is None or factors.second is None:
            computed = {False: "queries + keys", True: "score vector"}
            parts = () if factors is None else (factors.first, factors.second)
            return {value: computed[self._view.is_constant(value)] for value in parts if value is not None}
        keys = self._key_factor(anchor, scores)
        roles = {factors.first: "factor", factors.second: "factor"}
        if keys is not None:
            names = ("keys", "queries") if keys == 0 else ("queries", "keys")
            roles = dict(zip((factors.first, factors.second), names, strict=True))
        return {value: f"learned {role}" if self._view.is_constant(value) else role for value, role in roles.items()}

    def _key_factor(self, anchor: Anchor, scores: Scores) -> int | None:
        rank = self._facts.rank(scores.node.outputs[0]) or 2
        for start in range(-1, -rank - 1, -1):
            if arrival(self._view, self._facts, scores.node, scores.path, start) == anchor.axis:
                if scores.node.op_type != "Einsum":
                    return {-1: 1, -2: 0}.get(start)
                return _einsum_factor(equation_of(scores.node), start)
        return None

    def _edge(self, value: ir.Value) -> Edge:
        node = value.producer()
        inputs = self._inputs.get(value, frozenset())
        if self._view.is_constant(value):
            origin = "constant"
        elif node is not None:
            origin = node.op_type
        else:
            origin = "graph input" if value.name in inputs else "body input"
        return Edge(
            str(value.name),
            _known(self._facts.shape(value)),
            self._facts.element_type(value),
            origin,
            tuple(sorted(inputs)),
        )

    def _body(self, node: ir.Node) -> str:
        return _body_name(self._model, self._view.homes[node].where)


def _inside(anchor: Anchor) -> list[ir.Node]:
    """The operators of a normalization, found from the last one back by the recorded operator types."""
    nodes = [anchor.node]
    for op_type in reversed(anchor.inner[:-1]):
        makers = (None if value is None else value.producer() for value in nodes[0].inputs)
        maker = next((node for node in makers if node is not None and node.op_type == op_type), None)
        if maker is None:
            break
        nodes.insert(0, maker)
    return nodes


def _graph_inputs_behind(view: View) -> dict[ir.Value, frozenset[str]]:
    """Value → names of the graph inputs it is computed from, in one pass."""
    found = {value: frozenset([str(value.name)]) for value in view.model.graph.inputs if not value.is_initializer()}

    def behind(value: ir.Value | None) -> frozenset[str]:
        if value is None:
            return frozenset()
        same = [found[source] for source in view.backward.get(value, ()) if source in found]
        return found.get(value, frozenset()).union(*same)

    for node in view.homes:
        sources = frozenset[str]() if node.op_type in _SIZES else frozenset[str]().union(*map(behind, node.inputs))
        for output in node.outputs:
            found[output] = sources | behind(output)
    # functions come after the main graph, when their arguments are known
    for function in view.model.functions.values():
        found |= {parameter: behind(parameter) for parameter in function.inputs}
        for node in function:
            found |= dict.fromkeys(node.outputs, frozenset[str]().union(*map(behind, node.inputs)))
    return found


def _einsum_factor(equation: str, axis: int) -> int | None:
    """Which operand has the letter at an axis of the output; None where both or neither have it."""
    left, _, output = equation.partition("->")
    letters = output.replace(".", "")
    holders = [index for index, term in enumerate(left.split(",")) if -axis <= len(letters) and letters[axis] in term]
    return holders[0] if len(holders) == 1 else None


def _known(shape: tuple[int | str, ...] | None) -> Shape | None:
    """The shape without generated dimension names, which mean nothing to people."""
    if shape is None:
        return None
    return tuple(None if isinstance(dim, str) and dim.startswith(("?", "unk__")) else dim for dim in shape)


def _body_name(model: onnx.ModelProto, where: Where) -> str:
    names = []
    for depth, (index, step) in enumerate(where):
        if step == "function":
            function = model.functions[index]
            names.append(f"function {function.domain}::{function.name}")
        else:
            node = body_at(model, where[:depth]).node[index]
            names.append(f"{step} of {node.op_type} {node_name(node)}")
    return " in ".join(reversed(names))
