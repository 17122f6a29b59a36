"""What a fit writes into its hotfix as evidence, as the JSON has it.

It is plain data. Hotfixes of older versions lack some of the entries, so a reader asks with `get` for those that
are not `Required`.
"""

# No `annotations` from __future__: TypedDict must see at run time which entries are required.

from collections.abc import Mapping, Sequence
from typing import Literal, NotRequired, Required, TypedDict

from rewriters.choices import Accept, Joint, Mend, Passes

from .cost_figures import CostFigures
from .likeness import LikenessFigures

__all__ = [
    "AcceptChosen",
    "AlarmFigures",
    "BenignFigures",
    "Bound",
    "Calibration",
    "CompanionFigures",
    "DetectorsTried",
    "DoseFigures",
    "EqualTokensTried",
    "Evidence",
    "FigureName",
    "Figures",
    "KindFigures",
    "MendTried",
    "NotTried",
    "PassesTried",
    "Rate",
    "Report",
    "RowCounts",
    "ScoreFigures",
    "SignalsRead",
    "SiteEvidence",
    "SiteRates",
    "SitesTried",
]


FigureName = Literal["unfair", "recovered", "asr", "asr_star", "accuracy", "clean_changed"]


class Rate(TypedDict):
    """`k` of `n` with its 95 % Wilson interval; an empty sample has no rate."""

    k: int
    n: int
    rate: NotRequired[float]
    low: NotRequired[float]
    high: NotRequired[float]


class Bound(TypedDict):
    """A rate compared with the rate that was allowed; "not shown" where its interval holds the bound."""

    allowed: float
    verdict: Literal["met", "missed", "not shown"]


class Figures(TypedDict, total=False):
    """Rates of one part of the rows under one model's predictions; those that can be computed from the data."""

    unfair: Rate
    recovered: Rate
    asr: Rate
    asr_star: Rate
    accuracy: Rate
    clean_changed: Rate


class ScoreFigures(TypedDict):
    """How well a patch does on one part: see `fitting.judge.Score`, and `fitting.tuning` for the last two."""

    attack: float
    astray: float
    lost: float
    left: int
    leaning: NotRequired[float]
    missed: NotRequired[int]
    elsewhere: NotRequired[int]


class NotTried(TypedDict):
    """Why something was not tried."""

    not_tried: str


class BenignFigures(ScoreFigures):
    """One choice of the benign pair."""

    level: float
    values: Literal["own", "benign"]


class CompanionFigures(ScoreFigures):
    """One factor of the lower bar."""

    factor: float


class SitesTried(ScoreFigures):
    """The sites before those that change nothing were left out, and the score of the choice."""

    tried: Sequence[str]


class PassesTried(TypedDict, total=False):
    """What was chosen, and the score of each way."""

    chosen: Passes
    one: ScoreFigures
    two: ScoreFigures | NotTried


class MendTried(TypedDict, total=False):
    """What was chosen, and the score of each way."""

    chosen: Mend
    redistribute: ScoreFigures
    excise: ScoreFigures | NotTried


class EqualTokensTried(TypedDict, total=False):
    """Whether columns of equal tokens are judged together, and the score of each way where both were tried."""

    chosen: bool
    apart: ScoreFigures
    together: ScoreFigures


class KindFigures(TypedDict):
    """A kind of detector on the selection part: attacks left, clean predictions lost, attacks not flagged (rows)."""

    left: int
    lost: int
    missed: int


class DetectorsTried(TypedDict):
    """Of a fit that chose the kind of detector itself: the chosen one, those that were compared, and why the others
    were not used.
    """

    chosen: str
    compared: Mapping[str, KindFigures]
    not_used: Mapping[str, str]


class AcceptChosen(TypedDict):
    """Which answers of flagged requests are accepted, and why all of them are where that was left to the fit."""

    chosen: Accept
    why: NotRequired[str]


class SignalsRead(TypedDict):
    """What detectors read, and site by site why the norms are those of the values before the output projection."""

    chosen: Literal["attention", "both"]
    unprojected: Mapping[str, str]


class ProbeTried(TypedDict):
    """The first so many sites detecting together: attacks of the selection part that they miss, the share of clean
    requests that they are expected to flag, and attacks left where the patched graph was run.
    """

    depth: int
    missed: int
    expected_flagged: float
    left: int | None


class ProbePrice(TypedDict):
    """Which sites detect where tokens are healed, and what they cost: the last one, its place among all sites, and the
    share of the sites and of the graph's nodes that a flagged prompt runs twice.
    """

    last_site: str
    depth: int
    sites: int
    layers_share: float
    nodes_share: float


class ProbeFigures(ProbePrice):
    """The same, and what was compared."""

    tried: Sequence[ProbeTried]


class Calibration(TypedDict, total=False):
    """What was chosen on the selection part, and by which figures."""

    recall: Rate
    clean_flagged: Required[Rate]
    thresholds: Sequence[float]
    benign: Sequence[BenignFigures]
    passes: Required[PassesTried]
    mend: MendTried
    equal_tokens: EqualTokensTried
    companion: Sequence[CompanionFigures]
    sites: SitesTried
    joint: Joint
    accept: AcceptChosen
    costs: CostFigures
    set_aside: int
    signals: SignalsRead
    probe: ProbeFigures


class AlarmFigures(TypedDict):
    """What the alarm says on the report part: clean rows, attacks, and those attacks that still work."""

    clean: Rate
    clean_bound: Bound
    attacks: Rate
    left: Rate


class SiteRates(TypedDict):
    """What the detector of one site does on the report part."""

    recall: Rate
    clean_flagged: Rate


class DoseFigures(TypedDict):
    """Rows of the report part with one number of copies of the trigger: attacks that work before and after, and rows
    that are flagged.
    """

    before: Rate
    after: Rate
    flagged: Rate


class WholeAnswerFigures(TypedDict):
    """The same of greedy answers of so many tokens, which are right where every token is."""

    length: int
    before: Figures
    after: Figures


class Report(TypedDict):
    """What the patched graph does on the report part, by which nothing was chosen; `doses` by copies of the trigger."""

    before: Figures
    after: Figures
    recall: Rate
    clean_flagged: Rate
    clean_flagged_bound: NotRequired[Bound]
    sites: Mapping[str, SiteRates]
    doses: NotRequired[Mapping[str, DoseFigures]]
    whole_answers: NotRequired[WholeAnswerFigures]
    likeness: NotRequired[LikenessFigures]
    alarm: NotRequired[AlarmFigures]


class SiteEvidence(TypedDict):
    """One site: its recall where it is known, whether it detects, quantiles of its scores on clean rows and others."""

    recall: float | None
    detects: bool
    scores: NotRequired[Mapping[str, Sequence[float]]]


class RowCounts(TypedDict):
    """Rows of one part."""

    clean: int
    anomalous: int


class Evidence(TypedDict, total=False):
    """All of it; empty in a hotfix that was not fitted."""

    max_clean_flagged: float
    every: int
    detectors: DetectorsTried
    rows: Mapping[str, RowCounts]
    sites: Mapping[str, SiteEvidence]
    together: Mapping[str, Sequence[float]]
    skipped: Mapping[str, str]
    calibration: Calibration
    report: Report
