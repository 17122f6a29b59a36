"""What is asked of the passes of a hotfix."""

from __future__ import annotations

from dataclasses import dataclass

from rewriters.choices import Accept

from .options import MendOption, PassesOption

__all__ = ["Wanted"]


@dataclass(frozen=True)
class Wanted:
    """passes, mend, accept: as in `PatchPlan`; "auto" leaves it to the selection part."""

    passes: PassesOption = "auto"
    mend: MendOption = "auto"
    accept: Accept = "always"
