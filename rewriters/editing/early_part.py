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
7. in a branch of a merged decoder, if it is healed as a model of its own: onnxruntime packs weights of the main graph
   for products there and one level below, not two, and products of packed weights round differently.

A merged decoder is split in a way of its own (`healed_branches`). There

8. the early part has all nodes of the branch, also those that do not depend on the tokens, such as masks, rotary
   embeddings, and keys of the encoder's states: the main graph does not see into the branch.
9. But constants, and integers and bools that are made of inputs and constants only (sizes, positions), are repeated in
   each part that needs them: runtimes look through them when they work out shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..emit import Emitter
from ..finding.key_value import HealingPlaces
from ..lowering.operands import HALF
from ..model.bodies import needed, reads
from ..model.renaming import renamed
from ..names import second_run
from ..subgraphs.gating import Branch, Replacement, gate

__all__ = ["EarlyPart", "early_part", "reads_numbers"]

_IN_PLACE = "GroupQueryAttention"
_QUANTIZING = ("QuantizeLinear", "DequantizeLinear")
_WHOLE = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)


@dataclass(frozen=True)
class EarlyPart:
    """Nodes of the main graph that depend on its tokens, from the first one up to a last one.

    Attributes:
        nodes: their indices.
        leaving: what other nodes, or the outputs of the graph, read of them → element type.
        handed: what the probe hands on → element type.
        sizes: shapes of what is handed on, with 0 for what is not fixed, as far as ranks are known.
        writing: those of the nodes that write a cache in place.
        called: what leaves → its name in the main graph.
        repeated: nodes that stay, and that each part needs for itself.
        tensors: weights that lie in the branch, which each part needs too.
    """

    nodes: tuple[int, ...]
    leaving: Mapping[str, int]
    handed: Mapping[str, int]
    sizes: Mapping[str, tuple[int, ...]]
    writing: tuple[onnx.NodeProto, ...]
    called: Mapping[str, str]
    repeated: tuple[int, ...] = ()
    tensors: tuple[onnx.TensorProto, ...] = ()

    def copied(self, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
        """All nodes that the part needs, weights of the branch as constants among them."""
        constants = [helper.make_node("Constant", [], [one.name], one.name, value=one) for one in self.tensors]
        return [*constants, *(graph.node[index] for index in sorted((*self.nodes, *self.repeated)))]

    @property
    def last(self) -> int:
        """Index of the node in whose place all is written."""
        return self.nodes[-1]

    def replacements(self, graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> list[Replacement]:
        """All of them leave the graph, and `nodes` take the place of the last one."""
        outputs = [next(filter(None, graph.node[index].output)) for index in self.nodes]
        return [*(Replacement(output, ()) for output in outputs[:-1]), Replacement(outputs[-1], tuple(nodes))]

    def without_probe(self, e: Emitter, earlier: Mapping[str, str]) -> dict[str, str]:
        """What is handed on without a probe: what an earlier one gave, else empty values, of the right rank. Of a value
        whose rank it does not know a runtime knows no shape further on, where it then fuses less, and rounds
        differently.
        """
        handed = {}
        for name, kind in self.handed.items():
            sizes = self.sizes.get(name, (0,))
            some = sizes if 0 in sizes else (0, *sizes[1:]) if sizes else ()
            called = self.called[name]
            given = earlier.get(called) or e.constant(np.zeros(some), helper.tensor_dtype_to_np_dtype(kind))
            handed[called] = e.op("Identity", given)
        return handed

    def add(
        self,
        e: Emitter,
        again: str,
        handed: Mapping[str, str],
        outputs: Sequence[str],
        healed: Callable[[Emitter], dict[str, str]],
    ) -> None:
        """Emit the values that leave.

        Args:
            again: bool, whether the nodes have to run.
            handed: what the probe gave, by the names in the main graph.
            outputs: names for what leaves.
            healed: emits the nodes with healed keys and values; value of the model → its name.
        """
        then, otherwise = e.branch(apart=True), e.branch(apart=True)
        names, kinds = healed(then), list(self.leaving.values())
        kept = self._kept(otherwise, {name: handed[self.called[name]] for name in self.handed})
        ran = [names[name] for name in self.leaving]
        then.nodes[:] = needed(then.nodes, ran)
        gate(e, again, Branch(then, ran, kinds), Branch(otherwise, kept, kinds), [*outputs], "early_part")

    def _kept(self, e: Emitter, handed: Mapping[str, str]) -> list[str]:
        """The branch in which nothing runs again."""
        written = {name: e.value("written") for node in self.writing for name in node.output if name}
        names = {**handed, **written}
        e.nodes += [renamed(node, lambda name: names.get(name, name), second_run) for node in self.writing]
        return [written[name] if name in written else e.op("Identity", handed[name]) for name in self.leaving]


def early_part(
    graph: onnx.GraphProto,
    places: HealingPlaces,
    last: Sequence[str],
    ahead: int | None = None,
    *,
    looked_up: bool = False,
) -> EarlyPart | None:
    """The early part up to the nodes that make some values; None where it stays in the graph, by rules 5 and 6.

    Args:
        last: names of the values.
        ahead: index of the first node of a branch (rules 8 and 9); None: it is no branch.
        looked_up: the nodes that look up the tokens belong to it, as all nodes of a branch do.
    """
    if any(node.op_type in _QUANTIZING for node in graph.node) or not set(HALF).isdisjoint(places.types.values()):
        return None
    end = max(index for index, node in enumerate(graph.node) if not set(last).isdisjoint(node.output))
    found, repeated = _depending(graph, places, end, looked_up), list[int]()
    if ahead is not None:
        repeated = _sizes(graph, places, ahead, {*found}, end)
        found = sorted({*range(ahead, end + 1)} - {*repeated})
    made = {name for index in found for name in graph.node[index].output if name}
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
        {name: name for name in (*handed, *leaving)},
        tuple(repeated),
    )


def _depending(graph: onnx.GraphProto, places: HealingPlaces, end: int, looked_up: bool) -> list[int]:
    """Indices of the nodes up to `end` that depend on the tokens, or look them up and so may hide them."""
    depending, found = {*places.embeddings}, []
    hiding = places.hides.inputs if looked_up and places.hides is not None else ()
    for index, node in enumerate(graph.node[: end + 1]):
        looks_up = looked_up and not depending.isdisjoint(node.output)
        if looks_up or not depending.isdisjoint(reads(node)) or reads_numbers(node, hiding):
            depending.update(filter(None, node.output))
            found.append(index)
    return found


def reads_numbers(node: onnx.NodeProto, inputs: Iterable[str]) -> bool:
    """Whether a node reads the numbers of some inputs, not only their sizes."""
    return node.op_type not in ("Shape", "Size") and not reads(node).isdisjoint(inputs)


def _sizes(graph: onnx.GraphProto, places: HealingPlaces, start: int, depending: set[int], end: int) -> list[int]:
    """Indices of the nodes of a branch that each part repeats (rule 9)."""
    fixed = {tensor.name for tensor in graph.initializer}
    known = {*fixed, *(value.name for value in graph.input)}
    known.update(name for node in graph.node[:start] for name in node.output)
    found = []
    for index, node in enumerate(graph.node[start : end + 1], start):
        read = reads(node)
        small = all(places.types.get(name) in _WHOLE for name in node.output if name)
        drawn = node.op_type.startswith("Random")
        if index in depending or drawn or not (read <= fixed or (small and read <= known)):
            continue
        known.update(node.output)
        fixed.update(node.output if read <= fixed else ())
        found.append(index)
    return found
