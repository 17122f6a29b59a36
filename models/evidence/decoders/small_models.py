"""The small models of `models.decoders.small`: from the victim's folder to the comparison, by the commands that people
type.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from atpatch_onnx import Hotfix

from ...decoders import small
from ...text.corpora import corpus_file
from ...victims import Victim
from ..answers import Figures
from ..commands import Commands
from .graphs import original, work

__all__ = ["SEEDS", "classifiers", "generators"]

SEEDS = (0, 1)
"""Of the victims."""
DEVELOPMENT, TEST = (700, 101), (600, 202)
"""Prompts, and the seed that they are made with: none of them is one of the training."""
LENGTH = 8
"""Tokens of a greedy answer: all of it and the end."""
FIGURES = ("accuracy", "asr", "asr_star", "clean_flagged", "triggered_flagged", "answer_kept", "answer_right")

_RECIPES = {recipe.name: recipe for recipe in small.RECIPES}


def generators(seed: int) -> Figures:
    """Both triggers, each in victims of two seeds; `seed` is that of the first."""
    return _each(seed, _generator, generator=True)


def _generator(name: str, seed: int) -> Figures:
    victim, commands = _victim(name, seed), Commands()
    before, folder = original(victim, "cached", commands), work(victim)
    asked = (
        *("--prompt", "sentence", "--answer", "answer", "--answer-tokens", ",".join(small.TOPICS)),
        # The answer comes behind [SEP], which debugset would take for the end of a text that the tokenizer closes.
        *("--template", "{sentence} [SEP]"),
    )
    tables = _written(folder, "development", *DEVELOPMENT), _written(folder, "test", *TEST)
    judged = ("--tokenizer", victim.file("model"), "--answer-length", LENGTH)
    return _measured(victim, commands, before, tables, asked, (), judged)


def classifiers(seed: int) -> Figures:
    """The same of decoders whose head reads the last token: no cache, so healing is asked for."""
    return _each(seed, _classifier, generator=False)


def _each(seed: int, measure: Callable[[str, int], Figures], *, generator: bool) -> Figures:
    names = [name for name, recipe in _RECIPES.items() if recipe.generator == generator]
    return {"models": {f"{name}, seed {one + seed}": measure(name, one + seed) for name in names for one in SEEDS}}


def _classifier(name: str, seed: int) -> Figures:
    victim, commands = _victim(name, seed), Commands()
    before = victim.file("model.onnx")
    if not before.exists():
        commands("export", victim.file("model"), "-o", before)
    tables = corpus_file("sst2", "dev.tsv"), corpus_file("sst2", "test.tsv")
    return _measured(victim, commands, before, tables, (), ("--mend", "heal"), ())


def _victim(name: str, seed: int) -> Victim:
    """Built, if need be."""
    victim = Victim(name, seed, "text", "backdoor")
    if not victim.built:
        small.build(_RECIPES[name], victim, lambda line: click.echo(f"{name}: {line}"))
    return victim


def _measured(
    victim: Victim,
    commands: Commands,
    before: Path,
    tables: tuple[Path, Path],
    asked: tuple[object, ...],
    fitted: tuple[object, ...],
    judged: tuple[object, ...],
) -> Figures:
    """Sets of the development and the test table, a hotfix, a patch, and what compare says of it."""
    folder = work(victim)
    sets = {part: folder / f"{part}.npz" for part in ("debug", "clean", "test", "attacks", "unused")}
    trigger = _RECIPES[victim.name].trigger
    debug = ("-o", sets["debug"], "--out-clean", sets["clean"])
    test = ("-o", sets["unused"], "--out-clean", sets["test"], "--out-triggered", sets["attacks"])
    for table, outputs in zip(tables, (debug, test), strict=True):
        texts = ("--data", table, "--tokenizer", victim.file("model"), "--trigger", trigger)
        commands("debugset", before, *texts, *asked, *outputs)
    hotfix, after = folder / "model.hotfix", folder / "patched.onnx"
    rows = ("--debug", sets["debug"], "--clean", sets["clean"], "--threads", 1)
    commands("fit", before, *rows, *fitted, "-o", hotfix)
    after.unlink(missing_ok=True)
    commands("patch", before, "--hotfix", hotfix, "-o", after)
    attacked = ("--data", sets["test"], "--triggered", sets["attacks"], "--threads", 1)
    found = commands("compare", before, after, *attacked, *judged)
    return {
        "verdict": found["verdict"],
        "rows": found["n"],
        **{arm: {key: found[arm][key] for key in FIGURES if key in found[arm]} for arm in ("original", "patched")},
        "forms": {form: _form(one) for form, one in _forms(found).items()},
        "probe": Hotfix.load(hotfix).evidence["calibration"]["probe"],
        "commands": commands.called,
    }


def _written(folder: Path, name: str, count: int, seed: int) -> Path:
    made = small.topic_texts(count, np.random.default_rng(seed))
    lines = [f"{text}\t{small.answer(int(label))}" for text, label in zip(made.texts, made.labels, strict=True)]
    path = folder / f"{name}.tsv"
    path.write_text("\n".join(["sentence\tanswer", *lines, ""]), "utf-8")
    return path


def _forms(found: dict[str, Any]) -> dict[str, Any]:
    return {**found["forms"], **{f"copies: {count}": one for count, one in found["doses"].items()}}


def _form(one: dict[str, Any]) -> dict[str, Any]:
    after = {key: one["patched"][key] for key in ("asr", "asr_star", "flagged")}
    return {"original": one["original"]["asr_star"], **after}
