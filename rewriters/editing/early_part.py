"""The early part of a decoder: all that is computed from its tokens up to the last site that detects for healing.

A probe computes it as it is, for the flags. Where nothing is flagged this is also what the model computes, so it is not
computed again:

1. The nodes of the early part leave the main graph, and what others read of them becomes the output of an `If`.
2. Where a token is flagged, and where there was no probe, one branch runs the nodes with healed keys and values.
3. Else the other branch hands on what the probe has computed. An operator that writes a cache in place runs there once
   more, on the probe's queries, keys and values: its cache must be its own output, not a copy of one.

The nodes stay where they are, and the probe repeats them in every prompt,

4. without branches (`gating = "none"`), and with a marked span, whose telemetry reads the main graph (`span`),
5. next to Q/DQ pairs and in half precision: runtimes join nodes, or drop casts between them, only within one graph, and
   then round differently,
6. where the type of a value is not known,
7. in a branch of a merged decoder: onnxruntime packs weights of the main graph for products there and one level below,
   not two, and products of packed weights round differently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from ..emit import Emitter
from ..finding.key_value import HealingPlaces
from ..lowering.operands import HALF
from ..model.bodies import reads
from ..model.renaming import renamed
from ..names import second_run
from ..subgraphs.gating import Branch, Replacement, gate

__all__ = ["EarlyPart", "early_part"]

_IN_PLACE = "GroupQueryAttention"
_QUANTIZING = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class EarlyPart:
    """Nodes of the main graph that depend on its tokens, from the first one up to a last one.

    Attributes:
        nodes: their indices.
        leaving: what other nodes, or the outputs of the graph, read of them → element type.
        handed: what the probe hands on → element type.
        sizes: shapes of what is handed on, with 0 for what is not fixed, as far as ranks are known.
        writing: those of the nodes that write a cache in place.
    """

    nodes: tuple[int, ...]
    leaving: Mapping[str, int]
    handed: Mapping[str, int]
    sizes: Mapping[str, tuple[int, ...]]
    writing: tuple[onnx.NodeProto, ...]

    @property
    def last(self) -> int:
        """Index of the node in whose place all is written."""
        return self.nodes[-1]

    def replacements(self, graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> list[Replacement]:
        """All of them leave the graph, and `nodes` take the place of the last one."""
        outputs = [next(filter(None, graph.node[index].output)) for index in self.nodes]
        return [*(Replacement(output, ()) for output in outputs[:-1]), Replacement(outputs[-1], tuple(nodes))]

    def missing(self, e: Emitter) -> list[str]:
        """What is handed on without a probe: empty values, of the right rank: of a value whose rank it does not know a
        runtime knows no shape further on, where it then fuses less, and rounds differently.
        """
        missing = []
        for name, kind in self.handed.items():
            sizes = self.sizes.get(name, (0,))
            some = sizes if 0 in sizes else (0, *sizes[1:]) if sizes else ()
            missing.append(e.op("Identity", e.constant(np.zeros(some), helper.tensor_dtype_to_np_dtype(kind))))
        return missing

    def add(self, e: Emitter, again: str, handed: Sequence[str], healed: Callable[[Emitter], dict[str, str]]) -> None:
        """Emit the values that leave.

        Args:
            again: 0-d bool, whether the nodes have to run.
            handed: what the probe gave.
            healed: emits the nodes with healed keys and values; value of the model → its name.
        """
        then, otherwise = e.branch(apart=True), e.branch(apart=True)
        names, kinds = healed(then), list(self.leaving.values())
        kept = self._kept(otherwise, dict(zip(self.handed, handed, strict=True)))
        ran = [names[name] for name in self.leaving]
        gate(e, again, Branch(then, ran, kinds), Branch(otherwise, kept, kinds), [*self.leaving], "early_part")

    def _kept(self, e: Emitter, handed: Mapping[str, str]) -> list[str]:
        """The branch in which nothing runs again."""
        written = {name: e.value("written") for node in self.writing for name in node.output if name}
        names = {**handed, **written}
        e.nodes += [renamed(node, lambda name: names.get(name, name), second_run) for node in self.writing]
        return [written[name] if name in written else e.op("Identity", handed[name]) for name in self.leaving]


def early_part(graph: onnx.GraphProto, places: HealingPlaces, last: Sequence[str]) -> EarlyPart | None:
    """The early part up to the nodes that make some values; None where it stays in the graph, by rules 5 and 6.

    Args:
        last: names of the values.
    """
    if any(node.op_type in _QUANTIZING for node in graph.node) or not set(HALF).isdisjoint(places.types.values()):
        return None
    end = max(index for index, node in enumerate(graph.node) if not set(last).isdisjoint(node.output))
    depending, found = {*places.embeddings}, []
    for index, node in enumerate(graph.node[: end + 1]):
        if not depending.isdisjoint(reads(node)):
            depending.update(filter(None, node.output))
            found.append(index)
    made = depending - {*places.embeddings}
    read = {value.name for value in graph.output}.union(*(reads(node) for node in graph.node[end + 1 :]))
    leaving = [name for index in found for name in graph.node[index].output if name in read]
    writing = tuple(graph.node[index] for index in found if graph.node[index].op_type == _IN_PLACE)
    written = {name for node in writing for name in node.output}
    entering = [name for node in writing for name in node.input if name in made]
    handed = dict.fromkeys([*entering, *(name for name in leaving if name not in written)])
    kinds = places.types
    if not all(name in kinds for name in (*handed, *leaving)):
        return None
    return EarlyPart(
        tuple(found),
        {name: kinds[name] for name in leaving},
        {name: kinds[name] for name in handed},
        {name: places.sizes[name] for name in handed if name in places.sizes},
        writing,
    )
