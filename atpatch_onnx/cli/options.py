"""Arguments and options that several commands share.

Paths are plain strings here: the API checks whether a file exists and what it holds, and has error codes for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import Field, fields
from typing import Any, TypeVar

import click

from ..inference.output_kinds import KINDS, kind_of
from ..options import explanations

__all__ = [
    "class_names",
    "clean_texts",
    "filters",
    "group",
    "in_place",
    "json_output",
    "link_data",
    "model_argument",
    "options_of",
    "output",
    "output_kind",
    "parsed",
    "tokenizer",
]

Command = TypeVar("Command", bound=Callable[..., Any])

model_argument = click.argument("model", type=click.Path())
json_output = click.option("--json", "as_json", is_flag=True, help="Print JSON, and only JSON, on stdout.")
class_names = click.option(
    "--class-names",
    metavar="A,B,...",
    help="Texts: names of the classes in order, for labels in words; by default id2label of the model's config.json.",
)
tokenizer = click.option(
    "--tokenizer", type=click.Path(), metavar="FOLDER", help="Texts: folder with tokenizer.json or vocab.txt."
)
output_kind = click.option(
    "--output-kind",
    type=click.Choice(KINDS),
    help="What the model answers: class scores, an embedding for search (pooled over the tokens where there is one for"
    " each), or class scores of each token; by default classes.",
)
in_place = click.option("--in-place", is_flag=True, help="Allow the output to be the input; for files only.")
link_data = click.option(
    "--link-data/--copy-data",
    default=None,
    help=(
        "Hard-link external data into another folder, or copy it; by default copied for a file, linked for a folder."
        " onnxruntime reads linked data, onnx's own loader refuses it."
    ),
)


def group(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Arguments and options as one decorator; the help shows them in this order."""

    def add(command: Command) -> Command:
        for one in reversed(options):
            command = one(command)
        return command

    return add


filters = group(
    click.option("--include", metavar="RE", help="Only sites whose id or scope matches."),
    click.option("--exclude", metavar="RE", help="Leave out sites whose id or scope matches."),
)


def output(help_text: str, *, required: bool = False) -> Callable[[Command], Command]:
    """`-o/--output`."""
    return click.option("-o", "--output", type=click.Path(), required=required, help=help_text)


def clean_texts(path: str | None, model: str, tokenizer: str | None, names: str | None, kind: str | None = None) -> Any:
    """Clean rows from a .tsv or .csv file of texts as a data set; any other path unchanged."""
    from ..debugset.clean import is_text, read_clean_texts
    from ..debugset.subject import Subject

    if path is None or not is_text(path):
        return path
    subject = Subject(model)
    subject.output_kind = kind_of(kind)
    return read_clean_texts(subject, path, tokenizer, names=names)


def options_of(options: type, but: Iterable[str] = ()) -> Callable[[Command], Command]:
    """An option for every field of an options dataclass, in the order of the fields.

    Args:
        but: fields without an option, or with a hand-written one.
    """
    texts = explanations(options)
    ours = [one for one in fields(options) if one.name not in set(but)]
    return group(
        *(click.option("--" + one.name.replace("_", "-"), **_attributes(one, texts.get(one.name, ""))) for one in ours)
    )


def _attributes(one: Field[Any], text: str) -> dict[str, Any]:
    """What click must know about a field; its type is the first word of the annotation."""
    found: dict[str, Any] = {"help": text[:1].upper() + text[1:]}
    if one.default is False:
        return found | {"is_flag": True}
    if one.default is not None:
        found |= {"default": one.default, "show_default": True}
    if one.metadata.get("metavar"):
        found["metavar"] = one.metadata["metavar"]
    if one.metadata.get("choices"):
        return found | {"type": click.Choice(one.metadata["choices"])}
    if parse := one.metadata.get("parse"):
        return found | {"callback": parsed(parse)}
    least, most = one.metadata.get("range", (None, None))
    ranged = (least, most) != (None, None)
    types = {
        "int": click.IntRange(least, most) if ranged else click.INT,
        "float": click.FloatRange(least, most) if ranged else click.FLOAT,
        "str": click.STRING,
        "PathLike": click.Path(),
    }
    return found | {"type": types[str(one.type).split(" | ")[0]]}


def parsed(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """A callback for an option that `parse` reads; its ValueError says what to give instead."""

    def parse_text(_: click.Context, __: click.Parameter, text: str | None) -> Any:
        try:
            return None if text is None else parse(str(text))
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return parse_text
