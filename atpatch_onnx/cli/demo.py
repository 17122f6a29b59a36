"""`atpatch-onnx demo`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import json_output
from .rendering import emit_json, note, table

PAGE = "atpatch-demo.html"
SHOWN = ("figures", "paired", "latency")


@click.command()
@click.option("--out", type=click.Path(), default=".", show_default=True, help=f"Folder for the page, {PAGE}.")
@json_output
def demo(out: str, as_json: bool) -> None:
    """Hot-fix a backdoored Vision Transformer on real digits: inspect, patch, compare, and draw a page.

    Takes seconds. Needs the extras cpu and report.

    \b
    Example:
      atpatch-onnx demo
      atpatch-onnx demo --out page --json
    """
    from rewriters.model.regular_files import check_destination

    from ..comparison.tables import tables_of
    from ..demo.page import render_demo
    from ..demo.run import run_demo
    from ..pages import save_page

    check_destination(Path(out) / PAGE, make_folder=True)
    done = run_demo(progress=note)
    page = save_page(render_demo(done), Path(out) / PAGE)
    if as_json:
        emit_json(done.to_json(page))
        return
    for shown in tables_of(done.comparison):
        if shown.key in SHOWN:
            table(shown.title, shown.columns, shown.rows)
    note(done.comparison.verdict())
    note(f"page: {page}")
