"""Options of a comparison: `CompareOptions`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from ..errors import BAD_OPTION
from ..inference.output_kinds import KINDS, ScoreThreshold, parse_threshold
from ..options import option

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rewriters.model.forms import PathLike

    from ..hotfix.file import Hotfix

__all__ = ["CompareKeywords", "CompareOptions"]


class CompareKeywords(TypedDict, total=False):
    """`CompareOptions` as keywords of a call."""

    group: str | Sequence[Any] | NDArray[Any] | None
    positive: int
    hotfix: PathLike | Hotfix | None
    tokenizer: PathLike | None
    output_name: str | None
    classes: bool | None
    threads: int | None
    batch: int
    providers: Sequence[str] | None
    seconds: float
    exemplar: bool
    names: Mapping[str, Any] | None
    answer_tokens: str | Sequence[int] | None
    answer_length: int
    output_kind: str | None
    score_threshold: ScoreThreshold | None


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """How graphs are compared.

    Attributes:
        group: protected attribute of the clean rows, for parity, odds and opportunity: INPUT, INPUT:INDEX, or in
            Python the values (N,). Needs fairlearn.
        positive: class that is the favorable outcome of the group metrics.
        hotfix: what was patched in, for pictures of attention; by default ORIGINAL's own where it is the one.
        tokenizer: folder of a text model's tokenizer: words next to its columns on the page.
        output_name: graph output with the class scores; by default the first float output of rank 2 with more than one
            column.
        classes: False for a model whose outputs are numbers, not class scores; by default as the outputs look.
        threads: threads of onnxruntime; by default its own choice.
        batch: rows in one run, unless the graph fixes that.
        providers: execution providers, in order of preference; by default the CPU's.
        seconds: for timing single requests, clean and flagged ones each; 0: none.
        exemplar: capture the attention maps of the most telling row.
        names: what classes, columns and the attribute are called, as JSON; see `naming.Names`.
        answer_tokens: of a decoder, first tokens of the answers by class, ids or words with `tokenizer`; by default
            those of the data, else every token is a class.
        answer_length: of a decoder, tokens of the greedy answers that are compared; 0: only the first one.
        output_kind: what the model answers: class scores, an embedding for search (pooled where there is one for each
            token), or class scores of each token; by default what the data set was made for, else
            classes.
        score_threshold: of a model with one score (reranker, reward model): rows with a score above it are class 1,
            others class 0; top10%: above nine in ten of the clean rows, as the original scores them.

    Raises:
        AtpatchError: ATP060 where one is out of range.
    """

    group: str | Sequence[Any] | NDArray[Any] | None = option(None, metavar="INPUT[:INDEX]")
    positive: int = 1
    hotfix: PathLike | Hotfix | None = None
    tokenizer: PathLike | None = option(None, metavar="FOLDER")
    output_name: str | None = option(None, metavar="NAME")
    classes: bool | None = None
    threads: int | None = option(None, at_least=1)
    batch: int = option(64, at_least=1)
    providers: Sequence[str] | None = None
    seconds: float = option(3.0, at_least=0)
    exemplar: bool = True
    names: Mapping[str, Any] | None = None
    answer_tokens: str | Sequence[int] | None = option(None, metavar="A,B,...")
    answer_length: int = option(8, at_least=0)
    output_kind: str | None = option(None, choices=KINDS)
    score_threshold: ScoreThreshold | None = option(None, metavar="SCORE|topP%", parse=parse_threshold)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise BAD_OPTION(f"a batch of {self.batch} rows", "give 1 or more")
        if self.score_threshold is not None and (self.classes is False or self.answer_tokens is not None):
            raise BAD_OPTION("--score-threshold makes classes of one score", "leave out --numbers and --answer-tokens")
