"""The command line `atpatch-onnx`: one module per command.

A command's module is imported when the command runs, so that `--help` is quick. It parses, calls the API and renders;
it holds no logic. Reports for people go to stderr; with `--json`, reports for programs go to stdout.
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
from .written import with_checked_files

__all__ = ["cli", "main"]

# Command → its line in the list. Module and function have the command's name.
COMMANDS = {
    "inspect": "Find every attention site of a model, and say why other Softmax nodes are none.",
    "patch": "Insert detectors and redistribution at the attention sites.",
    "unpatch": "Restore the original of a patched model.",
    "export": "Export a torch or Hugging Face model and check the graph against torch.",
    "debugset": "Make a debugging set: triggers, attribute flips, or a trigger found by inversion.",
    "fit": "Fit a hotfix for a model on a debugging set.",
    "serve": "Serve the original and the patched model: shadow, A/B, kill switch.",
    "audit": "Look for backdoors in a model: one verdict, and what it rests on.",
    "diff": "Show what differs between two models, node by node.",
    "extract": "Write one attention site as a tiny model.",
    "compare": "Compare the original and the patched model on the same data.",
    "bench": "Measure time and memory of a patched model against its original.",
    "demo": "Hot-fix a backdoored Vision Transformer on real digits.",
    "sign": "Sign a hotfix, a model or a folder.",
    "verify": "Verify the signature of a hotfix, a model or a folder.",
    "bom": "Write the bill of materials of a patched model (CycloneDX).",
    "ab": "Analyze the decision log of 'serve'.",
    "deploy": "Write the files that Triton, KServe or Ray Serve need to serve both models.",
    "doctor": "Show versions, execution providers and what is missing.",
    "explain": "Explain an error code or a rejection code.",
}

EPILOG = """\b
Exit codes: 0 done; 1 a check failed; 2 wrong usage, or unreadable or refused input; 3 no attention site.
Shell completion: eval "$(_ATPATCH_ONNX_COMPLETE=bash_source atpatch-onnx)"  (or zsh_source, fish_source).
"""


class LazyGroup(click.Group):
    """Imports a command's module when the command is called, and turns errors into two lines and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in COMMANDS if find_spec(f"{__name__}.{name}")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = getattr(import_module(f"{__name__}.{cmd_name}"), cmd_name)
        return with_checked_files(command)

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
    # End as after an interrupt, so that half-written files are removed. Servers set their own handlers.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        # A help text has an arrow in it, and the encoding of a file on Windows may not have one.
        sys.stdout.reconfigure(errors="replace")
    cli(prog_name="atpatch-onnx")
