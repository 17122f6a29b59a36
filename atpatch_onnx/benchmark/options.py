"""Options of a benchmark: `BenchOptions`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from ..errors import BAD_OPTION
from ..options import option

__all__ = ["KINDS", "RATIOS", "BenchKeywords", "BenchOptions", "Kind"]

Kind = Literal["clean", "flagged"]
"""Of a request."""
KINDS: tuple[Kind, ...] = get_args(Kind)
RATIOS = ("load", "peak_clean", "peak", "file", "nodes")
"""What may have a bound besides the times of requests: patched / original, and nodes a site."""


class BenchKeywords(TypedDict, total=False):
    """`BenchOptions` as keywords of a call."""

    share: float
    threads: int
    provider: str
    pairs: int
    seconds: float
    rounds: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How a patch is timed and measured.

    Attributes:
        share: share of a batch to be flagged, where no rows are given for that; one sample at least.
        threads: threads of onnxruntime within an operator.
        provider: execution provider; on CUDA inputs and outputs are bound to device memory.
        pairs: timings of a request, at most.
        seconds: for timing one request; ten pairs are taken in any case.
        rounds: processes a graph for load time and memory; 0: none.
        seed: of random inputs.

    Raises:
        AtpatchError: ATP060 where one is out of range.
    """

    share: float = 1.0
    threads: int = option(1, at_least=1)
    provider: str = "CPUExecutionProvider"
    pairs: int = option(200, at_least=1)
    seconds: float = 5.0
    rounds: int = option(3, at_least=0)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise BAD_OPTION(f"a share of {self.share} of the batch is not in (0, 1]")
        if self.threads < 1 or self.pairs < 1 or not self.seconds > 0 or math.isinf(self.seconds):
            raise BAD_OPTION("threads, pairs and seconds must be above 0")
