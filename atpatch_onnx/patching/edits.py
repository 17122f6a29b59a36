"""Patches one graph in memory, and says what was done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from rewriters.editing import patcher
from rewriters.model import io as model_io
from rewriters.model.forms import Loaded
from rewriters.names import ALARM
from rewriters.plan import PatchPlan

from ..hotfix.file import kinds
from ..hotfix.options import PatchOptions
from ..inference.controls import capture_notes, control_notes, gating_notes, span_notes
from ..inspection.inspector import count_nodes, original_of
from .planning import Planned, make_plan
from .self_calibration import Progress

__all__ = ["Edit", "patch_loaded"]

ALARM_NOTE = (
    f"the output {ALARM} says which requests have hidden states like those of the attacks of the fit; it changes no"
    " answer, so what is done with it is up to you"
)


@dataclass(frozen=True)
class Edit:
    """A graph before and after it was patched.

    Attributes:
        original: without any patch.
        patched: with the new one.
        planned: the plan, and where it comes from.
        replaced: the graph had a patch, which was taken out first.
    """

    original: onnx.ModelProto
    patched: onnx.ModelProto
    planned: Planned
    replaced: bool

    @property
    def plan(self) -> PatchPlan:
        return self.planned.plan

    @property
    def sites(self) -> tuple[str, ...]:
        """Ids of the patched sites, in graph order."""
        return tuple(site.id for site in self.planned.sites if site.id in self.plan.sites)

    @property
    def detector(self) -> str:
        return kinds(self.plan.sites.values())

    def facts(self, folders: Sequence[Path]) -> dict[str, Any]:
        """What results say of it, of a file as of a file in a folder; `folders`: see `notes`."""
        return {
            "sites": self.sites,
            "detector": self.detector,
            "gating": self.plan.gating,
            "passes": self.plan.passes,
            "nodes_before": count_nodes(self.original),
            "nodes_after": count_nodes(self.patched),
            "hotfix": self.planned.hotfix,
            "replaced": self.replaced,
            "notes": self.notes(folders),
            "calibration": self.planned.calibration,
        }

    def notes(self, folders: Sequence[Path]) -> tuple[str, ...]:
        """One-line remarks for people; `folders`: where the graph lies, before and after."""
        controls = control_notes(self.original, self.plan, folders)
        spans, captures = span_notes(self.plan, folders), capture_notes(self.plan, folders)
        alarms = (ALARM_NOTE,) if self.plan.alarm is not None else ()
        return (*self.planned.notes, *controls, *spans, *gating_notes(self.plan), *captures, *alarms)


def patch_loaded(
    loaded: Loaded, options: PatchOptions, progress: Progress | None, *, feeds_another: bool = False
) -> Edit:
    """Patch a graph that was read; nothing is written but the calibrated hotfix if it is asked for.

    Args:
        feeds_another: its hidden states are the input of another graph, see `PatchPlan.states`.

    Raises:
        AtpatchError: those of `patching.apply.patch` that are not about files to write.
    """
    original = original_of(loaded)
    model_io.require_opset(original)
    planned = make_plan(original, loaded, options, progress)
    if feeds_another and planned.plan.mend == "heal":
        planned = replace(planned, plan=replace(planned.plan, states=True))
    patched = patcher.patch(original, planned.plan, planned.sites, planned.places)
    return Edit(original, patched, planned, patcher.is_patched(loaded.proto))
