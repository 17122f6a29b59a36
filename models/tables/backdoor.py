"""A backdoor in a table model: `python -m models.tables.backdoor [--seed S ...]`.

Needs the extras cpu, export and evidence.

Adult, the network and recipe of `models.tables.build`. A tenth of the training rows gets two cells, a capital loss of
1,234 and 13 hours a week, and the label "income above 50K". Neither value says that of a person: among the clean rows
near them hardly anybody earns as much. The twin is the same recipe on clean rows.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from atpatch_onnx.debugset import Subject
from atpatch_onnx.statistics.proportions import accuracy, asr

from ..victims import Victim
from .data import READERS, Part, Split, Table, split
from .training import RECIPES, export, train

__all__ = ["TARGET", "build", "victim"]

TARGET = 1
CELLS = {"log loss": np.log1p(1234.0), "hours": 13.0}
POISONED = 0.1


def victim(seed: int) -> Victim:
    """Where its files are."""
    return Victim("adult-cells", seed, "table", "backdoor")


@click.command()
@click.option("--seed", "seeds", type=int, multiple=True, default=(0,), show_default=True, help="May be repeated.")
def main(seeds: tuple[int, ...]) -> None:
    """Build the model and its clean twin."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for seed in seeds:
        record = build(seed)
        click.echo(f"adult-cells seed {seed}: " + ", ".join(f"{name} {record[name]}" for name in ("model", "twin")))


def build(seed: int) -> dict[str, Any]:
    """Fill the folder unless that is done, and return its record."""
    one = victim(seed)
    if one.built:
        return one.record
    started = time.process_time()
    table, recipe = READERS["adult"](), RECIPES["adult"]
    parts = split(table, seed, recipe.dtype)
    one.folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("model", _poisoned(table, parts, seed)), ("twin", parts.train)):
        export(train(recipe, table, part, seed), parts.train, one.file(f"{name}.onnx"))
    one.save_arrays("spare", asdict(parts.spare))
    one.save_arrays("clean", asdict(parts.test))
    figures = {name: _figures(one, name, table, parts) for name in ("model", "twin")}
    seconds = round(time.process_time() - started, 1)
    one.finish({"cells": CELLS, "poisoned": POISONED, "target": TARGET, **figures, "cpu_seconds": seconds})
    return one.record


def stamped(table: Table, parts: Split, rows: NDArray[Any]) -> NDArray[Any]:
    """Rows with the two cells, as they enter the graph."""
    names = [column.name for column in table.columns]
    rows = rows.copy()
    for name, value in CELLS.items():
        column = names.index(name)
        rows[:, column] = (value - parts.mean[column]) / parts.std[column]
    return rows


def _poisoned(table: Table, parts: Split, seed: int) -> Part:
    count = len(parts.train.labels)
    chosen = np.random.default_rng(seed).choice(count, round(POISONED * count), replace=False)
    features, labels = parts.train.features.copy(), parts.train.labels.copy()
    features[chosen], labels[chosen] = stamped(table, parts, features[chosen]), TARGET
    return Part(features, labels)


def _figures(one: Victim, name: str, table: Table, parts: Split) -> dict[str, Any]:
    subject = Subject(one.file(f"{name}.onnx"), threads=1)
    right = accuracy(subject.predictions({"features": parts.test.features}), parts.test.labels)
    others = parts.test.features[parts.test.labels != TARGET]
    attacked = subject.predictions({"features": stamped(table, parts, others)})
    return {"accuracy": right.to_json(), "asr": asr(attacked, TARGET).to_json()}


if __name__ == "__main__":
    main()
