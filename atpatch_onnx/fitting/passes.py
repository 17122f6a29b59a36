"""What is asked of the passes of a hotfix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..hotfix import Accept

__all__ = ["MendOption", "PassesOption", "Wanted"]

PassesOption = Literal["one", "two", "auto"]
MendOption = Literal["redistribute", "excise", "auto"]


@dataclass(frozen=True)
class Wanted:
    """passes, mend, accept: as in `PatchPlan`; "auto" leaves it to the selection part."""

    passes: PassesOption = "auto"
    mend: MendOption = "auto"
    accept: Accept = "always"
