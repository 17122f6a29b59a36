"""What an export gave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rewriters.summary import Summarized, some

if TYPE_CHECKING:
    from .parity import Parity

__all__ = ["Exported", "ExportedFile"]


@dataclass(frozen=True)
class ExportedFile:
    """One graph of an exported folder. The attributes are those of `Exported`."""

    file: str
    task: str
    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: Mapping[str, tuple[int | str, ...]]
    parity: Mapping[str, Parity]
    sites: tuple[str, ...]
    rejected: int

    def to_json(self) -> dict[str, Any]:
        """An entry under "files" of `export --json`."""
        return {
            **{key: getattr(self, key) for key in ("file", "task", "rejected")},
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "outputs": {name: list(shape) for name, shape in self.outputs.items()},
            "sites": list(self.sites),
        }


@dataclass(frozen=True, repr=False)
class Exported(Summarized):
    """What `export` did. Of a folder with several graphs, names of inputs, outputs and sites begin with `FILE:`.

    Attributes:
        output: file or folder written.
        data: files with its weights next to it.
        source: what was exported, for people.
        task, exporter, opset, dtype: of the graph.
        attention: implementation that was traced; None where a plain module decides itself.
        inputs, outputs: name → shape, dynamic axes by label.
        parity: output → difference from torch.
        tolerance: largest difference allowed.
        sites: ids of the attention sites found.
        rejected: number of Softmax nodes that are not sites.
        seconds: time taken.
        files: of a folder, its graphs.
        copied: of a folder, names of the files that came along from the source.
    """

    output: str
    data: tuple[str, ...]
    source: str
    task: str
    exporter: str
    attention: str | None
    opset: int
    dtype: str
    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: Mapping[str, tuple[int | str, ...]]
    parity: Mapping[str, Parity]
    tolerance: float
    sites: tuple[str, ...]
    rejected: int
    seconds: float
    files: tuple[ExportedFile, ...] = ()
    copied: tuple[str, ...] = ()

    def summary(self) -> Iterator[tuple[str, str]]:
        yield "output", f"{self.output}, {some(self.data)} of data" if self.data else self.output
        how = ", ".join(filter(None, (self.exporter, self.attention, f"opset {self.opset}", self.dtype)))
        yield "source", f"{self.source} for {self.task} ({how})"
        far = max((found.difference for found in self.parity.values()), default=0.0)
        yield "difference", f"{far:.2g} from torch at most, {self.tolerance:g} allowed"
        yield "sites", f"{some(self.sites)}; rejected {self.rejected}"

    def to_json(self) -> dict[str, Any]:
        """The keys that `export --json` promises."""
        keys = (
            "output",
            "source",
            "task",
            "exporter",
            "attention",
            "opset",
            "dtype",
            "tolerance",
            "rejected",
            "seconds",
        )
        return {
            **{key: getattr(self, key) for key in keys},
            "data": list(self.data),
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "outputs": {name: list(shape) for name, shape in self.outputs.items()},
            **({"files": [one.to_json() for one in self.files], "copied": list(self.copied)} if self.files else {}),
            "parity": {name: {"difference": p.difference, "scale": p.scale} for name, p in self.parity.items()},
            "sites": list(self.sites),
        }
