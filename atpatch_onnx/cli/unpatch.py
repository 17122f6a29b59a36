"""`atpatch-onnx unpatch`."""

from __future__ import annotations

import click

from .options import in_place, json_output, link_data, model_argument, output
from .rendering import emit_json, files_of_folder, note


@click.command()
@model_argument
@output("File or folder to write; by default MODEL.unpatched.onnx or FOLDER.unpatched next to the model.")
@in_place
@link_data
@json_output
def unpatch(model: str, output: str | None, in_place: bool, link_data: bool | None, as_json: bool) -> None:
    """Restore the original of a patched MODEL, field for field. Of a folder, every patched model file is restored.

    \b
    Example:
      atpatch-onnx unpatch model.patched.onnx -o model.onnx
      atpatch-onnx unpatch ./llama-patched -o ./llama-original
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
        files_of_folder(done)
