"""Follows information from the inputs through all steps of a flow, see `states`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from . import elements, moving, operators as ops
from .flow import Flow, Step
from .states import Bits, Meeting, State, bent, union
from .values import Values

__all__ = ["Taint"]

_Handler = Callable[["Taint", Step, list[State]], State]

_ROUNDS = 4
"""At most, for values that loops carry."""
_NARROW = 4
_RAW_BITS = int(
    Bits.CONTENT
    | Bits.OTHER
    | Bits.WHOLE
    | Bits.SHIFT
    | Bits.NONLINEAR
    | Bits.TEST
    | Bits.PICK
    | Bits.WEIGHTED
    | Bits.HASH
    | Bits.REDUCED
    | Bits.COUNT
)
_WHOLE = (TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8, TensorProto.INT8, TensorProto.INT16)


class Taint:
    """The states of all values, and all meetings.

    Attributes:
        makers: value → the step that makes it.
        states: value → state; None for constants and for what depends only on shapes.
        meetings: where tests act.
        content: inputs, as bits, that the network reads as numbers.
        foreign: operators of which nothing is known.
        equals: (step, constant value, inputs as bits) of comparisons of an input's elements with constants.
    """

    def __init__(self, flow: Flow, values: Values) -> None:
        self.flow, self.values = flow, values
        self.makers = {value: step for step in flow.steps for value in step.outputs if value >= 0}
        self.content = -1
        self._run()
        self.content = self._read
        self._run()

    def _run(self) -> None:
        flow = self.flow
        self.states: list[State | None] = [None] * flow.count
        self.foreign: dict[str, Step] = {}
        self._read = 0
        for place, (_, value) in enumerate(flow.inputs.items()):
            kind = Bits.CONTENT if self.content >> place & 1 else Bits.OTHER
            whole = Bits.WHOLE if self.values.type(value) in _WHOLE else 0
            self.states[value] = State(int(kind | whole), 0, 1 << place)
        for _ in range(_ROUNDS if flow.loops else 1):
            before = list(self.states) if flow.loops else []
            self.meetings: list[Meeting] = []
            self.equals: list[tuple[int, int, int]] = []
            self.embedded: dict[int, int] = {}
            for number, step in enumerate(flow.steps):
                self.number = number
                self._step(step)
            if before == self.states:
                break

    def state(self, value: int) -> State | None:
        return self.states[value] if value >= 0 else None

    def meet(self, role: str, raw: int, others: tuple[int, ...]) -> None:
        state = self.state(raw)
        assert state is not None
        self.meetings.append(Meeting(role, self.number, raw, state, others))  # type: ignore[arg-type]

    def _step(self, step: Step) -> None:
        read = [state for value in (*step.inputs, *step.decides, *step.back) if (state := self.state(value))]
        if step.kind in ops.SHAPES:  # of a list of places, the size tells how many
            read = [State(s.bits | Bits.COUNT | Bits.REDUCED, s.depth) for s in read if s.bits & Bits.SIZED]
        if not read or not step.outputs:
            return
        if step.kind in ops.SHAPES:
            made: State | None = read[0].minus(Bits.SIZED | Bits.BOOLEAN)
        elif step.node.domain not in ops.KNOWN_DOMAINS and step.kind not in ("If", "Loop", "LoopIn"):
            self.foreign.setdefault(f"{step.node.domain}.{step.kind}", step)
            made = State(int(Bits.NET), max(s.depth for s in read) + 1)
        else:
            made = _HANDLERS.get(step.kind, moving.other)(self, step, read)
        for output in step.outputs:
            if output >= 0:
                self.states[output] = made

    # Layers

    def _einsum(self, step: Step, read: list[State]) -> State:
        """With a constant matrix it is a layer, as a MatMul is."""
        constants = [value for value in step.inputs if self.state(value) is None]
        if len(step.inputs) == 2 and len(constants) == 1 and len(self.values.dims(constants[0]) or ()) >= 2:
            return self._layer(step, read)
        return self.mixed(step, read, bent)

    def _layer(self, step: Step, read: list[State]) -> State:
        for value in step.inputs[2:3] if step.kind in ops.BIASED else ():
            state = self.state(value)
            if state is not None and not state.net and state.test:
                self.meet("meet", value, step.inputs[:1])
        first, second = step.inputs[0], step.inputs[min(ops.LAYERS.get(step.kind, 1), len(step.inputs) - 1)]
        a, b = self.state(first), self.state(second)
        if a is not None and b is not None:
            return self.mixed(step, [a, b], bent)
        data, weight = (first, second) if a is not None else (second, first)
        state = a or b
        if state is None:
            return union(read)
        narrow = self._narrow(step, weight) and not self._embeds_number(state, data, weight)
        if state.net:
            return State(int(Bits.NET | (Bits.NARROW if narrow else 0)), state.depth + 1)
        dims = self.values.dims(data)
        flat = state.bits & Bits.WHOLE and dims is not None and len(dims) <= 2
        if narrow:
            return state.plus(Bits.HASH | Bits.REDUCED).minus(Bits.BOOLEAN)
        if state.test and (state.bits & Bits.REDUCED or flat):
            self.meet("layer", data, ())
        elif flat:
            self.meet("hash", data, ())
        self.reads(state)
        return State(int(Bits.NET), 1)

    def reads(self, state: State) -> None:
        """The network reads these inputs as numbers."""
        self._read |= state.direct

    def _narrow(self, step: Step, weight: int) -> bool:
        dims = self.values.dims(weight)
        if step.kind in ("MatMulNBits", "MatMulBnb4", "MatMulFpQ4"):
            return min((a.i for a in step.node.attribute if a.name in ("K", "N")), default=_NARROW) < _NARROW
        if dims is None:
            return False
        if "Conv" in step.kind:
            return dims[:1] == (1,)
        return len(dims) < 2 or any(isinstance(dim, int) and dim < _NARROW for dim in dims[-2:])

    def _embeds_number(self, state: State, data: int, weight: int) -> bool:
        """A vector for one to three numbers, perhaps scaled: the embedding of a measurement, or of a point."""
        inputs = self.values.last(data)
        outputs = max((dim for dim in self.values.dims(weight) or () if isinstance(dim, int)), default=0)
        plain = not state.bits & ~int(Bits.CONTENT | Bits.OTHER | Bits.SHIFT)
        return plain and inputs is not None and inputs < _NARROW <= outputs

    def _network(self, step: Step, read: list[State]) -> State:
        embeds = "Embed" in step.kind
        for position, value in enumerate(step.inputs):
            state = self.state(value)
            if state is not None and not state.net:
                if position == 0 or (embeds and position == 1):
                    self.reads(state)
                    self.embed(value, state)
                elif state.test:
                    self.meet("mask", value, step.inputs[:1])
        return State(int(Bits.NET), max(state.depth for state in read) + 1)

    def embed(self, value: int, state: State) -> None:
        for place in range(len(self.flow.inputs)):
            if state.direct >> place & 1 and state.bits & Bits.WHOLE:
                self.embedded.setdefault(place, self.number)
        if state.test:
            self.meet("embedding", value, ())

    def _product(self, step: Step, read: list[State]) -> State:
        for value in step.inputs:
            state = self.state(value)
            if state is not None and not state.net and state.test:
                self.meet("mask", value, step.inputs[:1])
        return State(int(Bits.NET), max(state.depth for state in read) + 1)

    # Choices

    def _choice(self, step: Step, read: list[State]) -> State:
        if step.kind == "Where":
            decides, choices = step.inputs[:1], step.inputs[1:]
        else:
            decides, choices = step.decides, step.inputs
        chosen = [state for value in choices if (state := self.state(value))]
        made = union(chosen) if chosen else State(0)
        for value in decides:
            state = self.state(value)
            if state is None:
                continue
            if state.net or made.net or state.test:
                self.meet("select", value, choices)
            if made.net or state.net:
                made = State(made.bits & Bits.NET or int(Bits.NET), max(made.depth, state.depth))
            else:
                made = State(made.bits | state.bits | Bits.NONLINEAR, 0, made.direct)
        constants = [self.values.array(value) for value in choices if self.state(value) is None]
        if not made.net and step.kind == "Where" and len(constants) == 2:
            zeros = all(array is not None and set(np.unique(array)) <= {0, 1} for array in constants)
            hides = all(array is not None and elements.hides(array) for array in constants)
            made = made.plus(Bits.BOOLEAN) if zeros else made.minus(Bits.BOOLEAN)
            return made.plus(Bits.HIDES) if hides else made
        return self._plain(made).minus(Bits.BOOLEAN)

    def _plain(self, state: State) -> State:
        """A value of the network without what is known of raw ones."""
        return State(state.bits & ~_RAW_BITS, state.depth) if state.net else state

    def mixed(self, step: Step, read: list[State], function: Callable[[State], State]) -> State:
        """Raw operands meet those of the network; raw ones only go through a function."""
        made = union(read)
        if not made.net:
            return function(made)
        self.meet_all(step, "meet")
        return self._plain(made)

    def meet_all(self, step: Step, role: str) -> None:
        nets = tuple(value for value in step.inputs if (state := self.state(value)) and state.net)
        for value in step.inputs:
            state = self.state(value)
            if state is not None and not state.net and state.test:
                self.meet(role, value, nets)


_HANDLERS: dict[str, _Handler] = {
    kind: handler
    for kinds, handler in (
        (ops.STEPS, elements.kink),
        (ops.SMOOTH, lambda taint, step, read: taint.mixed(step, read, bent)),
        (ops.MOVES, moving.move),
        (ops.COUNTING, moving.count),
        (ops.REDUCES, moving.reduce),
        (ops.SCATTERS, moving.scatter),
        (ops.PICKS | ops.EMBEDDINGS, moving.pick),
        (ops.MERGES, elements.merge),
        (ops.LOGIC, elements.logic),
        (ops.COMPARISONS, elements.compare),
        (frozenset({"LoopIn"}), lambda taint, step, read: union(read)),
        (frozenset({"If", "Loop", "Where"}), Taint._choice),
        (frozenset({"LabelEncoder"}), moving.encode),
        (frozenset({"Einsum"}), Taint._einsum),
        (ops.PRODUCTS, Taint._product),
        (ops.NETWORKS, Taint._network),
        (frozenset(ops.LAYERS), Taint._layer),
    )
    for kind in kinds
}
"""Operator type → what it does to states."""
