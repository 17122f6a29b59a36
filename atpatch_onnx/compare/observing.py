"""Flags of a patched graph: from its telemetry, else from a copy that gives out the columns which the patch computes anyway."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from rewriters.emit import PREFIX, ConstantPool
from rewriters.sites import Site
from rewriters.telemetry import COLUMNS, FLAGGED, add_telemetry

__all__ = ["observed"]

# Roles of a site's column mask, what is acted on first: own flags joined with those of earlier sites, own flags.
_ROLES = ("joined_columns", "columns")


def observed(model: onnx.ModelProto, sites: Sequence[Site]) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A model that says what it flags, and the ids of the sites it speaks of, in the order of `atpatch_flagged`.

    The model itself where it has telemetry; no sites at all where it has no patch in its main graph.

    Args:
        sites: of the original model.
    """
    outputs = {output.name for output in model.graph.output}
    if FLAGGED in outputs:
        return model, tuple(output.name.removeprefix(COLUMNS) for output in model.graph.output if output.name.startswith(COLUMNS))
    made = {name for node in model.graph.node for name in node.output}
    masks = []
    for site in sites:
        mask = next((name for role in _ROLES if (name := f"{PREFIX}{site.id}/{role}") in made), None)
        if mask is not None:
            masks.append((site, mask))
    if not masks:
        return model, ()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    pool = ConstantPool(copy.graph.initializer if copy.ir_version >= 4 else None, "observed")
    copy.graph.node.extend(add_telemetry(copy, masks, pool))
    return copy, tuple(site.id for site, _ in masks)
