"""`atpatch-onnx audit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..audit.options import AuditOptions
from .options import json_output, model_argument, options_of
from .progress import bars_or_lines
from .rendering import emit_json, note, table

if TYPE_CHECKING:
    from ..audit.result import Audit


@click.command()
@model_argument
@options_of(AuditOptions, but=("reference", "cut"))
@click.option("--reference", type=click.Path(), metavar="MODEL", help="A model that you trust: say what differs.")
@json_output
@click.pass_context
def audit(ctx: click.Context, /, model: str, as_json: bool, **options: Any) -> None:
    """Look for backdoors in MODEL: in its graph, in what it does, in what its file says of its origin.

    Prints one verdict, what it rests on, how sure it is, and what was not tried. Exit status: 0 nothing was found,
    1 suspicious or backdoored, 2 the model cannot be used. That nothing is found is no proof.

    \b
    Example:
      atpatch-onnx audit model.onnx
      atpatch-onnx audit vit.onnx --clean clean.npz --html audit.html
      atpatch-onnx audit bert.onnx --clean dev.tsv --tokenizer ./bert --budget 15 --json
    """
    from ..audit.auditor import audit as audit_model

    with bars_or_lines() as progress:
        found = audit_model(model, progress, **options)
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
    if found.not_tried:
        table("not tried", ("check", "because"), [(one.check, one.why) for one in found.not_tried])
