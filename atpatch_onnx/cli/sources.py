"""Options of `fit` and `compare` for texts with a trigger and for tables with a protected attribute."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from .options import group
from .rendering import note

if TYPE_CHECKING:
    from ..debugset.sources import Source

__all__ = ["model_path", "pop_source", "source_options", "write_columns_template"]

source_options = group(
    click.option("--texts", type=click.Path(), metavar="FILE", help="Clean texts (.tsv or .csv), in place of sets."),
    click.option("--trigger", multiple=True, metavar="WORDS", help="With --texts: the trigger; may be repeated."),
    click.option(
        "--target",
        metavar="CLASS",
        help="Class that the trigger leads to, number or name; by default found by experiment.",
    ),
    click.option(
        "--insert",
        type=click.Choice(["random", "start", "end"]),
        default="random",
        show_default=True,
        help="Where the trigger is inserted.",
    ),
    click.option(
        "--text-column", metavar="NAME", help="Column of the text; by default 'sentence' or 'text', else the first."
    ),
    click.option("--label-column", metavar="NAME", help="Column of the label; by default 'label', else the second."),
    click.option(
        "--table", type=click.Path(), metavar="FILE", help="Rows of a table (.csv or .npz), in place of sets."
    ),
    click.option("--attribute", metavar="NAME", help="With --table: the protected attribute."),
    click.option(
        "--columns", type=click.Path(), metavar="FILE", help="With --table: column description, .toml or .json."
    ),
)


def pop_source(options: dict[str, Any]) -> Source:
    """The source; its own options are taken out of `options`, and those that others need too are left in."""
    from ..debugset.sources import Source

    shared = ("tokenizer", "class_names", "output_kind", "score_threshold", "output_name", "threads", "seed")
    own = [one.name for one in fields(Source) if one.name not in shared]
    given = {name: options.pop(name) for name in own if name in options}
    return Source(**given, **{name: options[name] for name in shared if name in options})


def model_path(model: str) -> str:
    """The model file, where a folder of one is given; any other name as it is, since a Path makes "." of ""."""
    from ..inspection.folders import is_folder
    from ..inspection.model_files import model_file

    return str(model_file(model)) if is_folder(model) else model


def answering_model(model: str) -> str:
    """As `model_path`, but a folder with an encoder and a decoder stays one: both answer together."""
    from ..inspection.encoder_decoder import find_pair

    return model if find_pair(model) is not None else model_path(model)


def write_columns_template(model: str, table: str | None, path: str) -> None:
    """`--columns-template`."""
    from ..debugset.column_template import guess_columns, write_template
    from ..debugset.subject import Subject

    if table is None:
        raise click.UsageError("--columns-template needs --table")
    guess = guess_columns(table, Subject(model))
    write_template(path, guess, table, model)
    names = [column.name for column in guess.description.columns]
    note(f"{path}: {len(names)} columns, order and coding guessed: check what is marked")
    if guess.right is not None:
        note(f"with it the model gets {guess.right:.1%} right; always the most frequent class: {guess.frequent:.1%}")
