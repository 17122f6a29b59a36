"""What the finder saw on its way: the chain of operators of every site and every rejected Softmax, as plain data for
those who show it.

`finder.trace_sites` makes these; they come from the very walks that decided, so a picture of a trace is a picture of
the decision.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from .sites import Rejection, Site

__all__ = ["Edge", "End", "Lowered", "Part", "Shape", "Side", "Step", "Trace", "Traces"]

Shape = tuple[int | str | None, ...]

_NUMBER_BY_NUMBER = ("Clip", "HardSigmoid", "Max", "Relu", "Sigmoid", "Softplus")

Part = Literal["scores", "before", "softmax", "after", "product", "fused"]


@dataclass(frozen=True)
class Edge:
    """A value of the graph.

    Attributes:
        name: value name.
        shape: sizes, names of sizes, None where a size is unknown; None when even the rank is.
        dtype: an onnx.TensorProto.DataType, None where inference could not tell.
        origin: type of the operator that makes it, or "graph input", "body input", "constant".
        inputs: graph inputs it is computed from, sizes (Shape) left out; empty for constants.
    """

    name: str
    shape: Shape | None
    dtype: int | None
    origin: str
    inputs: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        shape = None if self.shape is None else list(self.shape)
        return {
            "name": self.name,
            "shape": shape,
            "dtype": self.dtype,
            "origin": self.origin,
            "inputs": list(self.inputs),
        }


@dataclass(frozen=True)
class Side:
    """What flows into a step from outside the chain: its role ("queries", "keys", "values", "mask", "scale", ...) and
    input position.
    """

    role: str
    operand: int
    edge: Edge

    def to_json(self) -> dict[str, Any]:
        return {"role": self.role, "operand": self.operand, **self.edge.to_json()}


@dataclass(frozen=True)
class Step:
    """One operator of a chain.

    Attributes:
        part: where it stands: the score product, before the Softmax, the Softmax (several operators when decomposed),
            after it, the P·V product; "fused" for an operator that is all of these.
        node: node name (the first output's name where it has none).
        body: the body it lies in, "" for the main graph.
        output: the value that goes on.
        sides: other inputs, in input order.
    """

    part: Part
    node: str
    op_type: str
    body: str
    output: Edge
    sides: tuple[Side, ...] = ()

    def to_json(self) -> dict[str, Any]:
        facts = {key: getattr(self, key) for key in ("part", "node", "op_type", "body")}
        return {**facts, "output": self.output.to_json(), "sides": [side.to_json() for side in self.sides]}


@dataclass(frozen=True)
class End:
    """Where the walk from a rejected Softmax ended.

    Attributes:
        direction: "forward" follows the map, "backward" the scores.
        steps: operators between the Softmax and the end, in execution order.
        op_type, node: the operator that ends it, "" where a value leaves the graph or comes from outside.
        code, detail: the reason.
        reported: this is the reason that the rejection gives.
    """

    direction: Literal["forward", "backward"]
    steps: tuple[Step, ...]
    op_type: str
    node: str
    code: str
    detail: str
    reported: bool

    def to_json(self) -> dict[str, Any]:
        facts = {key: getattr(self, key) for key in ("direction", "op_type", "node", "code", "detail")}
        return {**facts, "telling": self.reported, "steps": [step.to_json() for step in self.steps]}


@dataclass(frozen=True)
class Lowered:
    """What takes the place of a fused operator (or of a product that is no plain one) when its site is patched.

    Attributes:
        nodes: (operator type, outputs), in order.
        map, values, output: the values that stand for P, V and the operator's own output.
    """

    nodes: tuple[tuple[str, tuple[str, ...]], ...]
    map: str
    values: str
    output: str

    def to_json(self) -> dict[str, Any]:
        nodes = [{"op_type": op_type, "outputs": list(outputs)} for op_type, outputs in self.nodes]
        return {"nodes": nodes, "map": self.map, "values": self.values, "output": self.output}


@dataclass(frozen=True)
class Trace:
    """One Softmax (or fused operator) and its chain.

    Attributes:
        verdict: site or rejection.
        softmax: node name; op_type: its operator.
        output: name of the value it makes.
        body: the body it lies in, "" for the main graph.
        axis: normalized axis, negative; None where it could not be read.
        position: of its node in execution order, see `Traces.scopes`.
        source: the value that comes in where the chain does not begin at a score product.
        steps: the chain in execution order; of a rejected Softmax as much of it as there is.
        ends: of a rejected Softmax, where each way ended.
        lowered: of a fused operator or a product that is no plain one, what takes its place.
    """

    verdict: Site | Rejection
    softmax: str
    op_type: str
    output: str
    body: str
    axis: int | None
    position: int
    source: Edge | None = None
    steps: tuple[Step, ...] = ()
    ends: tuple[End, ...] = ()
    lowered: Lowered | None = None

    @property
    def site(self) -> Site | None:
        return self.verdict if isinstance(self.verdict, Site) else None

    @property
    def rejection(self) -> Rejection | None:
        return self.verdict if isinstance(self.verdict, Rejection) else None

    @property
    def name(self) -> str:
        """Site id, or the node name of a rejected Softmax."""
        return self.softmax if self.site is None else self.site.id

    @property
    def making(self) -> str:
        """What the operator that makes the map does, in words."""
        form = "" if self.site is None else self.site.form.split("+")[0]
        by_number = form in ("exp", "relu", "sigmoid", "softplus") or self.op_type in _NUMBER_BY_NUMBER
        where = "" if self.axis is None else f"axis {self.axis}"
        if by_number and form != "sparsemax":
            return "weighs number by number" + (f", key columns on {where}" if where else "")
        return "normalizes" + (f" over {where}" if where else "")

    @property
    def read_at(self) -> int | None:
        """Index of the step whose output a detector reads; None where the map is no value of the graph, or there is no
        site.

        Where a border between bodies renames the map, it is the step before the product.
        """
        site = self.site
        if site is None or not site.probabilities:
            return None
        names = [step.output.name for step in self.steps]
        return len(names) - 1 - names[::-1].index(site.probabilities) if site.probabilities in names else len(names) - 2

    def answers_to(self, name: str) -> bool:
        """Whether a person may mean this one: site id, node names of Softmax and product, or the value either makes."""
        site = self.site
        known = {self.name, self.softmax, self.output}
        return name in (known if site is None else known | {site.matmul, site.product})

    def to_json(self) -> dict[str, Any]:
        site, rejection = self.site, self.rejection
        facts = {key: getattr(self, key) for key in ("softmax", "op_type", "output", "body", "axis")}
        if site is not None:
            kept = ("probabilities", "values", "product", "head_dim", "self_attention", "key_mask", "dtype")
            facts["site"] = {**site.to_json(), **{key: getattr(site, key) for key in kept}}
        if rejection is not None:
            facts["rejected"] = rejection.to_json()
        lowered = None if self.lowered is None else self.lowered.to_json()
        facts["source"] = None if self.source is None else self.source.to_json()
        return {
            **facts,
            "steps": [s.to_json() for s in self.steps],
            "ends": [e.to_json() for e in self.ends],
            "opened": lowered,
        }


@dataclass(frozen=True)
class Traces:
    """All traces of a model in graph order, and the module path of every node in execution order ("" where a node tells
    none).
    """

    traces: tuple[Trace, ...]
    scopes: tuple[str, ...]

    @classmethod
    def unreadable(cls, rejections: Iterable[Rejection]) -> Traces:
        """Of a model that cannot be indexed."""
        found = list(rejections)
        return cls(
            tuple(Trace(r, r.softmax, "Softmax", "", "", None, at) for at, r in enumerate(found)), ("",) * len(found)
        )
