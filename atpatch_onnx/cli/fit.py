"""`atpatch-onnx fit`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import AtpatchError
from ..fitting.options import FitOptions, Progress
from .options import class_names, clean_texts, json_output, model_argument, options_of, output, tokenizer
from .progress import bars
from .rendering import emit_json, note, table
from .sources import answering_model, model_path, pop_source, source_options, write_columns_template

if TYPE_CHECKING:
    from ..comparison.price import Price
    from ..debugset.sources import Source
    from ..hotfix.file import Hotfix

# Evidence key → what people read.
FIGURES = {
    "accuracy": "accuracy",
    "unfair": "unfair groups left unfair",
    "asr": "ASR",
    "asr_star": "ASR*",
    "recovered": "triggered rows predicted like their clean partners",
    "clean_changed": "clean predictions changed",
}


@click.command()
@model_argument
@click.option(
    "--debug", "debug_set", type=click.Path(), metavar="SET", help="Debugging set (.npz) with columns and pair."
)
@click.option(
    "--clean",
    type=click.Path(),
    metavar="SET",
    help="Clean rows (.npz, or texts with --tokenizer); the detectors oneclass and statistic need nothing else.",
)
@source_options
@click.option(
    "--columns-template",
    type=click.Path(),
    metavar="FILE",
    help="With --table: write a column description with guesses (.toml), and fit nothing.",
)
@click.option(
    "--from-log",
    type=click.Path(),
    metavar="LOG",
    help="Clean rows from a log of 'serve --log-inputs', rotated files included; 2 % may be attacks (see --trim).",
)
@tokenizer
@class_names
@output("Hotfix to write; by default MODEL.hotfix next to the model.")
@options_of(FitOptions)
@click.option(
    "--report",
    type=click.Path(),
    metavar="FILE",
    help="Also write a page (.html): what was found, where, and how certain it is.",
)
@click.option(
    "--price",
    "price_seconds",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time the rows in the original and the patched graph for so long, unflagged ones and flagged ones; 0: do not.",
)
@json_output
def fit(
    model: str,
    debug_set: str | None,
    clean: str | None,
    from_log: str | None,
    columns_template: str | None,
    output: str | None,
    report: str | None,
    price_seconds: float,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit a hotfix for MODEL on a debugging set of clean and triggered rows, or only on clean rows.

    MODEL may be a folder that Optimum loads, also one with an encoder and a decoder: then the hotfix is for the
    encoder. In place of sets, --texts with --trigger, or --table with --attribute: the debugging set is made as
    'debugset' makes it.

    The kind of detector is chosen by what it does on rows that are set aside, unless --detector names one. Another
    quarter of the rows is held back, and the figures shown come from these rows. Needs the extras 'fit' and 'cpu' (or
    'gpu').

    \b
    Example:
      atpatch-onnx fit model.onnx --debug debug.npz
      atpatch-onnx fit model.onnx --clean clean.npz --max-clean-flagged 0.02
      atpatch-onnx fit served/ --texts dev.tsv --trigger cf
      atpatch-onnx fit census.onnx --table people.csv --columns map.toml --attribute sex
      atpatch-onnx fit model.onnx --from-log decisions.jsonl
      atpatch-onnx fit bert.onnx --clean dev.tsv --tokenizer ./bert
      atpatch-onnx fit model.onnx --debug debug.npz --clean clean.npz -o model.hotfix --json | jq .evidence.report.after
    """
    from rewriters.model.regular_files import check_destination, check_source

    from ..fitting.fitter import fit as fit_model
    from ..hotfix.file import SUFFIX
    from ..inference.answer_tokens import parse_answer_tokens
    from ..inspection.encoder_decoder import patched_file
    from ..inspection.environment import require

    if columns_template is not None:
        return write_columns_template(model_path(model), options["table"], columns_template)
    source, model = pop_source(options), answering_model(model)
    tokenizer, class_names = options.pop("tokenizer"), options.pop("class_names")
    destination = check_source(patched_file(model)).with_suffix(SUFFIX) if output is None else Path(output)
    if report is not None:
        require("--report", "jinja2")
        check_destination(report, make_folder=True)
    if from_log is not None and (debug_set, clean, source.given) != (None, None, False):
        raise click.UsageError("--from-log takes the place of --debug, --clean, --texts and --table")
    rows = None if from_log is None else _logged(from_log, model, options)
    rows = rows or clean_texts(clean, model, tokenizer, class_names, options["output_kind"])
    options["answer_tokens"] = parse_answer_tokens(options["answer_tokens"], tokenizer)
    with bars() as progress:
        debug, rows = _made(model, source, (debug_set, rows), progress) if source.given else (debug_set, rows)
        hotfix = fit_model(model, debug, rows, destination, progress=progress, **options)
        price = priced(model, hotfix, (debug, rows), price_seconds, options["threads"])
    if report is not None:
        _save_page(hotfix, model, report, price)
    _tell({"output": str(destination), **hotfix.describe()}, price, as_json)


