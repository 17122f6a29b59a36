"""Parts of a patch: nodes that replace one node, and the If that chooses the original or the redistribution."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import helper

from ..emit import Emitter
from ..names import branch_name

__all__ = ["Branch", "Replacement", "gate"]


@dataclass(frozen=True)
class Replacement:
    """The node that computes `output` is replaced by `nodes`, of which one computes `output` again.

    No nodes: nothing reads the value any more.
    """

    output: str
    nodes: tuple[onnx.NodeProto, ...]


@dataclass(frozen=True)
class Branch:
    """A branch: its emitted nodes, its results and their element types."""

    emitter: Emitter
    results: list[str]
    dtypes: list[int]


def gate(e: Emitter, condition: str, then: Branch, otherwise: Branch, outputs: list[str], role: str = "gate") -> None:
    """Emit the If; `outputs` are the names of its results."""
    name = e.value(role)
    graphs = {}
    for key, branch in {"then_branch": then, "else_branch": otherwise}.items():
        # Shapes are left open: onnxruntime infers them, and a wrong shape would be worse than none.
        infos = [
            helper.make_tensor_value_info(value, dtype, None)
            for value, dtype in zip(branch.results, branch.dtypes, strict=True)
        ]
        graphs[key] = helper.make_graph(branch.emitter.nodes, branch_name(name, key), [], infos)
    e.nodes.append(helper.make_node("If", [condition], outputs, name=name, **graphs))
