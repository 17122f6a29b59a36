"""What is asked of the passes of a hotfix, and what a graph admits of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from rewriters.choices import Accept
from rewriters.errors import PLAN_MISFIT, AtpatchError

__all__ = ["Wanted", "if_admitted"]

from .options import MendOption, PassesOption

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Wanted:
    """passes, mend, accept: as in `PatchPlan`; "auto" leaves it to the selection part."""

    passes: PassesOption = "auto"
    mend: MendOption = "auto"
    accept: Accept = "always"


def if_admitted(attempt: Callable[[], Outcome]) -> tuple[Outcome | None, str]:
    """What comes of two passes or of excision; None and the reason where the graph does not admit them (ATP015)."""
    try:
        return attempt(), ""
    except AtpatchError as error:
        if error.code != PLAN_MISFIT.code:
            raise
        return None, error.what
