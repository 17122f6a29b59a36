"""Where in the network a value is: whether it reaches an output, and past which part.

1. *live*: an output depends on it.
2. *late*: a way leads from it to an output that meets no layer any more.
   *passed on*: and its elements become those of the output.
3. *scores*: it becomes an attention map, by a Softmax whose result is multiplied with computed values.
4. *weighed*: it becomes the result of any Softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from . import operators as ops
from .flow import Flow, Step
from .taint import Taint

__all__ = ["Places", "data_of"]

_TO_SCORES = ops.MERGES | ops.MOVES | frozenset({"Where", "Clip", "Tanh", "Identity", "Max", "Min", "If"})
_SOFTMAX = frozenset({"Softmax", "QLinearSoftmax", "BiasSoftmax"})
_PRODUCT = frozenset(ops.LAYERS) | {"Einsum", "ReduceSum"}
_FROM_MAP = ops.MOVES | frozenset({"Where", "Mul", "Dropout", "Add", "Div", "If"})


class Places:
    """Each set holds numbers of values.

    Args:
        outputs: those that count.
    """

    def __init__(self, flow: Flow, taint: Taint, outputs: Iterable[int]) -> None:
        self._flow, self._taint = flow, taint
        self._readers: dict[int, list[Step]] = {}
        for step in flow.steps:
            for value in step.inputs:
                self._readers.setdefault(value, []).append(step)
        ends = {value for value in outputs if value >= 0}
        self.live = self._backward(ends, lambda step: True)
        self.late = self._backward(ends, lambda step: not self.is_layer(step))
        self.passed_on = self._backward(ends, lambda step: not self.is_layer(step), data=True)
        self.scores = self._before(lambda step: self._is_map(step.outputs[0]))
        self.weighed = self._before(lambda step: True)

    def is_layer(self, step: Step) -> bool:
        """Whether a step multiplies with weights, or looks up rows of a table."""
        if step.kind in ops.NETWORKS:
            return True
        if step.kind in ops.LAYERS:
            second = step.inputs[min(ops.LAYERS[step.kind], len(step.inputs) - 1)]
            return (self._taint.state(step.inputs[0]) is None) != (self._taint.state(second) is None)
        return step.kind in ops.EMBEDDINGS and self._taint.state(step.inputs[0]) is None

    def _backward(self, start: set[int], passes: Callable[[Step], bool], data: bool = False) -> set[int]:
        reached = set(start)
        for _ in range(2 if self._flow.loops else 1):
            for step in reversed(self._flow.steps):
                if not reached.isdisjoint(step.outputs) and passes(step):
                    reached.update(*((data_of(step),) if data else (step.inputs, step.decides)), step.back)
        reached.discard(-1)
        return reached

    def _before(self, counts: Callable[[Step], bool]) -> set[int]:
        found: set[int] = set()
        for step in reversed(self._flow.steps):
            passes = step.kind in _TO_SCORES and not found.isdisjoint(step.outputs)
            if passes or (step.kind in _SOFTMAX and counts(step)):
                found.update(step.inputs)
        found.discard(-1)
        return found

    def _is_map(self, value: int, hops: int = 6) -> bool:
        for step in self._readers.get(value, ()):
            others = [other for other in step.inputs if other != value and self._taint.state(other) is not None]
            if step.kind in _PRODUCT and others:
                return True
            if step.kind in _FROM_MAP and hops and self._is_map(step.outputs[0], hops - 1):
                return True
        return False


def data_of(step: Step) -> tuple[int, ...]:
    """The inputs whose elements become those of the result."""
    if step.kind == "Where":
        return step.inputs[1:]
    if step.kind in ops.SCATTERS:
        return (step.inputs[0], *step.inputs[2:])
    return step.inputs[:1] if step.kind in ops.PICKS else step.inputs
