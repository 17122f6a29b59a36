"""`atpatch-onnx patch`."""

from __future__ import annotations

from typing import Any

import click

from ..hotfix.options import PatchOptions
from .options import in_place, json_output, link_data, model_argument, options_of, output
from .progress import bars
from .rendering import emit_json, files_of_folder, note, table


@click.command()
@model_argument
@output("File or folder to write; by default MODEL.patched.onnx or FOLDER.patched next to the model.")
@options_of(PatchOptions)
@click.option(
    "--file",
    "files",
    multiple=True,
    metavar="NAME",
    help="Of a folder: a model file to patch, may be repeated; by default those that its programs load.",
)
@in_place
@link_data
@json_output
def patch(model: str, as_json: bool, **options: Any) -> None:
    """Insert detectors and redistribution at the attention sites of MODEL.

    Without a hotfix, 'patch' calibrates the model itself: a text encoder on random tokens, any other model on the clean
    rows of --calibrate. Decoders, and other models without rows, are refused (ATP061). If MODEL has a patch already,
    the new one replaces it.

    MODEL may be a folder of onnxruntime-genai (genai_config.json), or of Optimum or transformers.js (config.json). Then
    a folder comes out that the same program loads. Large files in it are hard-linked, small ones copied.

    \b
    Example:
      atpatch-onnx patch model.onnx                                    # with model.hotfix next to it, or a text encoder
      atpatch-onnx patch model.onnx --hotfix model.hotfix -o served/model.onnx
      atpatch-onnx patch model.onnx --calibrate clean.npz --save-hotfix model.hotfix
      atpatch-onnx patch model.onnx --detector statistic               # whatever the model is
      atpatch-onnx patch model.onnx --detector static --columns none   # all the wiring, never a flag
      atpatch-onnx patch model.onnx --portable                         # before converters and quantizers
      atpatch-onnx patch ./llama-genai -o ./llama-patched --hotfix llama.hotfix
    """
    from ..patching.apply import patch as patch_model

    with bars() as progress:
        done = patch_model(model, progress=progress, **options)
    for line in done.notes:
        note(line)
    if as_json:
        emit_json(done.to_json())
        return
    rows = [
        ("written", done.output),
        ("sites", str(len(done.sites))),
        ("detector", done.detector + (f" from {done.hotfix}" if done.hotfix else "")),
        ("passes", done.passes),
        ("gating", done.gating),
        ("nodes", f"{done.nodes_before} before, {done.nodes_after} after"),
        ("seconds", f"{done.seconds:.2f}"),
    ]
    table("patched" + (", an older patch replaced" if done.replaced else ""), ("", ""), rows)
    table("patched sites", ("site",), [(site,) for site in done.sites])
    files_of_folder(done)
