"""What a patched graph flags: the masks that the stamp records, and a copy of the graph with them as outputs.

1. The record names one mask (B', K) bool for each patched site of the main graph; sites of a group that decide together
   share one. B' is B, or B times the number of windows where a map's first axis counts windows too.
2. The mask of a site inside a subgraph or a function cannot be an output. A graph that reports only some flags would
   seem to flag less than it does, so such a graph reports none.
3. Columns that are the same in every request need no mask: the record lists them, and observing makes the mask.
4. Files of older versions have no record. They report flags only if every patched site has a mask of the old name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from ..checks import opset_of
from ..emit import ConstantPool, Emitter
from ..model.bodies import walk_bodies
from ..names import COLUMNS, ENABLED, FLAGGED, is_inserted, make_name
from ..plan import PatchPlan
from ..sites import Site
from ..subgraphs.fixed_columns import FixedColumns, flag_fixed
from ..subgraphs.site import SitePatch
from . import stamp as stamping
from .telemetry import add_telemetry

__all__ = ["RECORD", "Observed", "Recorded", "observe", "record", "recorded"]

RECORD = "observe"
"""Key of the record in the stamp."""
Recorded = str | dict[str, Any] | None
_AXES = ("maps", "columns")
_FORMER_ROLES = ("joined_columns", "columns")
"""What a mask was called before there was a record: own flags joined with those of earlier sites, own flags."""
_AGAIN = "patch the original again, or with --telemetry"


@dataclass(frozen=True)
class Observed:
    """A graph and the flags that it reports.

    Attributes:
        model: gives out `atpatch_flagged` and `atpatch_columns/<site>` where `sites` is not empty; the given model
            itself where it has them already, or cannot have them.
        sites: ids of all patched sites, in the order of `atpatch_flagged`; empty where the graph does not report
            what it flags.
        reason: why it reports no flags; "" where it does.
    """

    model: onnx.ModelProto
    sites: tuple[str, ...]
    reason: str = ""


def recorded(site: Site, columns: str | None, patch: SitePatch | None) -> Recorded:
    """What is recorded of a site: its mask, or where there is none its columns; None where these are in a subgraph.

    Args:
        columns: name of the mask in the main graph, "" where there is none; None where it is in a subgraph.
        patch: None of a site that has none of its own.
    """
    if columns is None or columns or patch is None or patch.fixed is None:
        return columns
    fixed = patch.fixed
    return {"columns": fixed.columns, "of": len(fixed.flagged), "like": site.product, "samples": fixed.samples}


def record(plan: PatchPlan, sites: Mapping[str, Recorded]) -> dict[str, str]:
    """The fact for the stamp.

    Args:
        sites: patched site → name of its mask in the main graph, or its columns, see `recorded`; None for others.
    """
    return {
        RECORD: json.dumps(
            {"masks": sites, "axes": _AXES, "passes": plan.passes, "groups": plan.groups}, separators=(",", ":")
        )
    }


def observe(model: onnx.ModelProto) -> Observed:
    """A model that reports what it flags. Never raises: where flags cannot be observed, there is a reason."""
    stamped = stamping.read(model)
    patched = stamped.get("sites", "").split()
    if FLAGGED in {output.name for output in model.graph.output}:
        told = tuple(
            output.name.removeprefix(COLUMNS) for output in model.graph.output if output.name.startswith(COLUMNS)
        )
        missing = [site for site in patched if site not in told]
        return Observed(model, (), _elsewhere(missing)) if missing else Observed(model, told)
    if not stamped:
        inserted = any(
            is_inserted(name) for _, body in walk_bodies(model) for node in body.node for name in node.output
        )
        return Observed(
            model, (), f"its stamp is gone: a tool dropped its metadata; {_AGAIN}" if inserted else "it is not patched"
        )
    made = {name for node in model.graph.node for name in node.output}
    masks: Mapping[str, str | _Listed]
    masks, reason = _recorded(stamped[RECORD], made) if RECORD in stamped else _former(patched, made)
    if reason:
        return Observed(model, (), reason)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    pool = ConstantPool(copy.graph.initializer if copy.ir_version >= 4 else None, "observed")
    e = Emitter("observed", opset_of(copy, ()), pool, {})
    enabled = ENABLED if any(value.name == ENABLED for value in copy.graph.input) else None
    named = [
        (site, mask if isinstance(mask, str) else flag_fixed(e, mask.fixed, mask.like, enabled))
        for site, mask in masks.items()
    ]
    copy.graph.node.extend([*e.nodes, *add_telemetry(copy, named, pool)])
    return Observed(copy, tuple(masks))


@dataclass(frozen=True)
class _Listed:
    """Columns that are the same in every request; `like`: a value with the samples on the axis `fixed.samples`."""

    fixed: FixedColumns
    like: str


def _recorded(text: str, made: set[str]) -> tuple[Mapping[str, str | _Listed], str]:
    try:
        masks = {str(site): _mask(given) for site, given in json.loads(text)["masks"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}, f"the record of its masks is damaged; {_AGAIN}"
    found = {site: mask for site, mask in masks.items() if mask is not None}
    if len(found) < len(masks) or not found:
        return {}, _elsewhere([site for site in masks if site not in found])
    if gone := [site for site, mask in found.items() if (mask if isinstance(mask, str) else mask.like) not in made]:
        return {}, f"a tool has renamed or removed the masks of {_some(gone)}; {_AGAIN}"
    return found, ""


def _mask(given: Any) -> str | _Listed | None:
    if not isinstance(given, dict):
        return None if given is None else str(given)
    flagged = np.isin(np.arange(int(given["of"])), [int(column) for column in given["columns"]])
    return _Listed(FixedColumns(flagged, samples=int(given["samples"])), str(given["like"]))


def _former(patched: list[str], made: set[str]) -> tuple[dict[str, str], str]:
    masks = {
        site: next((name for role in _FORMER_ROLES if (name := make_name(site, role)) in made), "") for site in patched
    }
    if not masks or not all(masks.values()):
        return {}, f"an earlier version patched it and did not record where its masks are; {_AGAIN}"
    return masks, ""


def _elsewhere(sites: list[str]) -> str:
    return f"the masks of {_some(sites)} are inside a subgraph or a function, where no output reaches"


def _some(sites: list[str]) -> str:
    return sites[0] if len(sites) == 1 else f"{len(sites)} sites, {sites[0]} first"
