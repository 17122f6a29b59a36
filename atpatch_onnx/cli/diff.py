"""`atpatch-onnx diff`."""

from __future__ import annotations

import click

from .options import json_output
from .rendering import emit_json, note, table

# A stamp's undo record runs to kilobytes of base64; a person needs its beginning.
_CELL = 60


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= _CELL else text[:_CELL] + "…"


@click.command()
@click.argument("before", type=click.Path())
@click.argument("after", type=click.Path())
@click.option("--summary", is_flag=True, help="Print only counts, no list.")
@json_output
@click.pass_context
def diff(ctx: click.Context, before: str, after: str, summary: bool, as_json: bool) -> None:
    """Show what differs between the models BEFORE and AFTER, node by node.

    Exits with 1 when they differ, as diff does. Weights in external files are compared by reference.

    \b
    Example:
      atpatch-onnx diff model.onnx model.patched.onnx
    """
    from rewriters.names import without_owner

    from ..inspection.differences import diff as diff_models

    found = diff_models(before, after)
    if as_json:
        emit_json(found.to_json())
    elif found.identical:
        note("identical")
    else:
        if not summary:
            changes = sorted(found.changes, key=lambda change: (change.what != "node", change.site))
            rows = [
                (
                    c.status,
                    c.what,
                    c.site,
                    without_owner(c.name),
                    c.body,
                    _short(c.before),
                    _short(c.after),
                    " ".join(c.parts),
                )
                for c in changes
            ]
            table(f"{len(rows)} differences", ("", "what", "site", "name", "in", "before", "after", "changed"), rows)
        counts = [(site or "elsewhere", *by_status.values()) for site, by_status in sorted(found.by_site().items())]
        if counts:
            table("nodes by site", ("site", "added", "removed", "changed"), counts)
        if not found.changes:
            note("the same nodes and values in another order")
    if not found.identical:
        ctx.exit(1)
