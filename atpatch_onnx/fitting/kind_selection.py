"""`detector="auto"`: which kinds of detector are tried, and which one the hotfix gets.

Kinds are tried in the order of their cost in the patched graph. Once one leaves nothing to gain, the more expensive
ones are not tried. One rule compares them, on the selection part only:

1. the fewest attacks left,
2. of those, the fewest clean predictions lost,
3. of those, the fewest attacks that are not flagged,
4. of those, the cheapest.

At each of the first three steps, a kind stays if it is within one standard error of the best (`as_few`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rewriters.errors import AtpatchError

from ..hotfix.evidence import DetectorsTried
from ..inference.datasets import DataSet
from .calibration import as_few
from .detectors import LABELED
from .fitted import Outcome, best
from .hotfix_maker import Fit
from .options import FitOptions, SignalsOption

__all__ = ["Chosen", "Trial", "choice_in_words", "choose_kind", "trials", "without_labels"]

NOTHING_TO_GAIN = "a cheaper detector leaves nothing to gain"
BOTH_SIGNALS = "profile, both signals"
NO_ANSWER_ROW = "it does not read the row of the answer"
NO_ATTACKS_LEFT = "attention leaves no attacks"


@dataclass(frozen=True)
class Trial:
    """One way to fit, for comparison with others.

    kind: one of `detectors.LABELED`. name: for people and for the evidence.
    unsuitable: why the data do not admit it, known before anything is run; None where they may.
    signals: what it reads, see `FitOptions`.
    if_attacks_left: only where the trial before it leaves attacks, or cannot be used.
    """

    kind: str
    name: str
    unsuitable: str | None = None
    signals: SignalsOption = "attention"
    if_attacks_left: bool = False


@dataclass(frozen=True)
class Chosen:
    """The winner, and the record of all trials."""

    fit: Fit
    record: DetectorsTried


def trials(data: DataSet, options: FitOptions, *, heals: bool = False) -> Iterator[Trial]:
    """The kinds that learn from labels, the cheapest in the patched graph first.

    heals: flagged tokens are healed; then only a profile reads the row of the answer, and both signals cost the same.
    """
    if heals:
        signals: SignalsOption = "attention" if options.signals == "attention" else "both"
        yield Trial("static", "static", NO_ANSWER_ROW)
        yield Trial("profile", "profile" if signals == "attention" else BOTH_SIGNALS, signals=signals)
        yield Trial("cnn", "cnn", NO_ANSWER_ROW)
        return
    reason = "it reads all query rows, and every is given" if options.every != 1 else None
    if options.signals == "both":
        reason = "it does not read how much a token writes, and signals is given"
    yield Trial("static", "static", reason or _not_static(data, options.max_clean_flagged is None))
    if options.signals != "both":
        yield Trial("profile", "profile")
    if options.signals != "attention":
        yield Trial("profile", BOTH_SIGNALS, signals="both", if_attacks_left=options.signals == "auto")
    yield Trial("cnn", "cnn", reason)


def choose_kind(
    trials: Sequence[Trial], before: Outcome, fit_kind: Callable[[Trial], Fit | AtpatchError]
) -> Chosen | Mapping[str, str]:
    """Fit what the data admit, and take the best by the rule of this module; or why none can be used, by name.

    Args:
        trials: the cheapest first.
        before: the outcome of the original model.
        fit_kind: a fit with an outcome, or why there is none.
    """
    fits: list[tuple[Trial, Fit, Outcome]] = []
    not_used: dict[str, str] = {}
    last: Outcome | None = None
    for trial in trials:
        reason = trial.unsuitable or (_needless(trial, last, before) if last else None)
        if reason is None:
            last = None
            found = fit_kind(trial)
            if isinstance(found, AtpatchError):
                reason = found.what
            else:
                last = found.fitted.outcome
                assert last is not None  # a fit on labeled rows has one
                fits.append((trial, found, last))
        if reason is not None:
            not_used[trial.name] = reason
    if not fits:
        return not_used
    not_used["oneclass"] = "labeled rows are given, and it learns from clean ones only"
    trial, fit, _ = fits[best([outcome for *_, outcome in fits])]
    compared = {one.name: outcome.to_json() for one, _, outcome in fits}
    return Chosen(fit, {"chosen": trial.name, "compared": compared, "not_used": not_used})


def without_labels() -> DetectorsTried:
    """The record where there are only clean rows: nothing can be compared."""
    return {"chosen": "oneclass", "compared": {}, "not_used": dict.fromkeys(LABELED, "no labeled row is given")}


def choice_in_words(record: DetectorsTried) -> list[str]:
    """What was compared, and why the others were not used; a line each."""
    figures = [f"{name} {one['left']} / {one['lost']} / {one['missed']}" for name, one in record["compared"].items()]
    counted = "attacks left / clean rows lost / attacks not flagged, on the selection part"
    return [
        f"detector {record['chosen']}, chosen by the fit" + (f" ({counted}: {', '.join(figures)})" if figures else ""),
        *(f"{name} not used: {reason}" for name, reason in record["not_used"].items()),
    ]


def _needless(trial: Trial, last: Outcome, before: Outcome) -> str | None:
    if last.leaves_nothing(before):
        return NOTHING_TO_GAIN
    return NO_ATTACKS_LEFT if trial.if_attacks_left and as_few(last.left, 0) else None


def _not_static(data: DataSet, may_flag_all: bool) -> str | None:
    assert data.columns is not None
    labeled = data.columns[data.columns.any(1)]
    if data.group is None:
        return "it would act on every request, and these rows do not differ in a protected attribute"
    if not may_flag_all:
        return "it flags every request, and a bound on the clean flag rate is given"
    if (labeled != labeled[0]).any():
        return "the labeled columns are not the same in every row"
    return None
