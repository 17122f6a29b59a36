"""Runtime controls, 0-d inputs that a request can set: `atpatch_enabled` and `atpatch_threshold`.

Optional controls are initializers that are also graph inputs, so a request may leave them out. Programs that know only
ordinary inputs (onnxruntime-genai, onnxruntime in JavaScript) ignore them, and below IR version 4 nothing can override
an initializer. Required controls are ordinary inputs. Local functions cannot read the graph around them, so there the
controls become trailing inputs, which every call passes on.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..emit import Emitter
from ..model.bodies import walk_bodies
from ..names import ENABLED, THRESHOLD
from ..plan import PatchPlan
from ..sites import Where
from ..subgraphs.site import Controls, Replacement

__all__ = [
    "DEFAULT",
    "ENABLED",
    "OVERRIDABLE_FROM",
    "THRESHOLD",
    "add_controls",
    "body_controls",
    "strip_controls",
    "thread_controls",
    "with_controls",
]

DEFAULT = "threshold"
"""Stamp key of the plan's threshold, since required controls have no default."""

OVERRIDABLE_FROM = 4
"""First IR version in which an input can override an initializer."""


def with_controls(plan: PatchPlan, model: onnx.ModelProto) -> PatchPlan:
    """The plan, without optional controls where the model's IR version makes them impossible."""
    impossible = plan.controls == "optional" and model.ir_version < OVERRIDABLE_FROM
    return replace(plan, controls="none") if impossible else plan


def add_controls(model: onnx.ModelProto, plan: PatchPlan) -> None:
    """Add both controls to the main graph, unless the plan has none."""
    if plan.controls == "none":
        return
    for name, array in {ENABLED: np.array(True), THRESHOLD: np.array(plan.threshold, np.float32)}.items():
        tensor = numpy_helper.from_array(array, name)
        if plan.controls == "optional":
            model.graph.initializer.append(tensor)
        model.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, []))


def body_controls(e: Emitter, plan: PatchPlan) -> Controls:
    """The controls in the form in which a site reads them."""
    if plan.controls == "none":
        return Controls(e.constant(True, np.bool_), e.constant(plan.threshold), plan.companion, frozen=True)
    return Controls(ENABLED, THRESHOLD, plan.companion)


def thread_controls(model: onnx.ModelProto, plan: PatchPlan, replacements: dict[Where, list[Replacement]]) -> None:
    """Pass the controls on to every patched function, through all functions on the way; adds to `replacements`."""
    if plan.controls == "none":
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
    """Remove the controls from the functions' inputs."""
    for function in model.functions:
        while function.input and function.input[-1] in (ENABLED, THRESHOLD):
            del function.input[-1]
