"""What the user asked for: passes, repair and acceptance, and what a hotfix may cost on clean requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rewriters.choices import Accept, Mend

from .options import (
    MOST_EXTRA_RUNS,
    AcceptOption,
    FitOptions,
    PassesOption,
    SignalsOption,
)

__all__ = ["Wanted"]


@dataclass(frozen=True)
class Wanted:
    """passes, mend, accept: as in `PatchPlan`; "auto" lets the fit choose.

    signals: see `FitOptions`.
    by_length, sure: of oneclass on random rows: scores depend on the length of a request, and only requests count as
        flagged whose class scores are further apart than those of this share of the rows (None: all do). Where no
        second answer is compared there is no such condition, and max_clean_flagged is 0.
    tries_excision: one pass is also compared with excision, not only with redistribution in two passes: where all
        tokens make the answer, as in the mean of an embedding, the flagged ones add to it until they are taken out.
    max_clean_flagged, max_accuracy_drop, max_extra_runs, trim: of a fit on clean rows only, see `FitOptions`; a
        max_clean_flagged replaces the other two bounds.
    """

    passes: PassesOption = "auto"
    mend: Mend | Literal["auto"] = "auto"
    accept: AcceptOption = "auto"
    max_clean_flagged: float | None = None
    max_accuracy_drop: float | None = None
    max_extra_runs: float = MOST_EXTRA_RUNS
    trim: float = 0.0
    signals: SignalsOption = "auto"
    by_length: bool = False
    sure: float | None = None
    tries_excision: bool = False

    @classmethod
    def of(cls, options: FitOptions) -> Wanted:
        """What the options ask for, with defaults for bounds that are not given."""
        drop, runs = options.max_accuracy_drop, options.max_extra_runs
        return cls(
            options.passes,
            options.mend,
            options.accept,
            options.max_clean_flagged,
            drop,
            MOST_EXTRA_RUNS if runs is None else runs,
            options.trim,
            options.signals,
        )

    def accepted(self, by_default: Accept) -> Accept:
        """When the second run is accepted; `by_default`: for "auto"."""
        return by_default if self.accept == "auto" else self.accept
