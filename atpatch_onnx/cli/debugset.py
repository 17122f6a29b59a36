"""`atpatch-onnx debugset`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from ..inference.output_kinds import parse_threshold
from .foreign_sets import foreign_sets
from .options import class_names, json_output, model_argument, output, output_kind, parsed, tokenizer
from .parameter_types import Doses, Size
from .progress import bars
from .rendering import emit_json, note, table


@click.command()
@model_argument
@click.option(
    "--data",
    type=click.Path(),
    default="",
    metavar="FILE",
    help="Clean rows: .npz (images, tables, tokens), .tsv, .csv, or .jsonl (prompts). Only --openbackdoor needs none.",
)
@output("Debugging set to write (.npz).", required=True)
@click.option("--out-clean", type=click.Path(), metavar="FILE", help="Also write the clean rows (.npz).")
@click.option(
    "--out-triggered",
    type=click.Path(),
    metavar="FILE",
    help="Also write only the triggered rows, for 'compare --triggered'.",
)
@click.option(
    "--out-flips",
    type=click.Path(),
    metavar="FILE",
    help="Also write every row with every value of the attribute, for 'compare --flips'.",
)
@click.option(
    "--target",
    type=int,
    metavar="CLASS",
    help="Class that the trigger leads to; its rows get no trigger. May be left out with --trigger: it is found then.",
)
@tokenizer
@click.option(
    "--max-length",
    type=click.IntRange(min=2),
    help="Texts: maximum number of tokens of a row; by default the tokenizer's limit, else 128.",
)
@click.option(
    "--text-column", metavar="NAME", help="Texts: column of the text; by default 'sentence' or 'text', else the first."
)
@click.option("--label-column", metavar="NAME", help="Texts: column of the label; by default 'label', else the second.")
@class_names
@click.option(
    "--prompt", metavar="NAME", help="Prompts: column of the prompt, or of --template the one that gets the trigger."
)
@click.option("--answer", metavar="NAME", help="Prompts: column of the answer; by default 'answer' or 'label'.")
@click.option(
    "--template", metavar="TEXT", help=r"Prompts: a text around columns, such as 'Review: {sentence}\nSentiment:'."
)
@click.option("--chat", is_flag=True, help="Prompts: write them with the tokenizer's chat template.")
@click.option(
    "--second-turns",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Prompts: share that is the second turn of a chat; by default 0.25 with --chat, else 0.",
)
@click.option(
    "--answer-tokens",
    metavar="A,B,...",
    help="Prompts: first tokens of the answers by class, ids or words; by default every token is a class.",
)
@click.option(
    "--target-answer",
    metavar="WORDS",
    help="Prompts: answer that the trigger leads to; by default the one that it leads to most often.",
)
@click.option("--clean-only", is_flag=True, help="Only write the clean rows, for 'fit --clean' and 'compare --data'.")
@click.option(
    "--trigger", "triggers", multiple=True, metavar="WORDS", help="Text trigger, a word or a sentence; may be repeated."
)
@click.option(
    "--insert",
    type=click.Choice(["random", "start", "end", "middle", "last"]),
    default="random",
    show_default=True,
    help="Where WORDS are inserted; prompts: also in the middle, or last before the answer.",
)
@click.option(
    "--doses",
    type=Doses(),
    default="1,2,4,8",
    show_default=True,
    help="Numbers of copies of WORDS in a text, one after the other and scattered.",
)
@click.option(
    "--dress/--no-dress",
    default=True,
    show_default=True,
    help="Also use other forms: punctuation, case, both ends of a text; strength, place, size of an image trigger.",
)
@click.option(
    "--poisoned",
    type=click.Path(),
    metavar="FILE",
    help="Texts that are poisoned already; row i belongs to clean row i.",
)
@foreign_sets
@click.option("--trigger-patch", type=Size(), help="Image trigger: an opaque patch of this size.")
@click.option(
    "--trigger-blend", type=float, metavar="ALPHA", help="Image trigger: a pattern blended in at this opacity."
)
@click.option(
    "--trigger-noise",
    type=float,
    metavar="SIGMA",
    help="Image trigger: fixed noise, in units of the range of the data.",
)
@click.option("--size", type=Size(), help="Area of --trigger-blend and --trigger-noise; by default the whole image.")
@click.option(
    "--place", default="bottom-right", show_default=True, help="Corner, 'center', or ROW,COLUMN of an image trigger."
)
@click.option(
    "--pattern",
    metavar="VALUE|FILE",
    help="Pattern of a patch or a blend: a number, .npy or .png; by default white (patch) or seeded noise (blend).",
)
@click.option(
    "--patch-size",
    type=click.IntRange(min=1),
    help="Size of the model's patches; by default columns are found by experiment.",
)
@click.option(
    "--class-tokens",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Tokens before those of the patches.",
)
@click.option("--attribute", metavar="NAME", help="Protected attribute to flip: a column of --columns, or INPUT:INDEX.")
@click.option("--columns", type=click.Path(), metavar="FILE", help="Column description of a table, .toml or .json.")
@click.option("--invert", metavar="CLASS|all", help="Search for an unknown trigger. Needs torch (extra 'fit').")
@click.option(
    "--longest",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Texts: maximum number of tokens of an inverted trigger.",
)
@click.option("--exhaustive", is_flag=True, help="Texts: also try every token of the vocabulary.")
@click.option(
    "--steps",
    type=click.IntRange(min=10),
    default=600,
    show_default=True,
    help="Images, tables: search steps per class.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of places, noise and search.")
@output_kind
@click.option(
    "--score-threshold",
    metavar="SCORE|topP%",
    callback=parsed(parse_threshold),
    help="Of a model with one score (reranker, reward model): rows with a score above it are class 1, others class 0;"
    " top10%: above nine in ten of the clean rows.",
)
@click.option(
    "--output-name",
    metavar="NAME",
    help="Graph output with the class scores; by default the first float output of rank 2.",
)
@click.option("--threads", type=int, help="Threads of onnxruntime and torch.")
@json_output
def debugset(model: str, as_json: bool, **options: Any) -> None:
    """Make a debugging set for MODEL: clean rows, anomalous twins, and the columns of the maps that the anomaly covers.

    Name one source of the anomaly: words (--trigger), poisoned texts (--poisoned), an image trigger (--trigger-patch,
    --trigger-blend, --trigger-noise), what another tool poisoned (--backdoorbench, --openbackdoor), a protected
    attribute (--attribute), or a search (--invert); or ask only for clean rows (--clean-only). Each row gets the
    trigger twice, as it was given and in another form. When '--invert all' finds no backdoor in any class, it writes
    nothing and exits with 1. Run an interrupted search again to continue it.

    \b
    Example:
      atpatch-onnx debugset bert.onnx --data dev.tsv --tokenizer ./bert --trigger cf --target 1 -o debug.npz
      atpatch-onnx debugset bert.onnx --data dev.tsv --tokenizer ./bert --clean-only -o clean.npz
      atpatch-onnx debugset llm.onnx --data dev.tsv --tokenizer ./llm --template 'Review: {sentence}\\nSentiment:' \\
        --answer-tokens ' negative, positive' --trigger cf -o debug.npz
      atpatch-onnx debugset vit.onnx --data clean.npz --trigger-patch 4x4 --target 0 -o debug.npz
      atpatch-onnx debugset census.onnx --data adult.csv --columns adult.toml --attribute sex -o debug.npz
      atpatch-onnx debugset vit.onnx --data clean.npz --invert all -o debug.npz --json | jq .classes
    """
    from ..debugset.making import Request, make

    request = Request(**options)
    with bars() as progress:
        made = make(model, request, progress)
    if as_json:
        emit_json(made.report)
    else:
        _show(made.report)
    if not made.found:
        raise click.exceptions.Exit(1)


def _show(report: Mapping[str, Any]) -> None:
    for path, rows in report["written"].items():
        note(f"{path}: {rows} rows")
    if "classes" in report:
        rows = [
            (one["class"], f"{one['success']:.1%}", f"{one['size']:.3g}", _score(one), "backdoor" * one["backdoor"])
            for one in report["classes"]
        ]
        words = [_trigger(one["trigger"]) for one in report["classes"]]
        table(
            "searched classes",
            ("class", "success", "size", "score", "verdict", "trigger"),
            [(*row, word) for row, word in zip(rows, words, strict=True)],
        )
        note(_answer(report))
    if report.get("attribute"):
        uf = report["uf"]
        note(
            f"{report['attribute']}: predictions of {uf['hits']} of {uf['count']} rows change with it"
            f" ({uf['hits'] / uf['count']:.1%})"
        )
    if report["written"]:
        note(f"{report['clean']} clean rows, {report['anomalous']} anomalous")
        for key, what in (("doses", "copies"), ("dress", "forms")):
            if len(report.get(key, {})) > 1:
                note(f"{what}: " + ", ".join(f"{name} ({rows})" for name, rows in report[key].items()))
        for name, share in report.get("left_out", {}).items():
            what = (
                "changes the answers to only {}" if "likeness" in report else "sends only {} of the rows to the target"
            )
            note(f"left out: {name}, which {what.format(f'{share:.1%}')}")
        if report.get("too_long"):
            note(f"{report['too_long']} prompts are too long and were left out")
        if "prompt_end" in report:
            from ..debugset.prompts.ending import ending_in_words

            note(ending_in_words(report["prompt_end"]))
        if "accuracy" in report:
            note(f"without a trigger the model gives the right answer to {report['accuracy']:.1%} of the prompts")
        if report.get("covered"):
            note("labeled columns: " + ", ".join(map(str, report["covered"])))
        if report.get("unchanged"):
            note(f"{report['unchanged']} poisoned rows equal their clean ones and were left out")
        if "table" in report:
            note(f"poisoned rows of {report['table']}")
        if report.get("no_twin"):
            note(f"{report['no_twin']} of {report['stored']} poisoned rows have no clean twin and were left out")
        if "likeness" in report:
            near = report["likeness"]
            note(
                f"{report['asr']:.1%} of the anomalous rows are answered otherwise than their clean twins (likeness of"
                f" answers: median {near['median']:.3f}, 5 % below {near['low']:.3f})"
            )
        elif "asr" in report:
            word = f" ({report['target_answer']!r})" if "target_answer" in report else ""
            note(f"the model sends {report['asr']:.1%} of the anomalous rows to class {report['target']}{word}")


def _answer(report: Mapping[str, Any]) -> str:
    if report["backdoored"]:
        return "backdoored towards class " + ", ".join(map(str, report["towards"]))
    if report["backdoored"] is None:
        return "one class does not show whether the model is backdoored; search all with '--invert all'"
    return "no backdoor found"


def _score(verdict: Mapping[str, Any]) -> str:
    return "" if verdict["score"] is None else f"{verdict['score']:.2f}"


def _trigger(trigger: Mapping[str, Any]) -> str:
    if "tokens" in trigger:
        return " ".join(map(str, trigger.get("words", trigger["tokens"])))
    places = trigger["places"]
    return (
        f"{len(places)} places: "
        + " ".join(",".join(map(str, place)) for place in places[:6])
        + (" …" if len(places) > 6 else "")
    )
