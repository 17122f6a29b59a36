"""Arguments and options that several commands share.

Paths are plain strings here: whether a file is there and what it holds is judged by the API, with codes of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

__all__ = ["filters", "in_place", "json_output", "link_data", "model_argument", "output", "passes"]

Command = TypeVar("Command", bound=Callable[..., Any])

model_argument = click.argument("model", type=click.Path())
json_output = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout and nothing else there.")
in_place = click.option("--in-place", is_flag=True, help="Allow the output to be the input.")
link_data = click.option(
    "--link-data",
    is_flag=True,
    help=(
        "Hard-link external data into another folder instead of copying it; onnxruntime reads that, onnx's own loader"
        " refuses."
    ),
)


def output(help_text: str, *, required: bool = False) -> Callable[[Command], Command]:
    """`-o/--output`."""
    return click.option("-o", "--output", type=click.Path(), required=required, help=help_text)


def passes(choices: Sequence[str], help_text: str, default: str | None) -> Callable[[Command], Command]:
    """`--passes`, `--mend` and `--accept`."""

    def add(command: Command) -> Command:
        accept = "Of two passes: keep the second run's outputs always, or only where the prediction flips."
        command = click.option("--accept", type=click.Choice(["always", "flip"]), help=accept)(command)
        mend = "Of two passes: redistribute attention in the second run, or excise the flagged tokens from its request."
        mends = ["redistribute", "excise", *[choice for choice in choices if choice == "auto"]]
        command = click.option(
            "--mend", type=click.Choice(mends), default=default, show_default=default is not None, help=mend
        )(command)
        return click.option(
            "--passes", type=click.Choice(choices), default=default, show_default=default is not None, help=help_text
        )(command)

    return add


def filters(command: Command) -> Command:
    """`--include` and `--exclude`."""
    command = click.option("--exclude", metavar="RE", help="Leave out sites whose id or scope matches.")(command)
    return click.option("--include", metavar="RE", help="Only sites whose id or scope matches.")(command)
