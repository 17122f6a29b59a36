"""The engine's doors, for a model in any form (see `forms`): graph in, graph of the same kind out; a file is read,
never written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import onnx
import onnx_ir

from .editing import patcher
from .editing.fused_sites import with_lowered_forms
from .finding import finder
from .model.forms import Graph, Model, PathLike, read
from .plan import PatchPlan
from .sites import Rejection, Site
from .traces import Traces

__all__ = ["find_sites", "is_patched", "patch", "trace_sites", "unpatch"]


def find_sites(model: Model) -> tuple[tuple[Site, ...], tuple[Rejection, ...]]:
    """See `finder.find_sites`."""
    return finder.find_sites(read(model).proto)


def trace_sites(model: Model) -> Traces:
    """See `finder.trace_sites`; fused sites come with the nodes that would take their place."""
    proto = read(model).proto
    return with_lowered_forms(proto, finder.trace_sites(proto))


@overload
def patch(model: onnx_ir.Model, plan: PatchPlan, sites: Sequence[Site] | None = None) -> onnx_ir.Model: ...
@overload
def patch(
    model: onnx.ModelProto | PathLike, plan: PatchPlan, sites: Sequence[Site] | None = None
) -> onnx.ModelProto: ...
def patch(model: Model, plan: PatchPlan, sites: Sequence[Site] | None = None) -> Graph:
    """See `patcher.patch`; `sites` are looked for where they are not given."""
    loaded = read(model)
    return loaded.alike(
        patcher.patch(loaded.proto, plan, finder.find_sites(loaded.proto)[0] if sites is None else sites)
    )


@overload
def unpatch(model: onnx_ir.Model) -> onnx_ir.Model: ...
@overload
def unpatch(model: onnx.ModelProto | PathLike) -> onnx.ModelProto: ...
def unpatch(model: Model) -> Graph:
    """See `patcher.unpatch`."""
    loaded = read(model)
    return loaded.alike(patcher.unpatch(loaded.proto, exact=loaded.exact))


def is_patched(model: Model) -> bool:
    """Whether the model carries a patch."""
    return patcher.is_patched(read(model).proto)
