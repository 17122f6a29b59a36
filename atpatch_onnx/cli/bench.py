"""`atpatch-onnx bench`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ..benchmark.options import KINDS, RATIOS, BenchOptions
from .options import json_output, options_of
from .parameter_types import Bound
from .progress import bars
from .rendering import emit_json, note, table

if TYPE_CHECKING:
    from ..benchmark.result import Bench

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

_LOADED = 0.5
"""Share of the cores that other processes may use before a note says that the measurement is doubtful."""


@click.command()
@click.argument("original", type=click.Path())
@click.argument("patched", type=click.Path())
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=SIZE,...",
    help="Sizes of the graph's symbolic axes; may be repeated.",
)
@click.option(
    "--data",
    type=click.Path(),
    metavar="SET",
    help="Rows (.npz) that the patch does not flag, instead of random inputs.",
)
@click.option("--flagged", type=click.Path(), metavar="SET", help="Rows (.npz) that the patch flags.")
@options_of(BenchOptions, but=("provider", "seed"))
@click.option("--provider", default="cpu", show_default=True, metavar="cpu|cuda|NAME", help="Execution provider.")
@click.option(
    "--fail-over",
    "bounds",
    type=Bound((*KINDS, *RATIOS)),
    multiple=True,
    metavar="[NAME=]RATIO",
    help="Exit with 1 when unflagged requests are slower than this, times the original; or with a name, when that is"
    " above it: flagged, load, peak_clean, peak, file, or nodes (added at each site). May be repeated.",
)
@click.option(
    "--fail-over-flagged",
    type=float,
    metavar="RATIO",
    help="Exit with 1 when flagged requests are slower than this, times the original.",
)
@json_output
def bench(
    original: str,
    patched: str,
    shapes: tuple[str, ...],
    provider: str,
    bounds: tuple[tuple[str, float], ...],
    fail_over_flagged: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure what the patch costs: time and memory of ORIGINAL and PATCHED, in turns, on the same requests.

    Inputs are random, or rows of data sets. Random inputs have the given shapes; an axis without a size gets 1 if it is
    the first one, else 128. They run twice: with a threshold so high that nothing is flagged, and with one just low
    enough that samples are flagged. Needs the extras 'cpu' (or 'gpu') and 'report'.

    \b
    Example:
      atpatch-onnx bench model.onnx patched.onnx --shape batch=1,sequence=128 --shape batch=8,sequence=128
      atpatch-onnx bench model.onnx patched.onnx --data clean.npz --flagged triggered.npz --threads 2 --fail-over 1.03
      atpatch-onnx bench model.onnx patched.onnx --fail-over load=1.25 --fail-over file=1.05 --fail-over nodes=40
    """
    from ..benchmark.benchmarker import bench as bench_models
    from ..benchmark.inputs import parse_shape

    sizes = [parse_shape(text) for text in shapes] or [{}]
    with bars() as progress:
        found = bench_models(
            original,
            patched,
            shapes=sizes,
            provider=PROVIDERS.get(provider.lower(), provider),
            progress=progress,
            **options,
        )
    if as_json:
        emit_json(found.to_json())
    else:
        _show(found)
    bounds += () if fail_over_flagged is None else (("flagged", fail_over_flagged),)
    if failures := [line for name, bound in bounds for line in _failures(found, name, bound)]:
        for line in failures:
            note(f"FAILS: {line}")
        raise click.exceptions.Exit(1)


def _failures(found: Bench, name: str, bound: float) -> Iterator[str]:
    """What is above a bound, or was not measured."""
    if name in KINDS:
        if not any(one.kind == name for one in found.timed):
            yield f"no {name} request was timed, and its bound is {bound:g}"
        for one in found.over(bound, name):
            yield f"{name} {_shape(one.shape)} is {one.ratio.median:.3f} times the original, over {bound:g}"
        return
    value = found.measured(name)
    if value is None:
        fix = "the second model has no stamp of a patch" if name == "nodes" else "leave --rounds at 1 or more"
        yield f"{name} was not measured, and its bound is {bound:g}: {fix}"
    elif value > bound:
        yield f"{'nodes a site: ' * (name == 'nodes') or name + ' is '}{value:.6g}, over {bound:g}"


def _show(found: Bench) -> None:
    rows = [
        (
            _shape(one.shape),
            one.kind,
            None if one.flagged is None else f"{one.flagged:.0%}",
            f"{one.original.median:.3f}",
            f"{one.patched.median:.3f}",
            f"{one.ratio.median:.3f}",
            f"{one.ratio.low:.3f}–{one.ratio.high:.3f}",
            one.pairs,
        )
        for one in found.timed
    ]
    title = f"Latency, {found.provider}, {found.threads} thread(s)"
    table(title, ("shape", "request", "flagged", "original ms", "patched ms", "ratio", "95 % interval", "pairs"), rows)
    if found.weighed is not None:
        before, after = found.weighed
        ratios = found.ratios
        weights: list[tuple[str, ...]] = [
            ("load, ms", f"{before.load_ms:.1f}", f"{after.load_ms:.1f}", f"{ratios['load']:.3f}")
        ]
        for name, words in (
            ("peak_clean", "peak memory, nothing flagged, MB"),
            ("peak", "peak memory, MB"),
            ("file", "file, MB"),
        ):
            if name in ratios:
                pair = [f"{getattr(one, name + '_bytes') / 1e6:.2f}" for one in found.weighed]
                weights.append((words, *pair, f"{ratios[name]:.3f}"))
        weights.append(
            ("a process without a model, MB", f"{before.idle_bytes / 1e6:.2f}", f"{after.idle_bytes / 1e6:.2f}", "–")
        )
        table("Beside the answers", ("", "original", "patched", "ratio"), weights)
    for remark in found.remarks:
        note(f"  {remark}")
    load, cores = found.setup["load"], found.setup["cores"]
    if load is not None and cores and load > _LOADED * cores:
        note(
            f"  the machine was busy at the start (load {load:g} on {cores} cores): run more pairs, or use an idle"
            " machine"
        )


def _shape(shape: Any) -> str:
    return ", ".join(f"{name} {size}" for name, size in shape.items()) or "as the graph has it"
