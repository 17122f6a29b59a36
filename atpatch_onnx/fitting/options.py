"""Options of a fit: `FitOptions`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from ..errors import BAD_OPTION
from ..inference.output_kinds import KINDS, ScoreThreshold, parse_threshold
from ..options import option
from .detectors import LABEL_FREE, LABELED, TRAINABLE

__all__ = [
    "AcceptOption",
    "Every",
    "FitKeywords",
    "FitOptions",
    "MendOption",
    "PassesOption",
    "Progress",
    "SignalsOption",
]

Every = int | Literal["auto"]
MendOption = Literal["redistribute", "excise", "heal", "auto"]
PassesOption = Literal["one", "two", "auto"]
SignalsOption = Literal["attention", "both", "auto"]
AcceptOption = Literal["always", "flip", "auto"]

Progress = Callable[[str, int, int], None]
"""Called with the step, how much of it is done, and how much there is."""

MOST_FLAGGED = 0.005
"""Share of clean requests, of a hotfix that has seen attacks: what it costs is not measured otherwise."""
MOST_EXTRA_RUNS = 0.03
"""On SST-2 BadNets 3 % of clean rows cost .2 to .3 points and catch 97 % of the attacks; 8 % cost 1.4 points for 99 %.
"""
MOST_ACCURACY_DROP = 0.002
MOST_CHANGED = 0.005
"""Without labels every changed prediction counts, and some of the changes are for the better."""

CLEAN_ROWS_ONLY: dict[str, float | None] = {"max_accuracy_drop": None, "max_extra_runs": None, "trim": 0.0}
"""Options of a fit on clean rows only, and their defaults."""

DETECTORS = ("auto", *TRAINABLE)

READ_FEWER_ROWS = ("profile", "oneclass")
"""Kinds that can work with a part of the query rows."""


def _every(text: str) -> Every:
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise ValueError(f"{text!r} is neither a whole number nor 'auto'")
    return int(text)


class FitKeywords(TypedDict, total=False):
    """`FitOptions` as keywords of a call."""

    detector: str
    max_clean_flagged: float | None
    max_accuracy_drop: float | None
    max_extra_runs: float | None
    trim: float
    signals: SignalsOption
    passes: PassesOption
    mend: MendOption
    accept: AcceptOption
    every: Every
    seed: int
    output_name: str | None
    answer_tokens: str | Sequence[int] | None
    answer_length: int
    output_kind: str | None
    score_threshold: ScoreThreshold | None
    threads: int | None
    include: str | None
    exclude: str | None
    alarm: bool
    max_alarms: float
    force: bool


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How a hotfix is fitted.

    Attributes:
        detector: kind of detector to train; auto: each kind that the data admit is tried on the selection part until
            one leaves nothing to gain, and the best is taken; with clean rows only, oneclass.
        max_clean_flagged: share of clean requests that may be flagged at any site, kept on the selection part; by
            default .005 with a debugging set. Kinds that learn from clean rows only go by the next two unless it is
            given.
        max_accuracy_drop: oneclass and statistic: the threshold is the lowest that costs no more accuracy than this on
            clean rows, or changes no larger share of predictions where there are no labels; by default .002 and .005.
        max_extra_runs: oneclass and statistic: and that flags no larger share of clean rows than this, since a flagged
            request runs again; by default .03. More is needed against attackers who hide their attention.
        trim: oneclass: share of the clean rows that may be attacks, as in traffic; they are set aside.
        signals: profile and oneclass: read the attention that a token gets, or both this and how much the token writes;
            auto: both for oneclass, attention for profile; detector auto tries both for profile, too, where attention
            leaves attacks.
        passes: patch each site in the order of the graph (one), or run flagged samples again (two); auto: two where
            that stops more attacks on the selection part.
        mend: with two passes: redistribute attention in the second run, or excise the flagged tokens from its request;
            auto: excise where the graph admits it and it is as good on the selection part; heal the keys and values of
            a causal language model, which its cache then carries.
        accept: with two passes: keep the outputs of the second run always, or only where the prediction flips; auto:
            flip for kinds that learn from clean rows only, where the graph has an output of class scores, else always.
        every: profile and oneclass: column means over every N-th query row, which is cheaper on long inputs and next to
            fused operators; auto, for profile: every eighth if that is as good, and the fit takes twice as long.
        seed: of split and training; the same seed gives the same file.
        output_name: graph output with the class scores; by default the first float output of rank 2.
        answer_tokens: causal language models: the tokens of the answers in the order of their classes, ids or (with
            --tokenizer) words such as " no, yes"; by default those of the debugging set, else all tokens.
        answer_length: causal language models: judge the whole greedy answer of so many tokens too; 0: only its first
            token.
        output_kind: what the model answers: class scores, an embedding for search (pooled where there is one for each
            token), or class scores of each token; by default what the debugging set was made for, else
            classes.
        score_threshold: of a model with one score (reranker, reward model): rows with a score above it are class 1,
            others class 0; top10%: above nine in ten of the clean rows, as the original scores them.
        threads: number of onnxruntime threads; by default onnxruntime decides.
        include: only sites whose id or scope matches this regular expression.
        exclude: leave out sites whose id or scope matches this regular expression.
        alarm: add outputs that say which requests have hidden states like those of the attacks, for attacks that
            rewrite whole sentences; changes no answer.
        max_alarms: share of clean requests that may raise it.
        force: write the hotfix even if it does not help.

    Raises:
        AtpatchError: ATP060 where options contradict each other or one is out of range.
    """

    detector: str = option("auto", choices=DETECTORS)
    max_clean_flagged: float | None = None
    max_accuracy_drop: float | None = None
    max_extra_runs: float | None = None
    trim: float = 0.0
    signals: SignalsOption = option("auto", choices=SignalsOption)
    passes: PassesOption = option("auto", choices=PassesOption)
    mend: MendOption = option("auto", choices=MendOption)
    accept: AcceptOption = option("auto", choices=AcceptOption)
    every: Every = option(1, metavar="N|auto", parse=_every)
    seed: int = 0
    output_name: str | None = option(None, metavar="NAME")
    answer_tokens: str | Sequence[int] | None = option(None, metavar="A,B,...")
    answer_length: int = option(0, metavar="N", at_least=0)
    output_kind: str | None = option(None, choices=KINDS)
    score_threshold: ScoreThreshold | None = option(None, metavar="SCORE|topP%", parse=parse_threshold)
    threads: int | None = None
    include: str | None = option(None, metavar="RE")
    exclude: str | None = option(None, metavar="RE")
    alarm: bool = False
    max_alarms: float = MOST_FLAGGED
    force: bool = False

    def __post_init__(self) -> None:
        if self.detector not in DETECTORS:
            raise BAD_OPTION(f"detector {self.detector!r} cannot be trained", f"choose from {', '.join(DETECTORS)}")
        for name in ("max_clean_flagged", "max_accuracy_drop", "max_extra_runs", "trim", "max_alarms"):
            share = getattr(self, name)
            if share is not None and not 0 <= share < 1:
                raise BAD_OPTION(f"{name} = {share} is not in [0, 1)")
        if self.detector in LABELED and any(getattr(self, name) != value for name, value in CLEAN_ROWS_ONLY.items()):
            raise BAD_OPTION(
                f"max_accuracy_drop, max_extra_runs and trim do not go with detector {self.detector!r}",
                "max_clean_flagged does",
            )
        for name, words in (
            ("passes", PassesOption),
            ("mend", MendOption),
            ("accept", AcceptOption),
            ("signals", SignalsOption),
        ):
            if getattr(self, name) not in get_args(words):
                raise BAD_OPTION(
                    f"{name} {getattr(self, name)!r} is unknown", f"choose from {', '.join(get_args(words))}"
                )
        if self.mend in ("excise", "heal") and self.passes == "one":
            what = "excision" if self.mend == "excise" else "healing"
            raise BAD_OPTION(f"{what} takes two passes", "leave --passes out, or --mend")
        if self.every == "auto":
            fits = self.detector in ("auto", "profile")
        else:
            fits = self.every == 1 or (self.every > 1 and self.detector in ("auto", *READ_FEWER_ROWS))
        if not fits:
            raise BAD_OPTION(
                f"every = {self.every} does not go with detector {self.detector!r}",
                f"1, or more with {' or '.join(READ_FEWER_ROWS)}; 'auto' with profile",
            )
        if self.answer_length < 0:
            raise BAD_OPTION(f"answer_length {self.answer_length} is negative")
        if self.seed < 0:
            raise BAD_OPTION(f"seed {self.seed} is negative")

    @property
    def most_flagged(self) -> float:
        """Bound on the share of clean requests that are flagged, given or by default."""
        if self.max_clean_flagged is not None:
            return self.max_clean_flagged
        if self.detector not in LABEL_FREE:
            return MOST_FLAGGED
        return MOST_EXTRA_RUNS if self.max_extra_runs is None else self.max_extra_runs
