"""`atpatch-onnx bom`."""

from __future__ import annotations

import click

from .options import model_argument, output
from .rendering import note


@click.command()
@model_argument
@output("File to write; by default the bill of materials is printed on stdout.")
@click.option(
    "--hotfix",
    type=click.Path(),
    metavar="FILE",
    help="Hotfix of the patch, which has the figures; by default the one next to MODEL.",
)
def bom(model: str, output: str | None, hotfix: str | None) -> None:
    """Write the bill of materials of a patched MODEL: a CycloneDX 1.6 ML-BOM.

    It names the original, the hotfix, external data and their digests, what the patch does, and the figures of the fit.
    SOURCE_DATE_EPOCH in the environment fixes its time and serial number. Needs the extra 'bom'.

    \b
    Example:
      atpatch-onnx bom model.patched.onnx -o bom.json
      atpatch-onnx bom served/model.onnx --hotfix model.hotfix | jq .metadata.component.pedigree
    """
    from ..materials.bill import bom as bill_of_materials

    made = bill_of_materials(model, output, hotfix=hotfix)
    for line in made.notes:
        note(line)
    if output is None:
        click.echo(made.to_text(), nl=False)
    else:
        note(f"written {output}")
