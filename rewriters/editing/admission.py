"""Checks whether a graph supports what a plan asks for, before anything is written; the answer is a value.

Two passes need

1. joined sites in the main graph,
2. samples on the first axis of inputs and outputs, and on no other axis,
3. nodes in the order in which they run,
4. values that keep their rounding when a second node reads them (see `qdq_barrier`),
5. an output that carries samples.

Healing needs 3 in each body that it heals; `healing.places_of` then looks there for keys and values to heal.
Excision needs one axis of tokens (see `excision`), `accept = "flip"` and a margin need an output with class scores,
telemetry needs a site in the main graph (a marked span: see `span`), and every site needs numeric values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
from onnx import TensorProto

from ..detector_kinds import ids_read
from ..errors import NOT_ADMITTED, AtpatchError
from ..model.bodies import reads
from ..plan import PatchPlan
from ..sites import Site
from .excision import tokens_of
from .healed_bodies import HealedBody, bodies_of
from .healing import detecting_sites
from .qdq_barrier import second_reader_refusal
from .samples import carries_samples, has_classes, requested, sample_outputs
from .smoothing import unsmoothed

__all__ = ["not_admitted"]

_NO_NUMBERS = (TensorProto.STRING, TensorProto.BOOL, TensorProto.COMPLEX64, TensorProto.COMPLEX128)
_INTEGERS = (TensorProto.INT64, TensorProto.INT32)
_ONE_PASS = "patch with --passes one"


def not_admitted(
    model: onnx.ModelProto, plan: PatchPlan, sites: Sequence[Site], healed: Sequence[HealedBody] | None = None
) -> AtpatchError | None:
    """The first reason why the graph does not support the plan, as the ATP023 to raise; None where it does.

    Args:
        sites: of this model; those that the plan does not name stay unchanged.
        healed: the bodies of a plan that heals, where they are known.
    """
    return next(_reasons(model, plan, sites, healed), None)


def _reasons(
    model: onnx.ModelProto, plan: PatchPlan, sites: Sequence[Site], healed: Sequence[HealedBody] | None
) -> Iterator[AtpatchError]:
    chosen = [site for site in sites if site.id in plan.sites]
    for site in chosen:
        if site.dtype in _NO_NUMBERS:
            name = TensorProto.DataType.Name(site.dtype)
            yield NOT_ADMITTED(f"site {site.id}: its values are of type {name}, which the patch cannot compute with")
    yield from _tokens_elsewhere(model, plan, chosen)
    yield from unsmoothed(model, plan, sites)
    if plan.mend == "heal":
        bodies = bodies_of(model, plan, sites) if healed is None else healed
        if isinstance(bodies, AtpatchError):
            yield bodies
            return
        for body in bodies:
            yield from _healing(body.model, body.plan, body.sites)
    elif plan.passes == "two":
        yield from _second_run(model, plan, {site.id: site for site in chosen})
    if plan.telemetry and plan.mend != "heal" and all(site.where for site in chosen):
        yield NOT_ADMITTED("telemetry needs a site in the main graph", "patch without --telemetry")


def _tokens_elsewhere(model: onnx.ModelProto, plan: PatchPlan, chosen: Sequence[Site]) -> Iterator[AtpatchError]:
    """Refuse ids of tokens that are no input of the main graph."""
    inputs = {value.name: value.type.tensor_type for value in requested(model)}
    for site in chosen:
        if (name := ids_read(plan.sites[site.id].detector)) is None:
            continue
        ids = inputs.get(name)
        known = ids is not None and len(ids.shape.dim) == 2 and ids.elem_type in _INTEGERS
        if site.where or not known:
            yield NOT_ADMITTED(
                f"site {site.id}: its detector reads ids of tokens from {name}, which is no input of whole"
                " numbers (samples, tokens)",
                "fit the hotfix on this model",
            )


def _second_run(model: onnx.ModelProto, plan: PatchPlan, chosen: dict[str, Site]) -> Iterator[AtpatchError]:
    groups = [[chosen[name] for name in group] for group in plan.groups]
    if any(site.where for group in groups for site in group):
        yield NOT_ADMITTED("two passes join only sites of the main graph", _ONE_PASS)
    yield from _samples_elsewhere(model)
    yield from _out_of_order(model)
    if (refusal := second_reader_refusal(model.graph, branch_free=plan.gating == "none")) is not None:
        yield refusal
    outputs = sample_outputs(model)
    if not outputs:
        yield NOT_ADMITTED("two passes need an output with a named first axis for the samples", _ONE_PASS)
    if plan.mend == "excise":
        found = tokens_of(model, groups)
        if isinstance(found, AtpatchError):
            yield found
    wanted = "an output (samples, classes) of two classes or more"
    if plan.accept == "flip" and not has_classes(model, outputs):
        yield NOT_ADMITTED(f"accepting flips only needs {wanted}", "patch with --accept always")
    if plan.margin and not has_classes(model, outputs):
        yield NOT_ADMITTED(f"a margin between class scores needs {wanted}")


def _healing(model: onnx.ModelProto, plan: PatchPlan, sites: Sequence[Site]) -> Iterator[AtpatchError]:
    for site in detecting_sites(plan, sites):
        if ids_read(plan.sites[site.id].detector) is not None and not site.self_attention:
            yield NOT_ADMITTED(
                f"healing: the detector of {site.id} reads the ids of all columns, and those of a cache are no input",
                "fit a detector that does not join equal tokens",
            )
    yield from _out_of_order(model)


def _samples_elsewhere(model: onnx.ModelProto) -> Iterator[AtpatchError]:
    """Refuse caches of shape (2, B, ...): their samples are on an axis from which no rows can be taken."""
    values = [*requested(model), *model.graph.output]
    leading = {value.type.tensor_type.shape.dim[0].dim_param for value in values if carries_samples(value)} - {""}
    for value in values:
        if any(dim.dim_param in leading for dim in value.type.tensor_type.shape.dim[1:]):
            yield NOT_ADMITTED(f"{value.name} carries samples on another axis than the first", _ONE_PASS)


def _out_of_order(model: onnx.ModelProto) -> Iterator[AtpatchError]:
    """Refuse nodes out of order: the copy is made in one sweep, so every value must be made before it is read."""
    pending = {name for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if not pending.isdisjoint(reads(node)):
            yield NOT_ADMITTED(
                "the nodes are not in execution order, which two passes need", f"sort the graph, or {_ONE_PASS}"
            )
        pending.difference_update(node.output)
