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
@click.option("--copy", type=click.Path(), metavar="FOLDER", help="Only write the demo's model, hotfix and data there.")
@json_output
def demo(out: str, copy: str | None, as_json: bool) -> None:
    """Hot-fix a backdoored Vision Transformer on real digits: inspect, patch, compare, and draw a page.

    Takes seconds. Needs the extras 'cpu' and 'report'.

    \b
    Example:
      atpatch-onnx demo
      atpatch-onnx demo --out page --json
      atpatch-onnx demo --copy digits
    """
    from rewriters.model.regular_files import check_destination

    from ..comparison.tables import tables_of
    from ..demo.page import render_demo
    from ..demo.run import copy_demo, run_demo
    from ..errors import BAD_OPTION
    from ..pages import save_page

    if copy is not None:
        if as_json:
            raise BAD_OPTION("--copy has no JSON report", "leave --json out")
        note("written: " + ", ".join(map(str, copy_demo(Path(copy)))))
        return
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
