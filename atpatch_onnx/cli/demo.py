"""`atpatch-onnx demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import json_output
from .rendering import emit_json, note, table

if TYPE_CHECKING:
    from ..compare.metrics import Share
    from ..demo import Demo

PAGE = "atpatch-demo.html"


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
    from ..compare.page import render_page, verdict
    from ..demo import run_demo
    from ..pages import save_page

    done = run_demo(progress=note)
    page = save_page(render_page(done), Path(out) / PAGE)
    if as_json:
        emit_json(done.to_json(page))
        return
    _tables(done)
    note(verdict(done))
    note(f"page: {page}")


def _tables(done: Demo) -> None:
    rows = [
        ("accuracy on clean digits", _share(done.original.accuracy), _share(done.patched.accuracy)),
        ("attack success (ASR)", _share(done.original.asr), _share(done.patched.asr)),
        ("ASR*", _share(done.original.asr_star), _share(done.patched.asr_star)),
        ("triggered digits read right", _share(done.original.recovered), _share(done.patched.recovered)),
        ("clean requests flagged", None, _share(done.patched.clean_flagged)),
        ("triggered requests flagged", None, _share(done.patched.triggered_flagged)),
    ]
    table("test split, shares in % with 95 % Wilson intervals", ("", "original", "patched"), rows)
    times = [
        (
            name,
            f"{one.original.median:.3f}",
            f"{one.patched.median:.3f}",
            f"{one.ratio.median:.2f} ({one.ratio.low:.2f}-{one.ratio.high:.2f})",
        )
        for name, one in done.latency.items()
    ]
    table("one request, one thread", ("", "original, ms", "patched, ms", "ratio (quartiles)"), times)


def _share(share: Share | None) -> str | None:
    if share is None:
        return None
    low, high = share.interval
    return f"{share.value * 100:.1f} ({low * 100:.1f}-{high * 100:.1f})"
