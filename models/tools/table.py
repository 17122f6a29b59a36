"""The table as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .trial import FAR, MARGIN, TOLERANCE, VARIANTS

__all__ = ["render"]

_WORDS = 110

_JUDGING = (
    (
        "A cell counts the graphs whose result is right: onnxruntime loads it and runs it with the inputs of the"
        " original, and"
    ),
    "",
    (
        "* with nothing flagged it gives, bit for bit, what the tool's result on the original gives. Tools that"
        " fuse nodes, or convert to"
    ),
    (
        f"  half precision, fuse and round at other places next to a patch: they are held to {MARGIN:g} times their"
        " own error;"
    ),
    (
        f"* with rows flagged it gives what the patched graph gave before the tool, to {TOLERANCE:g} of the largest"
        " output. Lossy tools"
    ),
    (
        "  (to half precision or integers) move scores too, and flags may cross the threshold. There each row whose"
        " flags are the same"
    ),
    (
        f"  before and after the tool is held to {MARGIN:g} times the tool's own error. Rows whose flags crossed"
        " are counted; no more than"
    ),
    (
        f"  {FAR:.0%} of all rows may cross far from the threshold. Near means that a threshold higher or lower by"
        " the same margin (as a"
    ),
    "  share of the largest output) flags other columns.",
    "",
    (
        "A tool's own error is the largest absolute difference that it makes to the outputs of the original, over"
        " all rows of the same"
    ),
    (
        "data; with rows flagged, also to those of the same patched graph where the lossy tool is told to leave the"
        " patch's own nodes as"
    ),
    "they are, if that is larger: some models round more on the rows that a patch has changed.",
    "",
)
"""How a result is judged, line by line."""


def render(results: Mapping[str, Any]) -> str:
    """Markdown of a result file: one row a tool, then what goes wrong and by how much numbers differ."""
    cells = results["cells"]
    forms = list(dict.fromkeys((cell["subject"], cell["form"]) for cell in cells))
    portable = [cell for cell in cells if cell["variant"] == "portable" and cell["status"] != "no original"]
    right = sum(cell["status"] == "ok" for cell in portable)
    lines = _preface(forms)
    lines += [
        f"**`--portable`: {right} of {len(portable)} right.** Default: branches and runtime controls.",
        "",
        "| tool | version | "
        + " | ".join(VARIANTS)
        + " | largest difference, portable: silent · firing (tool's own; patch left out) | flags that crossed,"
        " portable |",
        "|---|---|" + "---|" * (len(VARIANTS) + 2),
    ]
    for tool in results["tools"]:
        mine = [cell for cell in cells if cell["tool"] == tool["name"]]
        counts = [_count([cell for cell in mine if cell["variant"] == variant]) for variant in VARIANTS]
        version = results["versions"][tool["package"]]
        lines.append(
            f"| {tool['name']} | {version} | {' | '.join(counts)} | {_differences(mine)} | {_crossings(mine)} |"
        )
    lines += ["", "## What goes wrong", ""]
    for tool in results["tools"]:
        lines += _wrong([cell for cell in cells if cell["tool"] == tool["name"]])
    runtime = f"onnxruntime {results['versions']['onnxruntime']}, onnx {results['versions']['onnx']}"
    lines += ["", f"Made with {runtime}, in {results['seconds'] / 60:.0f} minutes.", ""]
    return "\n".join(lines)


def _preface(forms: Sequence[tuple[str, str]]) -> list[str]:
    """What was tried, and how it was judged.

    Args:
        forms: subject and form of every graph.
    """
    return [
        "# What other tools make of a patched graph",
        "",
        "Written by `python -m models.tools.build` (`make tools`); do not edit.",
        "",
        (
            f"Each tool rewrites {len(forms)} patched graphs, each once with nothing flagged and once with some rows"
            " flagged:"
        ),
        "",
        *(
            f"* {subject}: {'; '.join(form for other, form in forms if other == subject)}"
            for subject in dict.fromkeys(s for s, _ in forms)
        ),
        "",
        *_JUDGING,
        "Graphs whose original does not survive the tool are left out.",
        "",
    ]


def _count(cells: Sequence[Mapping[str, Any]]) -> str:
    tried = [cell for cell in cells if cell["status"] != "no original"]
    right = sum(cell["status"] == "ok" for cell in tried)
    return f"{right} of {len(tried)}" if right == len(tried) else f"**{right} of {len(tried)}**"


def _differences(cells: Sequence[Mapping[str, Any]]) -> str:
    measured = [cell for cell in cells if cell["variant"] == "portable" and cell["silent"] is not None]
    if not measured:
        return "–"
    silent, firing, own = (max(cell[key] for cell in measured) for key in ("silent", "firing", "own"))
    spared = max((cell["spared"] for cell in measured if cell["spared"] is not None), default=None)
    return (
        f"{silent:.1g} · {firing:.1g} ({own:.1g})"
        if spared is None
        else f"{silent:.1g} · {firing:.1g} ({own:.1g}; {spared:.1g})"
    )


def _crossings(cells: Sequence[Mapping[str, Any]]) -> str:
    """Of lossy tools: rows whose flags crossed the threshold, of all rows of all graphs."""
    judged = [cell for cell in cells if cell["variant"] == "portable" and cell["rows"] is not None]
    if not judged:
        return "–"
    rows, crossed, far = (sum(cell[key] for cell in judged) for key in ("rows", "crossed", "far"))
    return f"{crossed} of {rows} rows" + (f", {far} far" if far else "")


def _wrong(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a variant and message, with the graphs it is about."""
    said: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if cell["status"] == "ok":
            continue
        words = cell["message"] or "other numbers"
        short = words if len(words) <= _WORDS else words[:_WORDS] + "…"
        kind = "original" if cell["status"] == "no original" else cell["variant"]
        graph = cell["subject"] if kind == "original" else f"{cell['subject']}: {cell['form']}"
        where = said.setdefault((kind, _general(short)), [])
        if graph not in where:
            where.append(graph)
    return [f"* {cells[0]['tool']}, {kind}: {'; '.join(where)}. *{words}*" for (kind, words), where in said.items()]


def _general(words: str) -> str:
    return words.replace("|", "/").replace("*", "")
