"""Runtime controls: `atpatch_enabled` and `atpatch_threshold`, initializers that are graph inputs too.

A running session overrides them per request by feeding a 0-d array; nobody has to. Local functions see nothing of the graph around
them, so there the controls become trailing inputs, handed down by every call.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .bodies import walk_bodies
from .emit import Emitter
from .names import ENABLED, THRESHOLD
from .plan import PatchPlan
from .sites import Where
from .subgraphs.site import Controls, Replacement

__all__ = ["ENABLED", "THRESHOLD", "add_controls", "body_controls", "strip_controls", "thread_controls"]


def add_controls(model: onnx.ModelProto, plan: PatchPlan) -> None:
    """Add both controls to the main graph, unless the plan freezes them."""
    if plan.freeze:
        return
    for name, array in {ENABLED: np.array(True), THRESHOLD: np.array(plan.threshold, np.float32)}.items():
        tensor = numpy_helper.from_array(array, name)
        model.graph.initializer.append(tensor)
        model.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, []))


def body_controls(e: Emitter, plan: PatchPlan) -> Controls:
    """The controls as a site reads them."""
    if plan.freeze:
        return Controls(e.constant(True, np.bool_), e.constant(plan.threshold), plan.companion, frozen=True)
    return Controls(ENABLED, THRESHOLD, plan.companion)


def thread_controls(model: onnx.ModelProto, plan: PatchPlan, replacements: dict[Where, list[Replacement]]) -> None:
    """Hand the controls down to every patched function, through all functions on the way; adds to `replacements`."""
    if plan.freeze:
        return
    pending = {where[0][0] for where in replacements if where and where[0][1] == "function"}
    threaded: set[int] = set()
    while pending:
        target = pending.pop()
        threaded.add(target)
        function = model.functions[target]
        arity = len(function.input)
        function.input.extend([ENABLED, THRESHOLD])
        for where, body in walk_bodies(model):
            for node in body.node:
                if (node.domain, node.op_type, node.overload) != (function.domain, function.name, function.overload):
                    continue
                call = onnx.NodeProto()
                call.CopyFrom(node)
                call.input.extend([""] * (arity - len(node.input)) + [ENABLED, THRESHOLD])
                replacements.setdefault(where, []).append(Replacement(next(filter(None, node.output)), (call,)))
                if where and where[0][1] == "function" and where[0][0] not in threaded:
                    pending.add(where[0][0])


def strip_controls(model: onnx.ModelProto) -> None:
    """Take the controls out of functions' inputs."""
    for function in model.functions:
        while function.input and function.input[-1] in (ENABLED, THRESHOLD):
            del function.input[-1]
