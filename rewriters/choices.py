"""The words that options of a patch may be, in one place: a plan, a hotfix, the API and the command line share them."""

from __future__ import annotations

from typing import Literal

__all__ = ["Accept", "ControlInputs", "Gating", "Joint", "Mend", "Passes", "SpanInput"]

ControlInputs = Literal["optional", "required", "none"]
"""What `atpatch_enabled` and `atpatch_threshold` are: see `PatchPlan.controls`."""

Gating = Literal["if", "none"]
Passes = Literal["one", "two"]
Joint = Literal["any", "sum"]
Mend = Literal["redistribute", "excise", "heal"]
Accept = Literal["always", "flip"]
SpanInput = Literal["optional", "required"]
"""What `atpatch_span` is: see `PatchPlan.span`."""
