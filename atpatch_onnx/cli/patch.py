"""`atpatch-onnx patch`."""

from __future__ import annotations

from typing import Any

import click

from .options import filters, in_place, json_output, link_data, model_argument, output, passes
from .rendering import emit_json, note, table


def _columns(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    if text is None or text == "none":
        return None if text is None else ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter("give positions like 3,7, or none") from error


def _benign(_: click.Context, __: click.Parameter, text: str | None) -> float | str | None:
    if text is None or text in ("mean", "zero"):
        return text
    try:
        return float(text)
    except ValueError as error:
        raise click.BadParameter("give mean, zero, or a number such as 0.5") from error


@click.command()
@model_argument
@output("File to write; by default MODEL.patched.onnx beside the model.")
@click.option(
    "--hotfix",
    type=click.Path(),
    help="Hotfix that 'fit' wrote; by default MODEL.hotfix beside the model, where there is one.",
)
@click.option(
    "--detector",
    type=click.Choice(["statistic", "static", "onnx"]),
    help="A detector that needs no hotfix, used whatever the model is.",
)
@click.option(
    "--columns",
    callback=_columns,
    metavar="LIST",
    help="Columns that --detector static flags: 3,7 or none (never fires).",
)
@click.option(
    "--detector-model", type=click.Path(), help="ONNX file of --detector onnx: (B, H, Q, K) float32 to scores (B, K)."
)
@click.option("--threshold", type=float, help="Flag columns whose score is above this.")
@click.option(
    "--benign",
    callback=_benign,
    metavar="zero|mean|NUMBER",
    help="Level of benign attention; a number is a multiple of the mean.",
)
@click.option(
    "--values", type=click.Choice(["benign", "own"]), help="Replace a flagged column's value too (default), or keep it."
)
@passes(
    ("one", "two"),
    "Patch each site as it comes, or run flagged samples again; by default as the hotfix says, else one.",
    None,
)
@click.option(
    "--gating", type=click.Choice(["if", "none"]), help="Redistribute only when something is flagged, or branch-free."
)
@click.option(
    "--target",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Chooses the gating: if, none.",
)
@click.option("--telemetry", is_flag=True, help="Add outputs that tell which columns were flagged.")
@click.option(
    "--controls",
    type=click.Choice(["optional", "required", "none"]),
    help=(
        "Inputs that steer the patch: optional (default), required (genai and JavaScript ignore optional ones), or"
        " none."
    ),
)
@click.option("--freeze", is_flag=True, help="The same as --controls none.")
@click.option(
    "--portable",
    is_flag=True,
    help="For tools that rewrite the graph later: no branches, no controls. Costs a little on every request.",
)
@filters
@in_place
@click.option("--force", is_flag=True, help="Use a hotfix that was made for another model.")
@link_data
@json_output
def patch(model: str, as_json: bool, **options: Any) -> None:
    """Insert detectors and redistribution at the attention sites of MODEL.

    Without a hotfix a text encoder gets the training-free detector, with a cautious threshold. Every other model is
    refused (ATP061): a guess may spoil a decoder, or a model of images or tables. A patch that MODEL carries already is
    replaced.

    \b
    Example:
      atpatch-onnx patch model.onnx                                    # with model.hotfix beside it, or a text encoder
      atpatch-onnx patch model.onnx --hotfix model.hotfix -o served/model.onnx
      atpatch-onnx patch model.onnx --detector statistic               # whatever the model is
      atpatch-onnx patch model.onnx --detector static --columns none   # all the wiring, never a flag
    atpatch-onnx patch model.onnx --portable                         # before converters and quantisers
    """
    from ..patching.apply import patch_model

    done = patch_model(model, **options)
    for line in done.notes:
        note(line)
    if as_json:
        emit_json(done.to_json())
        return
    rows = [
        ("written", done.output),
        ("sites", f"{len(done.sites)}: {', '.join(done.sites)}"),
        ("detector", done.detector + (f" from {done.hotfix}" if done.hotfix else "")),
        ("passes", done.passes),
        ("gating", done.gating),
        ("nodes", f"{done.nodes_before} before, {done.nodes_after} after"),
        ("seconds", f"{done.seconds:.2f}"),
    ]
    table("patched" + (", an older patch replaced" if done.replaced else ""), ("", ""), rows)
