"""`atpatch-onnx unpatch`."""

from __future__ import annotations

import click

from .options import in_place, json_output, link_data, model_argument, output
from .rendering import emit_json, note


@click.command()
@model_argument
@output("File to write; by default MODEL.unpatched.onnx next to the model.")
@in_place
@link_data
@json_output
def unpatch(model: str, output: str | None, in_place: bool, link_data: bool, as_json: bool) -> None:
    """Restore the original of a patched MODEL, field for field.

    \b
    Example:
      atpatch-onnx unpatch model.patched.onnx -o model.onnx
    """
    from ..patching.apply import unpatch as unpatch_model

    done = unpatch_model(model, output, in_place=in_place, link_data=link_data)
    if as_json:
        emit_json(done.to_json())
    else:
        note(
            f"written {done.output}: {done.nodes_before} nodes before, {done.nodes_after} after, equal to the original"
            f" ({done.digest[:16]})"
        )
