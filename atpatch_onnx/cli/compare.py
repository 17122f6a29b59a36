"""`atpatch-onnx compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..comparison.options import CompareOptions
from ..errors import BAD_OPTION
from .options import class_names, clean_texts, json_output, options_of
from .progress import bars
from .rendering import emit_json, note, table
from .sources import answering_model, pop_source, source_options

if TYPE_CHECKING:
    from ..comparison.graph_runs import Progress
    from ..comparison.report_files import Format
    from ..comparison.result import Comparison
    from ..debugset.sources import Source

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@click.command()
@click.argument("original", type=click.Path(), required=False)
@click.argument("patched", type=click.Path(), required=False)
@click.option(
    "--data",
    type=click.Path(),
    metavar="SET",
    help="Clean rows (.npz, or texts with --tokenizer); accuracy needs labels, agreement does not.",
)
@source_options
@click.option(
    "--rivals",
    type=click.Path(),
    metavar="FILE",
    help="With --table: other rows, to judge plain rivals too: thresholds by group (fairlearn), the column dropped.",
)
@click.option(
    "--triggered",
    type=click.Path(),
    metavar="SET",
    help="Attacked rows (.npz) with target and clean_row, for ASR and ASR*.",
)
@click.option(
    "--flips", type=click.Path(), metavar="SET", help="Flip set (.npz) with group, for UF (rows treated unfairly)."
)
@click.option(
    "--also",
    multiple=True,
    metavar="[NAME=]FILE",
    help="Another graph to compare with the original; may be repeated.",
)
@class_names
@options_of(CompareOptions, but=("classes", "providers", "exemplar", "names"))
@click.option("--numbers", is_flag=True, help="Outputs are no class scores: compare only their values.")
@click.option(
    "--provider",
    "providers",
    multiple=True,
    metavar="cpu|cuda|NAME",
    help="Execution provider, in order of preference.",
)
@click.option(
    "--assert",
    "assertions",
    multiple=True,
    metavar="EXPR",
    help="Bound such as 'asr_star<=0.01'; exits with 1 when one fails.",
)
@click.option("--save", type=click.Path(), metavar="FILE", help="Save the run (.npz), for a later --load.")
@click.option("--load", type=click.Path(), metavar="FILE", help="Judge a saved run without running a model.")
@click.option(
    "--report",
    "--html",
    "reports",
    type=click.Path(),
    multiple=True,
    metavar="FILE",
    help="Page to write: .html or .md; may be repeated.",
)
@json_output
def compare(
    original: str | None,
    patched: str | None,
    data: str | None,
    assertions: tuple[str, ...],
    save: str | None,
    load: str | None,
    reports: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Run ORIGINAL and PATCHED on the same rows: what the patch stops, what it costs, and how sure that is.

    Bounds name figures of the patched graph (accuracy, asr, asr_star, uf, clean_flagged, spd, average_odds,
    equal_opportunity, answer_kept, clean_alarms, asr_star_with_refusal) or paired ones (accuracy_drop, changed,
    mcnemar_p, max_difference, latency_ratio, step_ratio); 'original.asr>=0.9' is another graph's. Needs the extras
    'cpu' and 'report'. Models may be folders. --texts with --trigger, or --table with --attribute, make the sets.

    \b
    Example:
      atpatch-onnx compare model.onnx patched.onnx --data clean.npz --triggered triggered.npz --report compare.html
      atpatch-onnx compare model.onnx patched.onnx --data clean.npz --flips flips.npz --group features:9 --save run.npz
      atpatch-onnx compare served/ patched/ --texts test.tsv --trigger cf --html verdict.html
      atpatch-onnx compare census.onnx patched.onnx --table test.csv --columns map.toml --attribute sex --html page.html
      atpatch-onnx compare --load run.npz --assert "uf<=0.01" --assert "accuracy_drop<=0.003" --json | jq .paired
    """
    from rewriters.model.regular_files import check_destination

    from ..comparison.assertions import check, parse
    from ..comparison.report_files import write_report
    from ..comparison.result import Comparison

    bounds = [parse(text) for text in assertions]
    formats = _formats(reports, options)
    if save is not None:
        check_destination(save)
    if load is not None:
        if original is not None or patched is not None or data is not None:
            raise BAD_OPTION("--load judges a saved run", "leave out the models and the data, or --load")
        comparison = Comparison.load(load)
    else:
        comparison = _run(original, patched, data, options)
    if save is not None:
        comparison.save(save)
    values = comparison.values
    checked = [(bound, *check(bound, values)) for bound in bounds]
    for path, form in formats.items():
        write_report(comparison, path, form)
    told = comparison.to_json()
    if as_json:
        verdicts = [{"assert": bound.text, "value": value, "holds": holds} for bound, holds, value in checked]
        emit_json({**told, "asserts": verdicts, "reports": list(reports)})
    else:
        _show(comparison, told)
    for bound, holds, value in checked:
        note(f"{'holds' if holds else 'FAILS'}: {bound.text} ({bound.name} is {value:.6g})")
    for report in reports:
        note(f"report: {report}")
    if not all(holds for _, holds, _ in checked):
        raise click.exceptions.Exit(1)


