"""Records of what `patch` and `unpatch` did to a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rewriters.choices import Passes
from rewriters.summary import Summarized, some

__all__ = ["Calibration", "Patched", "Unpatched"]


@dataclass(frozen=True)
class Calibration:
    """How a hotfix was calibrated.

    Attributes:
        source: "noise", or the file with the rows ("rows" if they were given in memory).
        rows: how many rows there were.
        clean_flagged: share of the rows held back that the patched graph flags.
        seconds: time taken.
        ends: where the special tokens of random texts come from; "" without any, or with rows.
    """

    source: str
    rows: int
    clean_flagged: float
    seconds: float
    ends: str = ""

    def to_json(self) -> dict[str, Any]:
        """The keys under "calibration" that `patch --json` promises."""
        return {key: getattr(self, key) for key in ("source", "rows", "clean_flagged", "seconds")}


@dataclass(frozen=True, repr=False)
class Patched(Summarized):
    """What `patch` did.

    Attributes:
        output: file written.
        sites: ids of the patched sites, in graph order.
        detector: kinds of the detectors, usually one.
        gating: "if" or "none".
        passes: "one" or "two".
        nodes_before, nodes_after: number of nodes of the original and of the patched graph, subgraphs and functions
            included.
        seconds: time of the whole call, including reading and writing.
        hotfix: hotfix file used. None if there was none.
        replaced: the input had a patch, which was taken out first.
        notes: one-line remarks for people.
        calibration: how the model was calibrated. None if it was not.
    """

    output: str
    sites: tuple[str, ...]
    detector: str
    gating: str
    nodes_before: int
    nodes_after: int
    seconds: float
    hotfix: str | None = None
    replaced: bool = False
    notes: tuple[str, ...] = ()
    passes: Passes = "one"
    calibration: Calibration | None = None

    def summary(self) -> Iterator[tuple[str, str]]:
        yield "output", self.output + (" (an older patch replaced)" if self.replaced else "")
        source = f" from {self.hotfix}" if self.hotfix else ""
        yield "detector", f"{self.detector}{source}, gating {self.gating}, passes {self.passes}"
        yield "sites", some(self.sites)
        yield "nodes", f"{self.nodes_before} before, {self.nodes_after} after, in {self.seconds:.2f} s"

    def to_json(self) -> dict[str, Any]:
        """The keys that `patch --json` promises."""
        keys = ("output", "detector", "gating", "nodes_before", "nodes_after", "seconds")
        return {
            **{key: getattr(self, key) for key in keys},
            "sites": list(self.sites),
            "calibration": None if self.calibration is None else self.calibration.to_json(),
        }


@dataclass(frozen=True)
class Unpatched:
    """What `unpatch` did.

    Attributes:
        output: file written.
        nodes_before, nodes_after: number of nodes of the patched and of the restored graph, subgraphs and functions
            included.
        digest: SHA-256 of the restored model, hex.
    """

    output: str
    nodes_before: int
    nodes_after: int
    digest: str

    def to_json(self) -> dict[str, Any]:
        """The keys that `unpatch --json` promises."""
        return {key: getattr(self, key) for key in ("output", "nodes_before", "nodes_after", "digest")}
