"""The page of the bench: every line with its bounds, what is missed said first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill
from typing import Any

from .quiet_machine import BUSY
from .rows import LOAD, PAPER, PEAK, ROWS, SIZE

__all__ = ["misses", "render"]

Line = Mapping[str, Any]

_WEIGHTS = (("load", "load_ms", LOAD), ("file", "file_bytes", SIZE), ("peak memory", "peak_bytes", PEAK))
_METHOD = f"""
A ratio is patched / original: the two graphs take turns on one request in one process; the median over pairs, its 95
% bootstrap interval below it. Every site has a trained `profile` detector. Inputs are random. *Nothing flagged*: the
threshold lies above all scores. *Flagged*: it is as high as flags every sample of the batch, at one column or a few.
*torch* is the paper's Algorithm 1 as hooks in torch, against the same model without them; the paper itself reports
{PAPER["clean"]:g} and {PAPER["flagged"]:g}."""
_FOOTPRINT = """
Load time is the median of several loads in processes of their own, one thread; memory is the most that such a process
ever had resident, over all requests of the line, Python and onnxruntime included (their share is the last column)."""
_SCALE = """
Llama-shaped graphs, patched by the command line with a `profile` detector at every site, in a process of its own.
Weights that lie outside are neither read nor copied."""
_WIDTH = 120

_BOUNDS = {(row.name, request.name): request.bound for row in ROWS for request in row.requests}
_PASSES = {row.name: row.passes for row in ROWS}


def misses(lines: Sequence[Line]) -> list[str]:
    """Figures over their bounds, one sentence each, the worst first."""
    over = [(value / bound, f"{where}: {value:.3f}, bound {bound:g}") for where, value, bound in _figures(lines)]
    return [text for ratio, text in sorted(over, reverse=True) if ratio > 1]


def _figures(lines: Sequence[Line]) -> Iterator[tuple[str, float, float]]:
    for line in lines:
        at = f"{line['row']}, {_shape(line['shape'])}"
        for threads, requests in line["threads"].items():
            for name, told in requests.items():
                yield (
                    f"{at}, {threads} thread{'s' * (threads != '1')}, {name}",
                    told["ratio"]["median"],
                    _BOUNDS[line["row"], name],
                )
        for name, field, bounds in _WEIGHTS:
            yield f"{at}, {name}", _ratio(line, field), bounds[_PASSES[line["row"]]]


def render(results: Mapping[str, Any], scale: Mapping[str, Any] | None) -> str:
    """Markdown of `bench.json` and, where it is there, of `scale.json`."""
    lines = results["lines"]
    missed, figures = misses(lines), list(_figures(lines))
    parts = [
        "# What a patch costs",
        "",
        "Written by `python -m models.bench.build` (`make bench`); do not edit.",
        "",
        f"**{len(figures) - len(missed)} of {len(figures)} figures are within their bounds.**",
        *([] if not missed else ["", "Over the bound:", "", *(f"* {text}" for text in missed)]),
        "",
        _prose(_METHOD),
        "",
        "| model | shape | threads | original, ms | request | ratio | bound | torch |",
        "|---|---|---|---|---|---|---|---|",
        *(row for line in lines for row in _latencies(line)),
        "",
        "## Beside the answers",
        "",
        _prose(_FOOTPRINT),
        "",
        "| model | shape | nodes | load, ms | ratio | file, MB | ratio | peak, MB | ratio | without a model, MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_weights(line) for line in lines),
        "",
        _setup(results),
        "",
        *([] if scale is None else _scale(scale)),
    ]
    return "\n".join(parts)


def _latencies(line: Line) -> Iterator[str]:
    name, shape = line["row"] + _mark(line), _shape(line["shape"])
    for threads, requests in line["threads"].items():
        first = True
        for kind, told in requests.items():
            ratio, bound = told["ratio"], _BOUNDS[line["row"], kind]
            shown = f"{ratio['median']:.3f}" if ratio["median"] <= bound else f"**{ratio['median']:.3f}**"
            interval = f"<br>{ratio['low']:.3f}–{ratio['high']:.3f}"
            torch = f"{told['torch']['ratio']['median']:.2f}" if "torch" in told else ""
            ms = f"{told['original']['median']:.1f}" if first else ""
            share = f" ({told['flagged']:.0%})" if told["flagged"] else ""
            yield (
                f"| {name} | {shape} | {threads if first else ''} | {ms} | {kind}{share} | {shown}{interval} |"
                f" {bound:g} | {torch} |"
            )
            name, shape, first = "", "", False


def _weights(line: Line) -> str:
    cells = [line["row"] + _mark(line), _shape(line["shape"]), " → ".join(f"{count:,}" for count in line["nodes"])]
    for _, field, bounds in _WEIGHTS:
        scale, digits = (1, 0) if field == "load_ms" else (1e6, 1)
        ratio = _ratio(line, field)
        cells += [
            f"{line['original'][field] / scale:.{digits}f} → {line['patched'][field] / scale:.{digits}f}",
            f"{ratio:.3f}" if ratio <= bounds[_PASSES[line["row"]]] else f"**{ratio:.3f}**",
        ]
    return "| " + " | ".join([*cells, f"{line['patched']['idle_bytes'] / 1e6:.0f}"]) + " |"


def _scale(scale: Mapping[str, Any]) -> Iterator[str]:
    """Patching against size, see `scale`."""
    yield from (
        "## Patching against model size",
        "",
        "![Seconds over nodes, seconds and memory over bytes](scale.svg)",
        "",
    )
    alone, whole = scale["finder_exponent"], scale["finder_exponent_with_collector"]
    yield _prose(
        f"{_SCALE} The finder's time grows as nodes to the power of {alone:.2f} by itself, and of {whole:.2f} with"
        " Python's garbage collector, which walks the growing graph meanwhile; that of the whole patch, start"
        f" included, of {scale['patch_exponent']:.2f}."
    )
    yield from (
        "",
        "| graph | weights, GB | nodes | sites | finder, s | patch, s | peak, MB |",
        "|---|---|---|---|---|---|---|",
    )
    for one in (*scale["nodes"], *scale["bytes"]):
        yield (
            f"| {one['name']} | {one['model_bytes'] / 1e9:.2f} | {one['nodes']:,} → {one['nodes_after']:,} |"
            f" {one['sites']} | {one['find_seconds']:.2f} | {one['patch_seconds']:.2f} |"
            f" {one['peak_bytes'] / 1e6:.0f} |"
        )
    yield ""
    if (scale["others"] or 0) > BUSY:
        yield f"Others kept {scale['others']:.0%} of the cores busy meanwhile: take these seconds as rough."
        yield ""


def _setup(results: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    text = (
        f"Made with {versions} on {results['processor']}, {results['cores']} cores; {results['seconds'] / 60:.0f}"
        " minutes."
    )
    if any(_mark(line) for line in results["lines"]):
        text += f" † Others kept more than {BUSY:.0%} of the cores busy meanwhile: take these figures as rough."
    return text


def _mark(line: Line) -> str:
    return " †" if (line["others"] or 0) > BUSY else ""


def _prose(text: str) -> str:
    return fill(" ".join(text.split()), _WIDTH)


def _ratio(line: Line, field: str) -> float:
    return float(line["patched"][field] / line["original"][field])


def _shape(shape: Mapping[str, int]) -> str:
    return " × ".join(str(size) for size in shape.values())
