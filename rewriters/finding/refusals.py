"""Reasons why something is not a site."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["Ended", "Refused"]


@dataclass(frozen=True)
class Refused:
    """Why something is not a P·V product of a site: a rejection code and the details of this case."""

    code: str
    detail: str


@dataclass(frozen=True)
class Ended(Refused):
    """A refusal that a walk met on its path.

    Attributes:
        path: operators between the Softmax and the end, in execution order, for both directions of walking.
        node: the last node; None where a value leaves the graph or comes from outside.
    """

    path: tuple[ir.Node, ...] = ()
    node: ir.Node | None = None
