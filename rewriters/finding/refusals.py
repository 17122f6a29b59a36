"""Why something is no site."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["Ended", "Refused"]


@dataclass(frozen=True)
class Refused:
    """Why a product is none of P·V: a rejection code and what is particular to this case."""

    code: str
    detail: str


@dataclass(frozen=True)
class Ended(Refused):
    """A refusal that a walk met on its way.

    Attributes:
        path: operators between the Softmax and the end, in execution order, whichever way the walk went.
        node: what ends it, None where a value leaves the graph or comes from outside.
    """

    path: tuple[ir.Node, ...] = ()
    node: ir.Node | None = None
