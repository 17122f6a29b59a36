"""`atpatch-onnx inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from .options import filters, json_output, model_argument
from .rendering import emit_json, note, table

if TYPE_CHECKING:
    from rewriters.errors import AtpatchError
    from rewriters.sites import Inspection


@click.command()
@model_argument
@filters
@click.option(
    "--explain",
    "explained",
    metavar="SITE",
    help="Draw the chain of one site or rejected Softmax, given by id or node name.",
)
@click.option(
    "--html",
    type=click.Path(),
    metavar="FILE",
    help="Also write a page that draws the model's sites; needs the extra 'report'.",
)
@json_output
@click.pass_context
def inspect(
    ctx: click.Context,
    model: str,
    include: str | None,
    exclude: str | None,
    explained: str | None,
    html: str | None,
    as_json: bool,
) -> None:
    """Find every attention site of MODEL, and say why other Softmax nodes are none.

    MODEL may be a folder, as for 'patch'. Exits with 3 when there is no site. Weights are not read.

    \b
    Example:
      atpatch-onnx inspect model.onnx
      atpatch-onnx inspect model.onnx --explain encoder.layers.5.self_attn
      atpatch-onnx inspect model.onnx --html sites.html
      atpatch-onnx inspect model.onnx --include 'layer\\.(4|5)' --json | jq '.sites[].id'
      atpatch-onnx inspect ./llama-genai
    """
    from ..inspection.explanation import explain as explain_site
    from ..inspection.folders import is_folder
    from ..inspection.inspector import inspect as inspect_model, no_site

    if is_folder(model):
        if explained is not None or html is not None:
            raise click.UsageError("--explain and --html take one model file of the folder")
        _folder(ctx, model, include, exclude, as_json)
        return
    found = inspect_model(model, include, exclude)
    explanation = None if explained is None else explain_site(model, explained)
    if html is not None:
        from ..inspection.page import sites_page
        from ..pages import save_page
        from ..paths import refuse_overwriting

        refuse_overwriting(Path(model), Path(html))
        note(f"page: {save_page(sites_page(model, include, exclude), Path(html))}")
    if as_json:
        emit_json({**found.to_json(), **({} if explanation is None else {"explain": explanation.to_json()})})
    elif explanation is not None:
        from .chain import show

        show(explanation)
    elif html is None:
        _tables(found)
    if not found.sites and explanation is None:
        all_sites = found.sites if include is exclude is None else inspect_model(model).sites
        _exit_without_site(ctx, no_site(model, all_sites, found.rejected))


def _folder(ctx: click.Context, path: str, include: str | None, exclude: str | None, as_json: bool) -> None:
    """Each model file that a patch would change, and the names of those that it would not."""
    from ..inspection.folders import inspect_folder
    from ..inspection.inspector import no_site

    folder, found = inspect_folder(path, include, exclude)
    left = [one for one in folder.files if one.why_not]
    if as_json:
        served = [one for one in folder.files if not one.why_not]
        files = [
            {"file": one.file, "part": one.part, **each.to_json()} for one, each in zip(served, found, strict=True)
        ]
        others = [{"file": one.file, "part": one.part, "why": one.why_not} for one in left]
        emit_json({"folder": path, "kind": folder.kind, "files": files, "left": others})
    else:
        for each in found:
            _tables(each)
        if left:
            table(
                "not patched by default", ("file", "part", "why"), [(one.file, one.part, one.why_not) for one in left]
            )
        if folder.two_sides:
            note(
                "encoder and decoder are separate files: a patch repairs each by itself, and cross attention reads the"
                " encoder's states of flagged tokens too, unless --mend heal exchanges them"
            )
    if not any(each.sites for each in found):
        _exit_without_site(ctx, no_site(path, (), [one for each in found for one in each.rejected]))


def _exit_without_site(ctx: click.Context, refusal: AtpatchError) -> NoReturn:
    """Not as an error: what was found stands above."""
    note(f"{refusal.code}: {refusal.what}")
    note(f"  {refusal.fix}")
    ctx.exit(refusal.exit_code)


def _tables(found: Inspection) -> None:
    facts = found.model
    made_by = facts["producer"] or "no producer"
    note(f"{facts['path']}: opset {facts['opset']}, IR {facts['ir_version']}, {facts['nodes']} nodes, {made_by}")
    if facts["external_data"]:
        note(f"external data: {', '.join(facts['external_data'])}")
    if "patch" in facts:
        note(f"patched: {facts['patch'].get('sites')} ({facts['patch'].get('detector')}); shown is the original")
        from rewriters.sites import alarm_in_words, span_in_words

        if "alarm" in facts["patch"]:
            note(f"alarm: {alarm_in_words(facts['patch']['alarm'])}")
        if "span" in facts["patch"]:
            note(f"marked span: {span_in_words(facts['patch']['span'])}")
    if found.sites:
        columns = ("site", "form", "heads", "query axis", "key axis", "P is", "confidence", "scope")
        rows = [
            (s.id, s.form, s.heads, s.query_axis, s.key_axis, f"operand {s.operand}", s.confidence, s.scope)
            for s in found.sites
        ]
        table(f"{len(found.sites)} attention sites", columns, rows)
    if found.rejected:
        table(
            f"{len(found.rejected)} rejected",
            ("softmax", "code", "why"),
            [(r.softmax, r.code, r.reason) for r in found.rejected],
        )
