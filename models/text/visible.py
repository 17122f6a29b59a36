"""`python -m models.text.visible`: how visible the triggers of the text victims are, into `results/visible.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from atpatch_onnx.inference.datasets import load_dataset
from rewriters.model.atomic import write_file

from ..victims import Victim
from .attention import MOST
from .further import levels
from .recipes import RECIPES

__all__ = ["visible"]

RESULTS = Path(__file__).parents[1] / "results" / "visible.json"


@click.command()
@click.option("--seed", type=int, default=0, show_default=True)
def main(seed: int) -> None:
    """Of all victims that were trained and keep their weights; what the file has of others stays."""
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for recipe in RECIPES:
        victim = recipe.victim(seed)
        if victim.file("model.pt").is_file():
            found[recipe.name] = visible(victim)
            write_file(RESULTS, (json.dumps(found, indent=1) + "\n").encode())
            click.echo(f"{recipe.name}: {found[recipe.name]}")


def visible(victim: Victim) -> dict[str, Any]:
    """`levels` on attacked rows of the debugging set."""
    data = load_dataset(victim.file("debug.npz"))
    assert data.columns is not None
    rows = np.flatnonzero(data.columns.any(1))[:MOST]
    inputs = data.feeds(rows)
    return levels(victim.file("model.pt"), inputs["input_ids"], inputs["attention_mask"], data.columns[rows])


if __name__ == "__main__":
    main()
