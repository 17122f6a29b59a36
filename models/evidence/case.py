"""One setting with one seed: its model, data sets and hotfix, read when asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx

from atpatch_onnx.hotfix.file import Hotfix
from atpatch_onnx.inference.datasets import DataSet, Ints, load_dataset
from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.model import io as model_io
from rewriters.plan import PatchPlan
from rewriters.sites import Site

from ..victims import Victim, cache
from .answers import Answers, Asked
from .settings import Setting

__all__ = ["MOST_CLEAN_FLAGGED", "Case", "results"]

MOST_CLEAN_FLAGGED = 0.005


@dataclass(frozen=True, eq=False)
class Case:
    """threads: of onnxruntime, everywhere but in latencies, which have one. rows: of the test set that are judged;
    None: all.
    """

    setting: Setting
    seed: int
    threads: int = 2
    rows: int | None = None

    @property
    def name(self) -> str:
        return f"{self.setting.name}-s{self.seed}" + ("" if self.rows is None else "-quick")

    @cached_property
    def victim(self) -> Victim:
        return self.setting.victim(self.seed)

    @property
    def folder(self) -> Path:
        return self.victim.folder

    @cached_property
    def model(self) -> onnx.ModelProto:
        return model_io.load(self.victim.file("model.onnx"))

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        return tuple(find_sites(self.model)[0])

    @cached_property
    def debug(self) -> DataSet:
        return load_dataset(self.victim.file("debug.npz"))

    @cached_property
    def spare(self) -> DataSet:
        return load_dataset(self.victim.file("spare.npz"))

    @cached_property
    def clean(self) -> DataSet:
        clean = load_dataset(self.victim.file("clean.npz"))
        return _some(clean, np.arange(len(clean)), self.rows)

    @cached_property
    def attacked(self) -> DataSet:
        """The test samples, triggered or with every value of the protected attribute."""
        attacked = load_dataset(self.victim.file("triggered.npz" if self.setting.fault == "backdoor" else "flips.npz"))
        twins = attacked.clean_row if attacked.group is None else attacked.group
        assert twins is not None
        return _some(attacked, twins, self.rows)

    @cached_property
    def before(self) -> tuple[Answers, Answers]:
        """The original's answers to both test sets."""
        asked = self.ask(self.model)
        return asked.all(self.clean), asked.all(self.attacked)

    def ask(self, model: onnx.ModelProto) -> Asked:
        return Asked(model, self.folder, self.clean, self.threads)

    def hotfix_file(self, variant: str = "") -> Path:
        return results() / (self.name + (f"-{variant}" if variant else "") + ".hotfix")

    @cached_property
    def hotfix(self) -> Hotfix:
        """What the step `fit` left."""
        return Hotfix.load(self.hotfix_file())

    @cached_property
    def plan(self) -> PatchPlan:
        """Of the hotfix, as it would be served."""
        return self.hotfix.plan(self.sites, None)

    def patched(self, plan: PatchPlan) -> onnx.ModelProto:
        return patch(self.model, plan, self.sites)

    @cached_property
    def digest(self) -> str:
        """Of everything the results depend on, code and twin aside; a victim that was built again and came out the same
        has the same.
        """
        hasher = hashlib.sha256(repr((self.name, self.setting.detector, self.setting.others, self.rows)).encode())
        for name in ("model.onnx", "debug.npz", "spare.npz", "clean.npz"):
            hasher.update(self.victim.file(name).read_bytes())
        return hasher.hexdigest()[:16]

    @property
    def twin_digest(self) -> str:
        """Of the clean twin, for steps that ask it; "no twin" where there is none."""
        file = self.victim.file("twin.onnx")
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else "no twin"

    def generator(self) -> np.random.Generator:
        """The same for every step of one case, a fresh one each time."""
        return np.random.default_rng((self.seed, *self.setting.name.encode()))


def _some(data: DataSet, twins: Ints, rows: int | None) -> DataSet:
    """The samples whose clean twin is among the first rows of the test set."""
    if rows is None:
        return data
    kept = np.flatnonzero(twins < rows)
    per_row = {
        name: array[kept]
        for name in ("labels", "columns", "clean_row", "group")
        if (array := getattr(data, name)) is not None
    }
    return replace(data, inputs=data.feeds(kept), **per_row)


def results() -> Path:
    """The folder of step results and hotfixes."""
    folder = cache() / "results"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
