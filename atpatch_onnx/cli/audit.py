"""`atpatch-onnx audit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..auditing.options import AuditOptions
from .options import json_output, model_argument, options_of
from .progress import bars
from .rendering import emit_json, note, table

if TYPE_CHECKING:
    from ..auditing.result import Audit


@click.command()
@model_argument
@options_of(AuditOptions, but=("reference",))
@click.option("--reference", type=click.Path(), metavar="MODEL", help="A model that you trust: say what differs.")
@json_output
@click.option("--sarif", type=click.Path(), metavar="FILE", help="Write a SARIF 2.1.0 log, for code scanning.")
@click.option("--html", type=click.Path(), metavar="FILE", help="Write a page. Needs the extra 'report'.")
@click.pass_context
def audit(
    ctx: click.Context, /, model: str, as_json: bool, sarif: str | None, html: str | None, **options: Any
) -> None:
    """Look for backdoors in MODEL: in its graph, in what it does, in what its file says of its origin.

    Prints one verdict, what it rests on, how sure it is, and what was not tried. Exit status: 0 nothing was found,
    1 suspicious or backdoored, 2 the model cannot be used. That nothing is found is no proof.

    \b
    Example:
      atpatch-onnx audit model.onnx
      atpatch-onnx audit vit.onnx --clean clean.npz --html audit.html
      atpatch-onnx audit bert.onnx --clean dev.tsv --tokenizer ./bert --budget 15 --json
    """
    from rewriters.model.atomic import write_file
    from rewriters.model.regular_files import check_destination

    from ..auditing.auditor import audit as audit_model
    from ..auditing.page import audit_page
    from ..auditing.sarif import sarif_log
    from ..pages import environment, save_page

    if html is not None:
        environment()
    for path in filter(None, (html, sarif)):
        check_destination(path, make_folder=True)
    with bars() as progress:
        found = audit_model(model, progress, **options)
    if sarif is not None:
        write_file(Path(sarif), (json.dumps(sarif_log(found), indent=2) + "\n").encode())
    if html is not None:
        save_page(audit_page(found), Path(html))
    if as_json:
        emit_json(found.to_json())
    else:
        _show(found)
    ctx.exit(found.verdict.exit_code)


def _show(found: Audit) -> None:
    note(found.verdict.sentence)
    note(f"verdict: {found.verdict.word}; how sure: {found.verdict.sure}")
    if found.findings:
        table(
            "findings",
            ("code", "severity", "where", "why"),
            [(one.code, one.severity, one.where, one.why) for one in found.findings],
        )
    for remedy in dict.fromkeys(one.remedy for one in found.findings if one.remedy):
        note(f"next: {remedy}")
    if found.cut is not None and found.cut.output is not None:
        note(f"{found.cut.output}: without {len(found.cut.removed)} nodes, equal on {found.cut.rows} rows")
    elif found.cut is not None:
        note(f"nothing was written: {found.cut.why}")
    if found.not_tried:
        whys = [one.why for one in found.not_tried]
        rows = [
            (one.check, "as above" if before == one.why else one.why)
            for before, one in zip(["", *whys], found.not_tried, strict=False)
        ]
        table("not tried", ("check", "because"), rows)
