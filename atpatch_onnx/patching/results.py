"""Records of what `patch` and `unpatch` did to a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rewriters.choices import ControlInputs, Gating, Mend, Passes
from rewriters.summary import Summarized, some

__all__ = ["Calibration", "FileLeft", "FilePatched", "FileUnpatched", "Patched", "Unpatched"]


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


@dataclass(frozen=True)
class FileLeft:
    """A model file of a folder that is as it was.

    Attributes:
        file: path inside the folder.
        part: what it is for, such as "decoder"; "" where it is not known.
        why: why it was left.
    """

    file: str
    part: str
    why: str

    def to_json(self) -> dict[str, Any]:
        """An entry under "left" of `patch --json` and `unpatch --json`."""
        return {"file": self.file, "part": self.part, "why": self.why}


@dataclass(frozen=True)
class FilePatched:
    """What `patch` did to one model file of a folder. The attributes are as in `FileLeft`, `Patched` and the plan."""

    file: str
    part: str
    sites: tuple[str, ...]
    detector: str
    gating: Gating
    passes: Passes
    controls: ControlInputs
    mend: Mend
    nodes_before: int
    nodes_after: int
    hotfix: str | None
    replaced: bool
    notes: tuple[str, ...]
    calibration: Calibration | None

    def to_json(self) -> dict[str, Any]:
        """An entry under "files" of `patch --json`."""
        keys = ("file", "part", "detector", "gating", "passes", "controls", "nodes_before", "nodes_after", "hotfix")
        return {
            **{key: getattr(self, key) for key in keys},
            "sites": list(self.sites),
            "calibration": None if self.calibration is None else self.calibration.to_json(),
        }


@dataclass(frozen=True)
class FileUnpatched:
    """What `unpatch` did to one model file of a folder. The attributes are those of `FileLeft` and `Unpatched`."""

    file: str
    part: str
    nodes_before: int
    nodes_after: int
    digest: str

    def to_json(self) -> dict[str, Any]:
        """An entry under "files" of `unpatch --json`."""
        return {key: getattr(self, key) for key in ("file", "part", "nodes_before", "nodes_after", "digest")}


@dataclass(frozen=True, repr=False)
class Patched(Summarized):
    """What `patch` did to a file, or to a folder. For a folder, what is said of sites, detectors and nodes is said of
    all its patched files together, and `files` has it file by file.

    Attributes:
        output: file or folder written.
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
        calibration: how the model was calibrated. None if it was not. Of several files the first one's.
        files: of a folder, its patched model files.
        left: of a folder, the model files that are as they were.
        linked, copied: of a folder, number of other files that were hard-linked, and copied.
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
    files: tuple[FilePatched, ...] = ()
    left: tuple[FileLeft, ...] = ()
    linked: int = 0
    copied: int = 0

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
            **_of_folder(self),
        }


@dataclass(frozen=True)
class Unpatched:
    """What `unpatch` did to a file, or to a folder. For a folder, numbers of nodes are sums.

    Attributes:
        output: file or folder written.
        nodes_before, nodes_after: number of nodes of the patched and of the restored graph, subgraphs and functions
            included.
        digest: SHA-256 of the restored model, hex; of several files the first one's.
        files, left, linked, copied: of a folder, as in `Patched`.
    """

    output: str
    nodes_before: int
    nodes_after: int
    digest: str
    files: tuple[FileUnpatched, ...] = ()
    left: tuple[FileLeft, ...] = ()
    linked: int = 0
    copied: int = 0

    def to_json(self) -> dict[str, Any]:
        """The keys that `unpatch --json` promises."""
        keys = ("output", "nodes_before", "nodes_after", "digest")
        return {**{key: getattr(self, key) for key in keys}, **_of_folder(self)}


def _of_folder(done: Patched | Unpatched) -> dict[str, Any]:
    """The keys that only folders have."""
    if not done.files:
        return {}
    return {
        "files": [one.to_json() for one in done.files],
        "left": [one.to_json() for one in done.left],
        "linked": done.linked,
        "copied": done.copied,
    }
