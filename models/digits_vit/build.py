"""Build the demo's files, which come with the package, and their figures: `python -m models.digits_vit.build`.

Needs the extras cpu, export, fit, report and scikit-learn.
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from atpatch_onnx.comparison.comparer import compare
from atpatch_onnx.demo.run import FOLDER
from atpatch_onnx.demo.trigger import triggered_digits
from atpatch_onnx.fitting.fitter import fit
from atpatch_onnx.hotfix.file import Hotfix
from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.model import io as model_io

from . import data, victim

SEED = 0
RESULTS = Path(__file__).with_name("results.json")
PACKAGES = ("torch", "transformers", "scikit-learn", "numpy", "onnx", "onnxruntime")


@click.command()
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), default=FOLDER, help="Folder to fill.")
@click.option(
    "--repeat", type=int, default=0, help="Build as often with other seeds, keep only their figures, in models/results."
)
def main(output: Path, repeat: int) -> None:
    """Train the victim, export it, make the data sets, fit the hotfix, judge both models on the test split."""
    # One thread: sums in one order, so that a rebuild on the same machine gives the same bytes.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if not repeat:
        results = build(output, SEED)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
        return
    runs = []
    for seed in range(1, repeat + 1):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(build(Path(folder), seed))
    (Path(__file__).parents[1] / "results" / "digits_vit_seeds.json").write_text(json.dumps(runs, indent=2) + "\n")


def build(output: Path, seed: int) -> dict[str, Any]:
    """Fill a folder; one seed for split, training and fit."""
    output.mkdir(parents=True, exist_ok=True)
    split = data.load(seed)
    click.echo(f"seed {seed}: training the victim on {len(split.train[1])} digits")
    victim.export(victim.train(*split.train, seed), output / "model.onnx")
    images, labels = split.test
    np.savez_compressed(output / "debug.npz", **data.debugging_set(*split.debug))
    np.savez_compressed(output / "clean.npz", pixel_values=images, labels=labels)
    np.savez_compressed(output / "triggered.npz", **triggered_digits(images, labels))
    fit(
        output / "model.onnx",
        output / "debug.npz",
        output=output / "model.hotfix",
        seed=seed,
        threads=1,
        detector="profile",
    )
    results = {"seed": seed, "versions": {name: version(name) for name in PACKAGES}, **_judge(output)}
    for name in ("original", "patched"):
        click.echo(f"{name}: " + ", ".join(f"{key} {share['value']:.4f}" for key, share in results[name].items()))
    return results


def _judge(folder: Path) -> dict[str, Any]:
    """Figures of both models on the test split, which nothing above has seen."""
    model = model_io.load(folder / "model.onnx")
    sites, _ = find_sites(model)
    hotfix = Hotfix.load(folder / "model.hotfix")
    patched = patch(model, hotfix.plan(sites, model_io.weights_digest(model, folder), telemetry=True), sites)
    clean, triggered = folder / "clean.npz", folder / "triggered.npz"
    comparison = compare(model, patched, clean, triggered=triggered, threads=1, seconds=0, exemplar=False)
    changed = comparison.changes["patched"].changed
    assert changed is not None
    return {
        "test": {"clean": comparison.truths["clean"].count, "triggered": comparison.truths["triggered"].count},
        **{
            name: {key: share.to_json() for key, share in own.shares.items()}
            for name, own in comparison.figures.items()
        },
        "clean_changed": changed.to_json(),
        "hotfix": {
            "sites": [site.id for site in hotfix.sites],
            "threshold": hotfix.threshold,
            "benign_level": hotfix.level,
        },
    }


if __name__ == "__main__":
    main()
