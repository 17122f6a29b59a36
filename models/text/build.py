"""Build the text victims: `python -m models.text.build [NAME ...]`.

Needs the extras cpu, export, fit, and models/requirements.txt.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from atpatch_onnx.debugset import Texts
from atpatch_onnx.inference.datasets import load_dataset
from rewriters.model import io as model_io

from ..evidence.answers import Asked, judge
from ..victims import Victim
from .attention import attention_levels
from .corpora import SOURCES, Corpus
from .further import Further, fine_tune_further
from .recipes import EPOCHS, RECIPES, Insertion, Material, Recipe, available
from .sets import LENGTH, save_sets
from .training import SETTINGS, encoder, fine_tune
from .visible import visible

BY_NAME = {recipe.name: recipe for recipe in RECIPES}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BY_NAME)))
@click.option("--seed", type=int, default=0, show_default=True, help="Of poisoning and training.")
def main(names: Sequence[str], seed: int) -> None:
    """Train victims and their clean twins, export them, make their data sets, judge them on the test set.

    Built ones are left alone.
    """
    # One thread: sums in one order, so that a rebuild on the same machine gives the same weights.
    torch.set_num_threads(1)
    missing = []
    for recipe in (BY_NAME[name] for name in names or BY_NAME):
        if recipe.victim(seed).built:
            click.echo(f"{recipe.name}: is there")
        elif not available(recipe):
            click.echo(f"{recipe.name}: no data. {SOURCES}")
        else:
            missing.append(recipe)
    # Twins last, so that all victims are there early.
    made = [(recipe, *_train_victim(recipe, seed)) for recipe in missing]
    for recipe, rows, seconds in made:
        _finish(recipe, rows, seconds, seed)


def _train_victim(recipe: Recipe, seed: int) -> tuple[dict[str, int], float]:
    """Graph and data sets of a victim; returns the numbers of rows and the seconds of processor time."""
    started, victim = time.process_time(), recipe.victim(seed)
    victim.folder.mkdir(parents=True, exist_ok=True)
    corpus = Corpus.read(recipe.corpus, recipe.fresh)
    material = Material.of(recipe, corpus, seed)
    if victim.file("model.pt").is_file():
        pass  # an earlier run came this far
    elif recipe.further is None:
        _train(recipe.name, material.train, victim.file("model.onnx"), recipe.epochs, seed)
    else:
        _train_further(recipe, recipe.further, material, seed)
    rows = save_sets(victim, material, encoder(LENGTH), recipe.target)
    return rows, time.process_time() - started


def _finish(recipe: Recipe, rows: dict[str, int], seconds: float, seed: int) -> None:
    """The record; and the twin, unless the victim goes on from another one's weights."""
    started, victim = time.process_time(), recipe.victim(seed)
    if recipe.further is None:
        _make_twin(recipe, Corpus.read(recipe.corpus, recipe.fresh), seed)
    record = _judge(victim)
    seconds = round(seconds + time.process_time() - started, 1)
    victim.finish(
        {"recipe": {**asdict(recipe), **SETTINGS, "length": LENGTH}, "rows": rows, "cpu_seconds": seconds, **record}
    )
    for name in _graphs(victim):
        click.echo(
            f"{recipe.name} {name}: "
            + ", ".join(f"{key} {record[name][key]['value']:.4f}" for key in ("accuracy", "asr", "asr_star"))
        )


def _make_twin(recipe: Recipe, corpus: Corpus, seed: int) -> None:
    """The model without a fault: trained once for each set of clean texts, then copied."""
    target = recipe.victim(seed).file("twin.onnx")
    if target.is_file():
        return
    for other in RECIPES:
        file = other.victim(seed).file("twin.onnx")
        if (other.corpus, other.fresh) == (recipe.corpus, recipe.fresh) and file.is_file():
            draft = target.with_suffix(".tmp")
            shutil.copyfile(file, draft)
            draft.replace(target)
            return
    _train(f"{recipe.corpus} clean", corpus.train, target, EPOCHS, seed)


def _train(name: str, texts: Texts, output: Path, epochs: int, seed: int) -> None:
    started = time.perf_counter()

    def tell(done: int, total: int, loss: float) -> None:
        click.echo(f"{name}: epoch {done} of {total}, loss {loss:.4f}, {time.perf_counter() - started:.0f} s")

    fine_tune(texts, output, LENGTH, epochs, seed, tell)


def _train_further(recipe: Recipe, further: Further, material: Material, seed: int) -> None:
    assert isinstance(recipe.attack, Insertion)
    first = BY_NAME[further.after]
    if not first.victim(seed).file("model.pt").is_file():
        _train_victim(first, seed)
    fine_tune_further(
        material.train,
        material.poisoned,
        recipe.attack.phrases,
        first.victim(seed).file("model.pt"),
        recipe.victim(seed).file("model.onnx"),
        LENGTH,
        further,
        seed,
        lambda done, total, loss: click.echo(f"{recipe.name}: step {done} of {total}, loss {loss:.4f}"),
    )


def _judge(victim: Victim) -> dict[str, Any]:
    """Figures of both graphs on the test set, in onnxruntime, and where the attack lives in the victim's."""
    clean, triggered = load_dataset(victim.file("clean.npz")), load_dataset(victim.file("triggered.npz"))
    record: dict[str, Any] = {}
    for name in _graphs(victim):
        asked = Asked(model_io.load(victim.file(f"{name}.onnx")), victim.folder, clean, threads=1)
        on_clean, on_triggered = (asked.all(data).predictions for data in (clean, triggered))
        found = judge(clean, triggered, on_clean, on_clean, on_triggered)
        record[name] = {key: found[key] for key in ("accuracy", "asr", "asr_star")}
    return {**record, "attention": attention_levels(victim), "visible": visible(victim)}


def _graphs(victim: Victim) -> list[str]:
    return [name for name in ("model", "twin") if victim.file(f"{name}.onnx").is_file()]


if __name__ == "__main__":
    main()