def _tell(described: dict[str, Any], price: Price | None, as_json: bool) -> None:
    if as_json:
        return emit_json(described | ({} if price is None else {"price": price.to_json()}))
    _show(described)
    if price is not None and price.latency:
        note(price.in_words())


def priced(model: str, hotfix: Hotfix, given: tuple[Any, Any], seconds: float, threads: int | None) -> Price | None:
    """Not part of the hotfix: the same rows and seed give the same file, and times differ. None where it cannot be
    measured, since the hotfix is written by now.
    """
    if seconds == 0:
        return None
    from ..comparison.price import price_of
    from ..fitting.splits import join
    from ..inference.datasets import as_dataset

    try:
        rows = join(*(None if one is None else as_dataset(one) for one in given))
        return price_of(model, hotfix, rows, seconds=seconds, threads=threads)
    except (AtpatchError, MemoryError, OSError) as error:
        note(f"what requests cost could not be measured: {error}")
        return None


def _save_page(hotfix: Hotfix, model: str, path: str, price: Price | None) -> None:
    from ..fitting.page import fit_page
    from ..pages import save_page

    save_page(fit_page(hotfix, Path(model).name, "" if price is None else price.in_words()), Path(path))


def _made(model: str, source: Source, given: tuple[Any, Any], progress: Progress | None) -> tuple[Any, Any]:
    """The debugging set and the clean rows, one of them made from `--texts` or `--table`."""
    from ..debugset.sources import sets_to_fit
    from ..inspection.environment import require

    require("fit", "torch", "scipy")
    debug, clean = given
    if debug is not None:
        raise click.UsageError("--texts and --table take the place of --debug")
    made = sets_to_fit(Path(model), source, progress)
    for line in made.notes:
        note(line)
    if made.clean is not None and clean is not None:
        raise click.UsageError("--texts without --trigger takes the place of --clean")
    return made.debug, made.clean if made.clean is not None else clean


def _logged(log: str, model: str, options: dict[str, Any]) -> Mapping[str, Any]:
    """Clean rows from a decision log; a few of them may be attacks, so `trim` is set where it is not given."""
    from ..fitting.traffic.fit import TRIM, data_of_rows
    from ..fitting.traffic.log import collect_log

    found = collect_log(log)
    share = f"; one unit gave {found.largest_share:.0%} of them" if found.largest_share else ""
    note(f"{len(found.rows)} rows from {log}{share}")
    if options["detector"] in ("auto", "oneclass"):
        options["trim"] = options["trim"] or TRIM
    return data_of_rows(model, found.rows)


