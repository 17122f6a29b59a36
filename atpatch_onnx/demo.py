"""The demo: inspect, patch, compare and time the committed victim, a Vision Transformer with a planted backdoor."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriters import model_io
from rewriters.bodies import walk_bodies
from rewriters.emit import PREFIX
from rewriters.sites import Inspection

from .bench import Latency, paired_latency, request
from .compare.exemplar import Exemplar, choose_row, follow
from .compare.trial import Figures, Trial, figures, run_trial
from .datasets import DataSet, load_dataset
from .errors import NO_SUCH_FILE
from .hotfix import Hotfix
from .inspecting import inspect_model
from .patching import Patched, patch_model

__all__ = ["FOLDER", "Demo", "Progress", "run_demo"]

FOLDER = Path(__file__).resolve().parent.parent / "models" / "digits_vit"
"""The victim lies beside the package, in the source tree and in the wheel."""

Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Demo:
    """Everything the demo found out.

    Attributes:
        inspection: of the victim.
        patch: what was written for serving, telemetry off.
        hotfix: what was patched in.
        inserted: site id → nodes inserted there.
        original, patched: figures on the test split; flags were read from a copy with telemetry.
        latency: "clean" and "flagged": one request, telemetry off.
        exemplar: one triggered digit.
        clean, triggered: the test split.
    """

    inspection: Inspection
    patch: Patched
    hotfix: Hotfix
    inserted: Mapping[str, int]
    original: Figures
    patched: Figures
    latency: Mapping[str, Latency]
    exemplar: Exemplar
    clean: DataSet
    triggered: DataSet

    def to_json(self, report: Path | None) -> dict[str, Any]:
        """Plain shares and the ratio on top; intervals and counts under "details"."""
        flagged = self.patched.clean_flagged
        return {
            "original": {"accuracy": self.original.accuracy.value, "asr": self.original.asr.value},
            "patched": {
                "accuracy": self.patched.accuracy.value,
                "asr": self.patched.asr.value,
                "asr_star": self.patched.asr_star.value,
                "clean_flagged": None if flagged is None else flagged.value,
            },
            "latency_ratio": self.latency["clean"].ratio.median,
            "report": None if report is None else str(report),
            "details": {
                "original": self.original.to_json(),
                "patched": self.patched.to_json(),
                "latency": {name: latency.to_json() for name, latency in self.latency.items()},
            },
        }


def run_demo(folder: Path = FOLDER, progress: Progress = lambda step: None) -> Demo:
    """Run the main job on the test split. Takes seconds; writes only to a temporary folder.

    Args:
        folder: of the victim: model.onnx, model.hotfix, clean.npz, triggered.npz.
        progress: called with a line at each step.

    Raises:
        AtpatchError: ATP002 without the files, ATP050 without onnxruntime, and what patching raises.
    """
    source = folder / "model.onnx"
    if not source.is_file():
        raise NO_SUCH_FILE(f"the demo model {source} is not there", "run the demo in a clone of the project")
    clean, triggered = load_dataset(folder / "clean.npz"), load_dataset(folder / "triggered.npz")
    hotfix = Hotfix.load(folder / "model.hotfix")
    progress("inspect: looking for attention sites")
    inspection = inspect_model(source)
    with tempfile.TemporaryDirectory() as scratch:
        served, observed = Path(scratch) / "served.onnx", Path(scratch) / "observed.onnx"
        progress(f"patch: {len(hotfix.sites)} of {len(inspection.sites)} sites, as the hotfix says")
        patch = patch_model(source, served, hotfix=hotfix)
        patch_model(source, observed, hotfix=hotfix, telemetry=True)
        models = model_io.load(source), model_io.load(observed)

        progress(f"compare: {len(clean)} clean and {len(triggered)} triggered digits through both models")
        trials = tuple(run_trial(model, folder, clean, triggered) for model in models)
        before, after = trials
        row = choose_row(before, after, triggered)
        plan = hotfix.plan(inspection.sites, None)
        exemplar = follow(models, folder, inspection.sites, plan, (before, after), (clean, triggered), row)

        progress("bench: one request at a time, both models in turn")
        samples = {"clean": _calm_row(after, clean), "flagged": triggered.feeds(np.array([row]))}
        latency = {name: paired_latency(request(source, feeds), request(served, feeds)) for name, feeds in samples.items()}
        inserted = _inserted(model_io.load(served), patch.sites)
    return Demo(
        inspection,
        patch,
        hotfix,
        inserted,
        figures(before, before, clean, triggered),
        figures(after, before, clean, triggered),
        latency,
        exemplar,
        clean,
        triggered,
    )


def _calm_row(trial: Trial, clean: DataSet) -> dict[str, NDArray[Any]]:
    """The inputs of the first clean row that nothing flags."""
    flags = trial.clean_flags
    row = 0 if flags is None else int(np.argmin(flags.any(1)))
    return clean.feeds(np.array([row]))


def _inserted(model: Any, sites: tuple[str, ...]) -> dict[str, int]:
    names = [node.name for _, body in walk_bodies(model) for node in body.node]
    return {site: sum(name.startswith(f"{PREFIX}{site}/") for name in names) for site in sites}
