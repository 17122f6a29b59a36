"""`atpatch-onnx export`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..exporters.options import ExportOptions
from ..exporters.tasks import TASKS
from .options import json_output, options_of, output
from .rendering import emit_json, note, table

_TASK_LINES = "\n".join(f"  {name:22}{task.summary}" for name, task in TASKS.items())


@click.command(epilog=f"\b\nTasks:\n{_TASK_LINES}")
@click.argument("model")
@output("File to write, or a folder: a name with a slash at its end.", required=True)
@options_of(ExportOptions)
@json_output
def export(model: str, output: str, as_json: bool, **options: Any) -> None:
    """Export MODEL to ONNX, compare the graph with torch, and count its attention sites.

    MODEL is the folder of a Hugging Face model, a hub id, or package.module:factory (a function without arguments that
    returns a torch module and example inputs). Batch and sequence are dynamic. Exits with 1, and writes nothing, when
    the graph differs from torch by more than the tolerance. Needs the extras 'export' and 'cpu' (or 'gpu').

    A folder as output is what Optimum and transformers.js load: a causal language model with its cache, an
    encoder-decoder as three graphs, any other model as one, with configuration and tokenizer.

    \b
    Example:
      atpatch-onnx export ./my-bert -o model.onnx
      atpatch-onnx export ./my-llama -o model.onnx --kv-cache --exporter torchscript
      atpatch-onnx export ./my-t5 -o served/
      atpatch-onnx export shop.models:scorer -o scorer.onnx
    """
    from ..exporters.exporter import export as export_model

    with _progress() as progress:
        exported = export_model(model, output, progress=progress, **options)
    if as_json:
        emit_json(exported.to_json())
        return
    how = ", ".join(filter(None, (exported.exporter, exported.attention, f"opset {exported.opset}", exported.dtype)))
    note(f"{exported.output}: {exported.source} for {exported.task} ({how}), {exported.seconds:.1f} s")
    if exported.copied:
        note(f"copied {', '.join(exported.copied)}")
    if exported.data:
        note(f"weights in {', '.join(exported.data)}")
    shapes = [("input", exported.inputs), ("output", exported.outputs)]
    rows = [
        (kind, name, " × ".join(map(str, shape)), _distance(exported, name))
        for kind, named in shapes
        for name, shape in named.items()
    ]
    table("graph", ("", "name", "shape", "max difference from torch"), rows)
    count, rejected = len(exported.sites), exported.rejected
    note(
        f"{count} attention site{'s' * (count != 1)}"
        + (f", {rejected} Softmax that {'is' if rejected == 1 else 'are'} none" * bool(rejected))
    )
    if not count:
        note("there is nothing to patch in this graph; 'atpatch-onnx inspect' says why a Softmax is no site")


def _distance(exported: Any, name: str) -> str:
    found = exported.parity.get(name)
    return f"{found.difference:.2e} (values up to {found.scale:.3g})" if found else ""


@contextmanager
def _progress() -> Iterator[Callable[[str], None] | None]:
    """Show the current step and its time on stderr; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    # This stream's own console, not redirected by rich: the exporter's output is redirected already.
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bars:
        task = bars.add_task("starting", total=None)
        yield lambda step: bars.update(task, description=step)
