"""How many nodes a patch adds at each site: `python -m models.bench.nodes`. Needs the extras cpu and export.

Two models of 2 and of 4 layers are patched in every form. What 2 more sites add is counted for each site; the rest is
shared by all sites of a graph. Nodes in branches count too. The second run of two passes is not counted: it is a copy
of the model.
"""

from __future__ import annotations

import io
import itertools
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx

from rewriters.editing.patcher import patch
from rewriters.editing.samples import sample_outputs
from rewriters.finding.finder import find_sites
from rewriters.model.bodies import needed, reads, walk_bodies
from rewriters.plan import (
    BenignPair,
    Cnn,
    Conv,
    Dense,
    Detector,
    OneClass,
    PatchPlan,
    Profile,
    SitePlan,
    Static,
    Statistic,
)
from rewriters.sites import Site

__all__ = ["BOUNDS", "MODELS", "OPTIONS", "SECOND", "added", "count", "detectors", "made", "plan_of", "table"]

RESULTS = Path(__file__).parents[1] / "results" / "nodes.json"

HEADS, WIDTH = 4, 32
COLUMNS = 15
"""Of the table: [CLS] and 14 columns of words and numbers, as of Adult."""
FEW, MANY = 2, 4
"""Layers."""

MODELS = ("table", "text")
"""Fixed length without a mask; any length with a padding mask."""
BOUNDS = {"static": 10, "profile": 30, "cnn": 30, "oneclass": 40, "statistic": 40}
"""Most nodes at a site, by detector, in one pass without telemetry."""
SECOND = 20
"""The same in two passes, next to the copy of the model."""
OPTIONS: tuple[dict[str, Any], ...] = tuple(
    {"passes": passes, "controls": controls, "telemetry": telemetry}
    for passes, controls, telemetry in itertools.product(("one", "two"), ("optional", "none"), (False, True))
)


def made(model: str, layers: int) -> onnx.ModelProto:
    """A small model with random weights, exported by torch."""
    import torch
    import transformers

    from ..tables.networks import FTTransformer

    torch.manual_seed(0)
    if model == "table":
        network = FTTransformer([3] * 8, COLUMNS - 9, WIDTH, layers, HEADS).eval()
        example: tuple[Any, ...] = (torch.zeros(2, COLUMNS - 1),)
        axes = {"features": {0: "batch"}}
    else:
        network = transformers.BertForSequenceClassification(
            transformers.BertConfig(
                vocab_size=99,
                hidden_size=WIDTH,
                num_hidden_layers=layers,
                num_attention_heads=HEADS,
                intermediate_size=2 * WIDTH,
                attn_implementation="eager",
                return_dict=False,
            )
        ).eval()
        example = (torch.ones(2, 9, dtype=torch.int64), torch.ones(2, 9, dtype=torch.int64))
        axes = {name: {0: "batch", 1: "sequence"} for name in ("input_ids", "attention_mask")}
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            example,
            file,
            dynamo=False,
            input_names=list(axes),
            output_names=["logits"],
            dynamic_axes={**axes, "logits": {0: "batch"}},
            opset_version=18,
        )
    return onnx.load_from_string(file.getvalue())


def detectors(model: str) -> dict[str, Detector]:
    """One of each kind, as `fit` makes them for such a model."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32)

    features = 2 * HEADS
    places = (COLUMNS,) if model == "table" else ()
    layers = (Dense(drawn(features, 32), drawn(32)), Dense(drawn(32, 1), drawn(1)))
    kinds: dict[str, Detector] = {
        "static": Static((8,)),
        "statistic": Statistic(),
        "oneclass": OneClass(
            drawn(*places, features), drawn(*places, features, features), True, 3.0, rank=1, exempt=(0, -1)
        ),
        "profile": Profile(layers, drawn(*places, features), np.abs(drawn(features)) + 1),
    }
    if model == "table":
        flat = 8 * COLUMNS * COLUMNS
        kinds["cnn"] = Cnn(
            (Conv(drawn(8, 1, 3, 3), drawn(8)),),
            (Dense(drawn(flat, 16), drawn(16)), Dense(drawn(16, COLUMNS), drawn(COLUMNS))),
        )
    return kinds


def plan_of(model: str, detector: Detector, sites: Sequence[Site], **options: Any) -> PatchPlan:
    """The same at every site, all of them one group."""
    rng = np.random.default_rng(1)
    if model == "table":
        pair = BenignPair(
            rng.dirichlet(np.ones(COLUMNS), (HEADS, COLUMNS)).astype(np.float32),
            rng.normal(size=(HEADS, COLUMNS, WIDTH // HEADS)).astype(np.float32),
        )
    else:
        pair = BenignPair(
            rng.uniform(0.5, 1, HEADS).astype(np.float32),
            rng.normal(size=(HEADS, 1, WIDTH // HEADS)).astype(np.float32),
        )
    return PatchPlan(
        {site.id: SitePlan(detector, pair, every_row_sees_every_column=True) for site in sites},
        groups=(tuple(site.id for site in sites),),
        **options,
    )


def count(model: onnx.ModelProto) -> Counter[str]:
    """Operators of all bodies."""
    return Counter(node.op_type for _, body in walk_bodies(model) for node in body.node)


def added(name: str, original: onnx.ModelProto, detector: Detector, options: dict[str, Any]) -> Counter[str]:
    """What a patch adds to a model."""
    sites, _ = find_sites(original)
    patched = patch(original, plan_of(name, detector, sites, **options), sites)
    new = count(patched)
    new.subtract(count(original))
    if options["passes"] == "two":
        new.subtract(_copied(original))
    return new


def _copied(model: onnx.ModelProto) -> Counter[str]:
    """What a second run computes again: all that outputs need and that depends on a request."""
    depending = {value.name for value in model.graph.input}
    copied: Counter[str] = Counter()
    for node in needed(model.graph.node, sample_outputs(model)):
        if not depending.isdisjoint(reads(node)):
            depending.update(node.output)
            copied[node.op_type] += 1
    return copied


def table(layers: tuple[int, int] = (FEW, MANY)) -> Iterator[dict[str, Any]]:
    """A line for each model, detector and form of the patch."""
    few, many = layers
    for name in MODELS:
        models = {number: made(name, number) for number in layers}
        for kind, detector in detectors(name).items():
            for options in OPTIONS:
                short, long = (added(name, models[number], detector, options) for number in layers)
                each = {
                    op: (long[op] - short[op]) / (many - few) for op in sorted({*short, *long}) if long[op] != short[op]
                }
                site = sum(each.values())
                yield {
                    "model": name,
                    "detector": kind,
                    **options,
                    "per site": round(site, 1),
                    "shared": round(short.total() - few * site, 1),
                    "bound": SECOND if options["passes"] == "two" else BOUNDS[kind],
                    "operators per site": {op: round(number, 1) for op, number in each.items()},
                }


@click.command()
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=RESULTS,
    show_default=False,
    help="File for the counts; models/results/nodes.json by default.",
)
def main(output: Path) -> None:
    """Count, show the counts and write them."""
    lines = list(table())
    for line in lines:
        form = f"{line['passes']} {line['controls']}{' telemetry' if line['telemetry'] else ''}"
        over = "over the bound" if line["per site"] > line["bound"] else ""
        click.echo(f"{line['model']:6} {line['detector']:10} {form:24} {line['per site']:6} {line['shared']:6} {over}")
    text = ",\n".join(" " + json.dumps(line) for line in lines)
    output.write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
