"""Adds nodes to a model the way an attacker would: names as an exporter gives them, no trace in the metadata."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["Surgery"]

_AXES_AS_INPUT = {"ReduceSum": 13, "Unsqueeze": 13, "Squeeze": 13} | dict.fromkeys(
    ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd"), 18
)


class Surgery:
    """One model under the knife. Nodes may be added in any order; `close` sorts them.

    Attributes:
        graph: what is edited: the main graph.
    """

    def __init__(self, model: onnx.ModelProto, scope: str = "/classifier") -> None:
        self.model, self.graph, self._scope = model, model.graph, scope
        self.opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        self._count = 0
        self._base = len(self.graph.node)

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        name = f"onnx::{self._scope.strip('/').replace('/', '_')}_{self._number()}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def add(self, kind: str, *inputs: str, count: int = 1, domain: str = "", **attributes: Any) -> Any:
        """The name of the result, or names where there are several. `axes` become an input where the opset wants it."""
        axes = attributes.pop("axes", None)
        if axes is not None and self.opset >= _AXES_AS_INPUT.get(kind, 1 << 30):
            inputs = (*inputs, self.constant(axes, np.int64))
        elif axes is not None:
            attributes["axes"] = axes
        name = f"{self._scope}/{kind}_{self._number()}"
        outputs = [f"{name}_output_{index}" for index in range(count)]
        node = helper.make_node(kind, list(inputs), outputs, name=name, domain=domain, **attributes)
        self.graph.node.append(node)
        return outputs[0] if count == 1 else outputs

    def _number(self) -> int:
        self._count += 1
        return self._count

    def detach_output(self, name: str) -> str:
        """Free the name of an output; what made it now has the name that is returned."""
        inner = f"{self._scope}/{name}_inner"
        for node in self.graph.node:
            for names in (node.input, node.output):
                for index, value in enumerate(names):
                    if value == name:
                        names[index] = inner
            _rename_captured(node, name, inner)
        return inner

    def output(self, value: str, name: str) -> None:
        """Make a value an output of the model under a name."""
        self.graph.node.append(helper.make_node("Identity", [value], [name], name=f"{self._scope}/out_{name}"))

    def replace(self, name: str, value: str) -> None:
        """Let all nodes of the original model read another value instead."""
        for node in list(self.graph.node)[: self._base]:
            for index, read in enumerate(node.input):
                if read == name:
                    node.input[index] = value

    def close(self) -> onnx.ModelProto:
        """Sort the nodes, and check the model."""
        del self.graph.value_info[:]
        nodes = list(_sorted(self.graph))
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        onnx.checker.check_model(self.model)
        return self.model


def _rename_captured(node: onnx.NodeProto, name: str, inner: str) -> None:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for one in attribute.g.node:
                for index, value in enumerate(one.input):
                    if value == name:
                        one.input[index] = inner
                _rename_captured(one, name, inner)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for one in attribute.g.node:
                yield from _reads(one)
            yield from (value.name for value in attribute.g.output)


def _sorted(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    made = {name for node in graph.node for name in node.output}
    waiting = list(graph.node)
    done: set[str] = set()
    while waiting:
        later = []
        for node in waiting:
            if all(name not in made or name in done for name in _reads(node)):
                done.update(node.output)
                yield node
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise ValueError("the nodes form a cycle")
        waiting = later
