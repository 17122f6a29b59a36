"""The table of operators, and what an operator sees of its node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

__all__ = ["OPERATORS", "Call", "Operator", "ints", "operator"]


@dataclass(frozen=True)
class Call:
    """One node: its operator, attributes, opset, and the number of outputs asked for."""

    op: str
    attributes: Mapping[str, Any]
    opset: int
    outputs: int

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def axes(self, given: Tensor | None, rank: int) -> list[int]:
        """Axes from the second input (newer opsets) or the attribute; all of them without either."""
        axes = ints(given) if given is not None else list(self.get("axes", ()))
        return [axis % rank for axis in axes] if axes else list(range(rank))


Operator = Callable[..., Tensor | Sequence[Tensor]]
"""(call, *inputs) → the output, or all outputs; inputs that a node leaves out are None."""

OPERATORS: dict[str, Operator] = {}

Kernel = TypeVar("Kernel", bound=Operator)


def operator(*names: str) -> Callable[[Kernel], Kernel]:
    """Register a kernel under operator types of the default domain."""

    def register(kernel: Kernel) -> Kernel:
        OPERATORS.update(dict.fromkeys(names, kernel))
        return kernel

    return register


def ints(tensor: Tensor) -> list[int]:
    """A small integer tensor as a list."""
    return [int(value) for value in tensor.reshape(-1).tolist()]
