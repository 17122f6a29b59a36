"""The command line: `atpatch-onnx`. One module a command, imported when the command runs, so that `--help` is quick.

Parse, call the API, render; no logic. Reports go to stderr for people, and with `--json` to stdout for programs.
"""

from __future__ import annotations

import signal
import sys
from importlib import import_module
from importlib.util import find_spec
from io import TextIOWrapper
from typing import Any

import click

from ..version import __version__

__all__ = ["cli", "main"]

# Command → its line in the list. Module and function bear the command's name.
COMMANDS = {
    "inspect": "Find every attention site of a model, or say why a Softmax is none.",
    "patch": "Insert detectors and redistribution at the attention sites.",
    "unpatch": "Restore the original of a patched model.",
    "export": "Export a torch or Hugging Face model, and check the graph against torch.",
    "debugset": "Make a debugging set: triggers, attribute flips, or a trigger found by inversion.",
    "fit": "Fit a hotfix for a model on a debugging set.",
    "serve": "Serve original and patched: shadow, A/B, kill switch.",
    "diff": "Show what differs between two models, node by node.",
    "extract": "Cut one attention site out as a tiny model.",
    "compare": "Run an original and its patched twin over the same data and judge them.",
    "bench": "Time and weigh a patched model against its original.",
    "demo": "Hot-fix a backdoored Vision Transformer on real digits.",
    "ab": "Analyse the decision log of 'serve'.",
    "deploy": "Write what Triton, KServe or Ray Serve need to serve both arms.",
    "doctor": "Show versions, providers, and what is missing.",
    "explain": "Explain an error code or a rejection code.",
}

EPILOG = """\b
Exit codes: 0 done; 1 a check failed; 2 usage, unreadable or refused input; 3 no attention site.
Shell completion: eval "$(_ATPATCH_ONNX_COMPLETE=bash_source atpatch-onnx)"  (or zsh_source, fish_source).
"""


class LazyGroup(click.Group):
    """Imports a command's module when the command is asked for, and turns refusals into two lines and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in COMMANDS if find_spec(f"{__name__}.{name}")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = getattr(import_module(f"{__name__}.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            from .rendering import show_error

            ctx.exit(show_error(error))


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """Hot-fix backdoored or unfair Transformers inside their ONNX graph.

    \b
    Example:
      atpatch-onnx inspect model.onnx
      atpatch-onnx patch model.onnx
    """


def main() -> None:
    """Entry point of the console script."""
    # As an interrupt does: what is half-finished is removed on the way out. Servers set handlers of their own.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        # A help text has an arrow in it, and a file on Windows may have an encoding without one.
        sys.stdout.reconfigure(errors="replace")
    cli(prog_name="atpatch-onnx")
