"""`atpatch-onnx extract`."""

from __future__ import annotations

from typing import Any

import click

from .options import json_output, model_argument, output
from .rendering import emit_json, note


@click.command()
@model_argument
@click.argument("site")
@output("File to write.", required=True)
@json_output
def extract(model: str, site: str, output: str, as_json: bool) -> None:
    """Write SITE of MODEL as a tiny model that runs by itself, without the weights around it.

    For bug reports: send the small file instead of the model. Site ids are those of 'inspect'.

    \b
    Example:
      atpatch-onnx extract model.onnx encoder.layers.5.self_attn -o site.onnx
    """
    from ..inspection.inspector import count_nodes, extract as extract_site

    part = extract_site(model, site, output)
    facts: dict[str, Any] = {
        "output": output,
        "site": site,
        "nodes": count_nodes(part),
        "inputs": [value.name for value in part.graph.input],
        "outputs": [value.name for value in part.graph.output],
    }
    if as_json:
        emit_json(facts)
    else:
        note(
            f"written {output}: {facts['nodes']} nodes, inputs {', '.join(facts['inputs'])}, outputs"
            f" {', '.join(facts['outputs'])}"
        )
