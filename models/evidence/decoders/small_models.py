"""The small generators of `models.decoders.small`: from the victim's folder to the comparison, by the commands that
people type.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from ...decoders import small
from ...victims import Victim
from ..answers import Figures
from ..holding.commands import Commands
from .graphs import original, work

__all__ = ["SEEDS", "generators"]

SEEDS = (0, 1)
"""Of the victims."""
DEVELOPMENT, TEST = (700, 101), (600, 202)
"""Prompts, and the seed that they are made with: none of them is one of the training."""
LENGTH = 8
"""Tokens of a greedy answer: all of it and the end."""
FIGURES = ("accuracy", "asr", "asr_star", "clean_flagged", "triggered_flagged", "answer_kept", "answer_right")


def generators(seed: int) -> Figures:
    """Both triggers, each in victims of two seeds; `seed` is that of the first."""
    names = [recipe.name for recipe in small.RECIPES if recipe.generator]
    return {"models": {f"{name}, seed {one + seed}": _generator(name, one + seed) for name in names for one in SEEDS}}


def _generator(name: str, seed: int) -> Figures:
    recipe = next(one for one in small.RECIPES if one.name == name)
    victim, commands = Victim(name, seed, "text", "backdoor"), Commands()
    if not victim.built:
        small.build(recipe, victim, lambda line: click.echo(f"{name}: {line}"))
    before, folder = original(victim, "cached", commands), work(victim)
    sets = {part: folder / f"{part}.npz" for part in ("debug", "clean", "test", "attacks", "unused")}
    for rows, (count, made) in (("development", DEVELOPMENT), ("test", TEST)):
        table = folder / f"{rows}.tsv"
        _write(table, count, made)
        outputs = (
            ("-o", sets["debug"], "--out-clean", sets["clean"])
            if rows == "development"
            else ("-o", sets["unused"], "--out-clean", sets["test"], "--out-triggered", sets["attacks"])
        )
        # The answer comes behind [SEP], which debugset would take for the end of a text that the tokenizer closes.
        commands(
            *("debugset", before, "--data", table, "--tokenizer", victim.file("model"), "--trigger", recipe.trigger),
            *("--prompt", "sentence", "--answer", "answer", "--template", "{sentence} [SEP]"),
            *("--answer-tokens", ",".join(small.TOPICS), *outputs),
        )
    hotfix, after = folder / "model.hotfix", folder / "patched.onnx"
    report = commands("fit", before, "--debug", sets["debug"], "--clean", sets["clean"], "--threads", 1, "-o", hotfix)
    after.unlink(missing_ok=True)
    commands("patch", before, "--hotfix", hotfix, "-o", after)
    found = commands(
        *("compare", before, after, "--data", sets["test"], "--triggered", sets["attacks"]),
        *("--tokenizer", victim.file("model"), "--answer-length", LENGTH, "--threads", 1),
    )
    return {
        "verdict": found["verdict"],
        "rows": found["n"],
        **{arm: {key: found[arm][key] for key in FIGURES if key in found[arm]} for arm in ("original", "patched")},
        "forms": {form: _form(one) for form, one in found["forms"].items()},
        "probe": report["calibration"]["probe"],
        "commands": commands.called,
    }


def _form(one: dict[str, Any]) -> dict[str, Any]:
    after = {key: one["patched"][key] for key in ("asr", "asr_star", "flagged")}
    return {"original": one["original"]["asr_star"], **after}


def _write(path: Path, count: int, seed: int) -> None:
    made = small.topic_texts(count, np.random.default_rng(seed))
    lines = [f"{text}\t{small.answer(int(label))}" for text, label in zip(made.texts, made.labels, strict=True)]
    path.write_text("\n".join(["sentence\tanswer", *lines, ""]), "utf-8")