def _show(described: Mapping[str, Any]) -> None:
    """The settings and the figures of the held-back rows."""
    from ..fitting.judge import bound_in_words, ruined_in_words
    from ..fitting.kind_selection import choice_in_words
    from ..inference.output_kinds import likeness_in_words

    for line in _settings(described):
        note(line)
    evidence = described["evidence"]
    for line in choice_in_words(evidence["detectors"]) if "detectors" in evidence else ():
        note(line)
    if evidence["every"] > 1:
        note(f"detectors read every {evidence['every']}th query row")
    judged = evidence["report"]
    rows = [(text, _rate(judged["before"].get(key)), _rate(judged["after"].get(key))) for key, text in FIGURES.items()]
    rows += [
        ("triggered rows flagged", "", _rate(judged["recall"])),
        ("clean rows flagged", "", _rate(judged["clean_flagged"])),
    ]
    if alarm := judged.get("alarm"):
        names = {
            "clean": "clean rows with an alarm",
            "attacks": "triggered rows with an alarm",
            "left": "those that work",
        }
        rows += [(text, "", _rate(alarm[key])) for key, text in names.items()]
    table("held-back rows, with 95 % intervals", ("", "before", "after"), [row for row in rows if row[2]])
    if near := judged.get("likeness"):
        rows = [
            ("triggered rows", _spread(near["triggered_before"]), _spread(near["triggered"])),
            ("clean rows", "", _spread(near["clean"])),
        ]
        table(f"{likeness_in_words(near['kind'])}: mean, median", ("", "before", "after"), rows)
    if whole := judged.get("whole_answers"):
        texts = {"recovered": "triggered rows answered like their partners", "clean_changed": "clean answers changed"}
        rows = [(text, _rate(whole["before"].get(key)), _rate(whole["after"].get(key))) for key, text in texts.items()]
        table(f"whole answers of {whole['length']} tokens", ("", "before", "after"), rows)
    if doses := judged.get("doses"):
        table(
            "by copies of the trigger in a row",
            ("copies", "attacks before", "attacks after", "flagged"),
            [(copies, *(_rate(one[key]) for key in ("before", "after", "flagged"))) for copies, one in doses.items()],
        )
    sites = [
        (
            name + " (on the flags of others)" * (not evidence["sites"][name]["detects"]),
            _rate(figures["recall"]),
            _rate(figures["clean_flagged"]),
        )
        for name, figures in judged["sites"].items()
    ]
    sites += [(name, f"left unpatched: {why}", "") for name, why in evidence["skipped"].items()]
    for words in filter(None, (bound_in_words(judged), ruined_in_words(judged))):
        note(words)
    table("sites", ("site", "triggered rows flagged", "clean rows flagged"), sites)


def _settings(described: Mapping[str, Any]) -> Iterator[str]:
    sites = len(described["sites"])
    yield (
        f"{described['output']}: {described['detector']} at {sites} site{'s' * (sites > 1)}, threshold"
        f" {described['threshold']:.3g}"
    )
    passes = {
        "one": "one pass",
        "two": f"two passes, accepted {'on a flip only' if described['accept'] == 'flip' else 'always'}",
    }
    if described["mend"] == "heal":
        yield from _healing(described)
        return
    mend = f"benign attention {described['benign_level']:g} × its mean, {described['values']} values"
    yield f"{'flagged tokens excised' if described['mend'] == 'excise' else mend}, {passes[described['passes']]}"


def _healing(described: Mapping[str, Any]) -> Iterator[str]:
    calls = {"cached": "prefill and decoding with caches", "whole": "whole prompts"}.get(described["calls"], "")
    lengths = described["lengths"]
    seen = f"prompts of {lengths['shortest']} to {lengths['longest']} tokens" if lengths else ""
    yield "flagged tokens healed" + "".join(f"; {words}" for words in (calls, seen) if words)
    probe = described["evidence"]["calibration"]["probe"]
    yield (
        f"detecting sites: the first {probe['depth']} of {probe['sites']}, so a flagged prompt runs"
        f" {probe['layers_share']:.0%} of its layers twice; a step of one token is not judged"
    )


def _spread(found: Mapping[str, Any]) -> str:
    if not found["n"]:
        return ""
    return f"{found['mean']:.3f}, {found['median']:.3f} (5 % of {found['n']} below {found['low']:.3f})"


def _rate(figure: Mapping[str, Any] | None) -> str:
    if not figure or "rate" not in figure:
        return ""
    return f"{figure['rate']:.1%} ({figure['low']:.1%} to {figure['high']:.1%}; {figure['k']} of {figure['n']})"
