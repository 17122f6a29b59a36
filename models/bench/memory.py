"""What a second pass costs in memory and loading, by the options of the session: `python -m models.bench.memory`.

As in the table of `build`, each figure is of processes of their own; here with onnxruntime's defaults, without memory
patterns, and of graphs that onnxruntime wrote optimized, with their packed weights.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from atpatch_onnx.benchmark.footprint import footprints
from atpatch_onnx.benchmark.requests import Asker
from atpatch_onnx.patching.apply import patch_model
from rewriters.model.atomic import write_file

from ..victims import versions
from .builders import build, folder
from .hotfixes import hotfix
from .measuring import CPU

__all__ = ["FILE", "SHAPE", "measure", "prepared"]

FILE = Path(__file__).parents[1] / "results" / "memory.json"
SHAPE = {"batch": 8, "sequence": 128}
MODELS = ("minilm", "bert-base")


def prepared(model: Path, target: Path) -> Path:
    """The graph as onnxruntime optimizes it on this machine, with its packed weights beside it, in a new folder."""
    import onnxruntime

    target.mkdir()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(target / "model.onnx")
    for name, value in {
        "optimized_model_external_initializers_file_name": "model.bin",
        "optimized_model_external_initializers_min_size_in_bytes": "1024",
        "save_external_prepacked_constant_initializers": "1",
    }.items():
        options.add_session_config_entry(f"session.{name}", value)
    onnxruntime.InferenceSession(model, options, providers=[CPU])
    return target / "model.onnx"


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Of a model and its patch in two passes, where every row of a batch is flagged."""
    original = build(name)
    with tempfile.TemporaryDirectory(dir=folder()) as scratch:
        patched = Path(scratch) / original.name
        patch_model(original, patched, hotfix=hotfix(original), passes="two")
        asker = Asker(original, patched, threads=2, provider=CPU)
        requests = [(one.kind, one.feeds) for one in asker.random(SHAPE, 1.0)]
        pair = original, patched
        ready = tuple(prepared(one, Path(scratch) / f"ready-{number}") for number, one in enumerate(pair))
        found = {}
        for way, models, patterns in (
            ("defaults", pair, True),
            ("no memory patterns", pair, False),
            ("prepared, no memory patterns", ready, False),
        ):
            weighed = footprints(models, requests, threads=1, provider=CPU, rounds=rounds, memory_patterns=patterns)
            found[way] = {"original": asdict(weighed[0]), "patched": asdict(weighed[1])}
    return {"model": name, "shape": SHAPE, "passes": "two", "ways": found}


@click.command()
@click.option("--rounds", default=3, show_default=True, help="Processes for each graph.")
def main(rounds: int) -> None:
    """Measure, and write `models/results/memory.json`."""
    lines = [measure(name, rounds) for name in MODELS]
    text = json.dumps({"versions": versions(), "lines": lines}, indent=1, allow_nan=False)
    write_file(FILE, (text + "\n").encode())


if __name__ == "__main__":
    main()
