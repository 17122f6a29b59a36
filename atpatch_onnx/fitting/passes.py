"""What the user asked for: passes, repair and acceptance."""

from __future__ import annotations

from dataclasses import dataclass

from rewriters.choices import Accept

from .options import MendOption, PassesOption

__all__ = ["Wanted"]


@dataclass(frozen=True)
class Wanted:
    """passes, mend, accept: as in `PatchPlan`; "auto" lets the fit choose on the selection part."""

    passes: PassesOption = "auto"
    mend: MendOption = "auto"
    accept: Accept = "always"
