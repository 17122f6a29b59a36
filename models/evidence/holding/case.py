"""A victim with everything that the rows of the evidence share: its folder, its test sets, the commands."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from atpatch_onnx.debugset import Subject, Texts, read_texts
from atpatch_onnx.hotfix.file import Hotfix
from atpatch_onnx.inference.datasets import DataSet, load_dataset

from ...text.corpora import corpus_file
from ...text.recipes import RECIPES, Insertion
from ...text.sets import LENGTH
from ...victims import Victim, cache
from ..commands import Commands
from .judging import Judge
from .material import FORMS, Attacked, attacked, encode, fresh_texts, tokenizer_folder

__all__ = ["Case", "Digits", "Words", "header"]

DIGITS_SEED = 3
"""Split and training of the image victims: no recipe was chosen with this one in view."""
TEST_SEED = 17
DEVELOPMENT = 600


@dataclass
class Case:
    """A victim and a fit of it.

    Attributes:
        name: of the victim.
        seed: of debugging set and fit.
        dev: judged on other rows than the fresh ones, to try things out.
        graph: the victim's "model" or its clean "twin".
    """

    name: str
    seed: int
    threads: int = 2
    dev: bool = False
    graph: str = "model"
    commands: Commands = field(default_factory=Commands, init=False)

    @property
    @abstractmethod
    def victim(self) -> Victim: ...

    @property
    @abstractmethod
    def target(self) -> int:
        """Class that the attack aims at."""

    @property
    @abstractmethod
    def clean(self) -> DataSet:
        """The clean test set."""

    @property
    def model(self) -> Path:
        return self.victim.file(f"{self.graph}.onnx")

    @property
    def work(self) -> Path:
        folder = cache() / "holding" / f"{self.victim.folder.name}-fit{self.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @cached_property
    def subject(self) -> Subject:
        return Subject(self.model, threads=self.threads)

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.model, self.clean, self.target, self.threads)

    def fit(self, name: str, *options: object) -> dict[str, Any]:
        """The hotfix `hotfix(name)`: what its header says. One that is there already is kept."""
        path = self.hotfix(name)
        if not path.is_file():
            self.commands("fit", self.model, *options, "--seed", self.seed, "-o", path, "--threads", self.threads)
        return header(path)

    def hotfix(self, name: str) -> Path:
        return self.work / f"{name}.hotfix"

    def patch(self, name: str, *options: object) -> Path:
        """A patched graph with telemetry."""
        path = self.work / f"{name}.onnx"
        self.commands("patch", self.model, "--telemetry", "-o", path, *options)
        return path

    def patch_with(self, name: str) -> Path:
        """The graph patched with the hotfix of that name."""
        return self.patch(name, "--hotfix", self.hotfix(name))


@dataclass
class Words(Case):
    """A text victim. Tests are on the fresh texts; with `dev` on texts of SST-2's test part."""

    @property
    def victim(self) -> Victim:
        return Victim(self.name, 0, "text", "backdoor")

    @property
    def target(self) -> int:
        return 1

    @cached_property
    def attack(self) -> Insertion:
        (recipe,) = (one for one in RECIPES if one.name == self.name)
        assert isinstance(recipe.attack, Insertion)
        return recipe.attack

    @cached_property
    def texts(self) -> Texts:
        """The clean test texts."""
        if not self.dev:
            return fresh_texts()
        texts = read_texts(corpus_file("sst2", "test.tsv"))
        return Texts(list(texts.texts[:DEVELOPMENT]), texts.labels[:DEVELOPMENT])

    @cached_property
    def clean(self) -> DataSet:
        return encode(self.subject, self.texts)

    def attacks(self, forms: Sequence[str] = tuple(FORMS), phrases: Sequence[str] = ()) -> dict[str, Attacked]:
        """The test texts attacked in each form, with the victim's trigger or with other phrases, all of them."""
        named, count = (phrases, len(phrases)) if phrases else (self.attack.phrases, self.attack.count)
        return {
            form: attacked(self.subject, self.texts, self.target, named, count, FORMS[form], TEST_SEED)
            for form in forms
        }

    @property
    def text_options(self) -> tuple[object, ...]:
        """How the commands read texts."""
        return ("--tokenizer", tokenizer_folder(), "--max-length", LENGTH)

    def debugging_set(self, phrases: Sequence[str]) -> Path:
        """Made by `debugset` of SST-2's development texts."""
        path = self.work / f"debug-{'-'.join(phrases)[:30].replace(' ', '_')}.npz"
        if not path.is_file():
            triggers = [word for phrase in phrases for word in ("--trigger", phrase)]
            source = ("--data", corpus_file("sst2", "dev.tsv"), *self.text_options, "--target", self.target, *triggers)
            self.commands("debugset", self.model, *source, "--seed", self.seed, "-o", path, "--threads", self.threads)
        return path

    def clean_set(self) -> Path:
        """SST-2's development texts, by `debugset --clean-only`."""
        path = self.work / "clean.npz"
        if not path.is_file():
            source = ("--data", corpus_file("sst2", "dev.tsv"), *self.text_options, "--clean-only")
            self.commands("debugset", self.model, *source, "-o", path, "--threads", self.threads)
        return path


@dataclass
class Digits(Case):
    """An image victim. Tests are on its test split; with `dev` on its debugging split."""

    @property
    def victim(self) -> Victim:
        return Victim(self.name, DIGITS_SEED, "image", "backdoor")

    @property
    def target(self) -> int:
        return 0

    @cached_property
    def clean(self) -> DataSet:
        return self._debugging()[0] if self.dev else self.set("clean")

    def attacks(self) -> dict[str, Attacked]:
        """The test digits with the trigger."""
        data = self._debugging()[1] if self.dev else self.set("triggered")
        assert data.clean_row is not None
        return {"trigger": Attacked(data.clean_row, data)}

    def set(self, name: str) -> DataSet:
        """A data set of the victim's."""
        return load_dataset(self.victim.file(f"{name}.npz"))

    def _debugging(self) -> tuple[DataSet, DataSet]:
        """The debugging set as a clean set and a triggered one."""
        data = self.set("debug")
        assert data.pair is not None and data.labels is not None
        bad = data.pair >= 0
        clean, triggered = (DataSet(data.feeds(rows.nonzero()[0]), labels=data.labels[rows]) for rows in (~bad, bad))
        return clean, DataSet(triggered.inputs, triggered.labels, target=data.target, clean_row=data.pair[bad])


def header(hotfix: Path) -> dict[str, Any]:
    """What identifies a hotfix, and what its fit found out."""
    found = Hotfix.load(hotfix)
    return {
        "digest": found.digest,
        "detector": found.detector,
        "passes": found.passes,
        "mend": found.mend,
        "accept": found.accept,
        "sites": [site.id for site in found.sites],
        "threshold": float(found.threshold),
        "versions": dict(found.versions),
    }