def _formats(reports: tuple[str, ...], options: dict[str, Any]) -> dict[Path, Format]:
    """Page → its format. What is needed after all models have run is missed here, before."""
    from rewriters.model.regular_files import check_destination

    from ..comparison.report_files import report_format
    from ..inspection.environment import require

    if any(report.lower().endswith((".html", ".htm")) for report in reports):
        require("a page", "jinja2", "matplotlib")
    if options["group"] is not None or options["table"] is not None:
        require("comparing groups", "fairlearn", "scikit-learn")
    return {check_destination(report, make_folder=True): report_format(report) for report in reports}


def _run(original: str | None, patched: str | None, data: str | None, options: dict[str, Any]) -> Comparison:
    from ..comparison.comparer import compare as compare_models
    from ..comparison.graph_runs import ORIGINAL, PATCHED
    from ..comparison.model_order import read_models

    source = pop_source(options)
    if original is None or patched is None or (data is not None) == source.given:
        needed = "ORIGINAL, PATCHED and one of --data, --texts and --table are needed"
        raise BAD_OPTION(needed, "see 'atpatch-onnx compare --help'")
    original, patched, names = answering_model(original), answering_model(patched), options.pop("class_names")
    also: dict[str, str] = {}
    for text in options.pop("also"):
        name, sign, path = text.partition("=")
        name, path = (name, path) if sign else (Path(text).stem, text)
        if name in also:
            raise BAD_OPTION(f"two graphs of --also are called {name!r}", "give them names: --also NAME=FILE")
        also[name] = path
    read_models({ORIGINAL: original, PATCHED: patched, **also})  # before sets are made and models run
    providers = [PROVIDERS.get(name.lower(), name) for name in options.pop("providers")] or None
    classes = False if options.pop("numbers") else None
    with bars() as progress:
        clean = (
            _made(original, source, options, progress)
            if data is None
            else clean_texts(data, original, options["tokenizer"], names, options["output_kind"])
        )
        return compare_models(
            original, patched, clean, also=also, providers=providers, classes=classes, progress=progress, **options
        )


def _made(original: str, source: Source, options: dict[str, Any], progress: Progress | None) -> Any:
    """The clean rows of `--texts` or `--table`; the other sets and the names go into the options."""
    from ..comparison.rivals import Rivals
    from ..debugset.sources import sets_to_compare
    from ..inspection.model_files import tokenizer_next_to

    made = sets_to_compare(Path(original), source, progress)
    for line in made.notes:
        note(line)
    ours = {"triggered": made.triggered, "flips": made.flips, "group": made.group}
    if given := [name for name, value in ours.items() if value is not None and options[name] is not None]:
        raise BAD_OPTION(f"--{given[0]} is made from --texts or --table already", f"leave --{given[0]} out")
    options |= {name: value for name, value in ours.items() if value is not None} | {"names": made.names}
    if made.rows is not None:
        options["rivals"] = Rivals(made.rows, made.groups, made.at)
    if source.texts is not None and options["tokenizer"] is None:
        options["tokenizer"] = tokenizer_next_to(Path(original) if Path(original).is_dir() else Path(original).parent)
    return made.clean


def _show(comparison: Comparison, told: dict[str, Any]) -> None:
    """Print what was run, then the tables, then the verdict."""
    from ..comparison.tables import tables_of

    for shown in tables_of(comparison):
        table(shown.title, shown.columns, shown.rows)
        for remark in shown.notes:
            note(f"  {remark}")
    note(told["verdict"])
