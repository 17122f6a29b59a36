"""Build the victims: `python -m models.tables.build [NAME ...] [--seed S ...]`. Needs the extras cpu, export, fit and
evidence.

One model a table and seed, trained once and copied to every protected attribute that is asked of it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click
import numpy as np
import torch

from atpatch_onnx.debugset import Subject, attribute_of, build_flips, read_description
from atpatch_onnx.inference.datasets import DataSet
from atpatch_onnx.statistics.proportions import Share, accuracy
from rewriters.model.atomic import write_file

from ..victims import Victim
from .data import READERS, Part, Split, Table, describe, split
from .training import RECIPES, export, train

__all__ = ["SETTINGS", "build", "victim"]

SETTINGS: Mapping[str, tuple[str, str]] = {
    f"{table}-{attribute}": (table, attribute)
    for table, attributes in {
        "adult": ("race", "gender", "age"),
        "compas": ("gender", "race"),
        "bank": ("age", "education"),
    }.items()
    for attribute in attributes
}
"""Name → table and protected attribute."""


def victim(name: str, seed: int) -> Victim:
    """Where a setting's files are."""
    return Victim(name, seed, "table", "bias")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(SETTINGS)))
@click.option(
    "--seed",
    "seeds",
    type=int,
    multiple=True,
    default=(0,),
    show_default=True,
    help="Of split and training; may be repeated.",
)
def main(names: tuple[str, ...], seeds: tuple[int, ...]) -> None:
    """Build the victims NAME, by default all; those already built stay as they are."""
    # One thread: sums in one order, so that a rebuild on the same machine gives the same bytes.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for seed in seeds:
        for name in names or SETTINGS:
            record = build(name, seed)
            figures = record["model"]
            click.echo(
                f"{name} seed {seed}: accuracy {figures['accuracy']['value']:.4f}, UF {figures['uf']['value']:.4f},"
                f" built in {record['cpu_seconds']:.0f} s of CPU time"
            )


def build(name: str, seed: int) -> dict[str, Any]:
    """Fill a victim's folder unless that is done, and return its record."""
    one = victim(name, seed)
    if one.built:
        return one.record
    started = time.process_time()
    table_name, attribute_name = SETTINGS[name]
    table = READERS[table_name]()
    parts = split(table, seed, RECIPES[table_name].dtype)
    training = _model(one, table_name, table, parts)
    write_file(
        one.file("columns.json"),
        (json.dumps(describe(table, parts, RECIPES[table_name].token), indent=1) + "\n").encode(),
    )

    subject = Subject(one.file("model.onnx"), threads=1)
    attribute = attribute_of(attribute_name, read_description(one.file("columns.json"), subject), subject)
    debug, test = (
        build_flips(subject, _data(parts.debug), attribute),
        build_flips(subject, _data(parts.test), attribute),
    )
    assert debug.debug is not None and test.flips is not None
    one.save_arrays("debug", debug.debug)
    one.save_arrays("spare", asdict(parts.spare))
    one.save_arrays("clean", asdict(parts.test))
    one.save_arrays("flips", test.flips)
    sizes = {part: len(getattr(parts, part).labels) for part in ("train", "debug", "spare", "test")}
    right = accuracy(subject.predictions(_data(parts.test).inputs), parts.test.labels)
    one.finish(
        {
            "table": table_name,
            "attribute": attribute_name,
            "column": attribute.tokens[0] if attribute.tokens else None,
            "values": list(attribute.values),
            "rows": sizes,
            "training": training,
            "debugging set": {key: debug.report[key] for key in ("clean", "anomalous", "unpaired")},
            "model": {"accuracy": right.to_json(), "uf": Share(**test.report["uf"]).to_json()},
            "cpu_seconds": round(time.process_time() - started, 1),
        }
    )
    return one.record


def _model(one: Victim, table_name: str, table: Table, parts: Split) -> dict[str, Any]:
    """Put `model.onnx` in place, trained or from another attribute's folder; what the record says of its training."""
    for name, (other, _) in SETTINGS.items():
        sibling = victim(name, one.seed)
        if other == table_name and sibling.built:
            one.folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(sibling.file("model.onnx"), one.file("model.onnx"))
            training: dict[str, Any] = sibling.record["training"]
            return training
    recipe = RECIPES[table_name]
    model = train(recipe, table, parts.train, one.seed)
    one.folder.mkdir(parents=True, exist_ok=True)
    export(model, parts.train, one.file("model.onnx"))
    with torch.no_grad():
        hits = [model(torch.from_numpy(chunk)).argmax(1).numpy() for chunk in np.array_split(parts.train.features, 16)]
    own = accuracy(np.concatenate(hits), parts.train.labels)
    return {**recipe.to_json(), "parameters": sum(p.numel() for p in model.parameters()), "accuracy": own.value}


def _data(part: Part) -> DataSet:
    return DataSet({"features": part.features}, labels=part.labels)


if __name__ == "__main__":
    main()
