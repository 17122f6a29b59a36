"""The demo: inspect, patch, compare and time the committed victim, a Vision Transformer with a planted backdoor."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriters.model import io as model_io
from rewriters.model.atomic import write_file
from rewriters.model.bodies import walk_bodies
from rewriters.model.regular_files import check_destination
from rewriters.names import owner_of
from rewriters.sites import Inspection

from ..comparison.comparer import compare
from ..comparison.result import Comparison
from ..comparison.timing import latency_json
from ..errors import NO_SUCH_FILE, NOT_WRITABLE
from ..hotfix.file import Hotfix
from ..inference.datasets import DataSet, load_dataset
from ..inspection.inspector import inspect
from ..patching.apply import Patched, patch
from ..paths import temporary_folder
from .trigger import triggered_digits

__all__ = ["FILES", "FOLDER", "Demo", "Progress", "copy_demo", "run_demo"]

FOLDER = Path(__file__).resolve().parent / "digits"
"""The victim and its data come with the package."""

FILES = ("model.onnx", "model.hotfix", "clean.npz")

Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Demo:
    """The result of the demo.

    Attributes:
        inspection: of the victim.
        patch: what was written for serving, telemetry off.
        hotfix: what was patched in.
        inserted: site id → nodes inserted there.
        comparison: original and served graph on the test split.
    """

    inspection: Inspection
    patch: Patched
    hotfix: Hotfix
    inserted: Mapping[str, int]
    comparison: Comparison

    def to_json(self, report: Path | None) -> dict[str, Any]:
        """Plain shares and the ratio on top; intervals and counts under "details"."""
        original, patched = (self.comparison.figures[name] for name in self.comparison.graphs)
        latency = {
            kind: latency_json(seconds, *self.comparison.graphs) for kind, seconds in self.comparison.requests.items()
        }
        return {
            "original": {name: original.values[name] for name in ("accuracy", "asr")},
            "patched": {name: patched.values[name] for name in ("accuracy", "asr", "asr_star", "clean_flagged")},
            "latency_ratio": latency["clean"]["ratio"]["median"],
            "report": None if report is None else str(report),
            "details": {
                "original": {name: share.to_json() for name, share in original.shares.items()},
                "patched": {name: share.to_json() for name, share in patched.shares.items()},
                "latency": latency,
            },
        }


def run_demo(folder: Path = FOLDER, progress: Progress = lambda step: None) -> Demo:
    """Run the main job on the test split. Takes seconds; writes only to a temporary folder.

    Args:
        folder: of the victim: model.onnx, model.hotfix, clean.npz.
        progress: called with a line at each step.

    Raises:
        AtpatchError: ATP002 without the files, ATP050 without onnxruntime, and what patching raises.
    """
    source = folder / "model.onnx"
    if not source.is_file():
        raise NO_SUCH_FILE(
            f"the demo model {source} is not there", "install the package again: its data files are missing"
        )
    hotfix = Hotfix.load(folder / "model.hotfix")
    progress("inspect: looking for attention sites")
    inspection = inspect(source)
    with temporary_folder() as scratch:
        served = scratch / "patched.onnx"
        progress(f"patch: {len(hotfix.sites)} of {len(inspection.sites)} sites, as the hotfix says")
        patched = patch(source, served, hotfix=hotfix)
        progress("compare: clean and triggered digits through both models, then one request at a time")
        clean = load_dataset(folder / "clean.npz")
        comparison = compare(source, served, clean, triggered=_triggered(clean), hotfix=hotfix, threads=1)
        inserted = _inserted(model_io.load(served), patched.sites)
    return Demo(inspection, patched, hotfix, inserted, comparison)


def _triggered(clean: DataSet) -> dict[str, NDArray[Any]]:
    assert clean.labels is not None
    return triggered_digits(clean.inputs["pixel_values"], clean.labels)


def copy_demo(folder: Path) -> tuple[Path, ...]:
    """Write the victim's files into a folder, which is made where it is missing; the paths.

    Raises:
        AtpatchError: ATP019 where they cannot be written, ATP021 where something other than a regular file is there.
    """
    written = tuple(check_destination(folder / name, make_folder=True) for name in (*FILES, "triggered.npz"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NOT_WRITABLE(f"{folder} cannot be made: {error.strerror or error}") from error
    for path in written[:-1]:
        write_file(path, (FOLDER / path.name).read_bytes())
    content = io.BytesIO()
    arrays: Any = _triggered(load_dataset(FOLDER / "clean.npz"))
    np.savez_compressed(content, **arrays)
    write_file(written[-1], content.getvalue())
    return written


def _inserted(model: Any, sites: tuple[str, ...]) -> dict[str, int]:
    names = [node.name for _, body in walk_bodies(model) for node in body.node]
    return {site: sum(owner_of(name) == site for name in names) for site in sites}
