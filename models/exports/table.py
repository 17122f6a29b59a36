"""The table as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .families import HOLES, ROWS
from .trial import TOLERANCE, WAYS, Cell

__all__ = ["render", "unexplained"]


def unexplained(cells: Sequence[Cell]) -> list[str]:
    """What is wrong with a table: holes that nothing explains, explanations that no hole bears out."""
    attention = {str(way): way.attention for way in WAYS}
    faults = []
    for cell in cells:
        known = attention[cell.way] in HOLES.get(cell.row, {})
        if known and cell.status != "refused":
            faults.append(f"{cell.row}, {cell.way}: the hole has closed")
        elif not known and not cell.whole:
            found = f"{cell.sites} of {cell.expected} sites" if cell.sites is not None else "no graph"
            faults.append(f"{cell.row}, {cell.way}: {cell.message or cell.status}, {found}")
    return faults


def render(results: Mapping[str, Any]) -> str:
    """Markdown of a result file: one row a model, one column a way, then every hole with the exporter's own words."""
    cells = {(cell["row"], cell["way"]): cell for cell in results["cells"]}
    whole = sum(cell["status"] == "ok" and cell["sites"] == cell["expected"] for cell in cells.values())
    lines = [
        "# Exports",
        "",
        "Written by `python -m models.exports.build` (`make exports`); do not edit.",
        "",
        (
            f"Tiny seeded models of {len({row.name.split()[0] for row in ROWS})} families, exported with `atpatch-onnx"
            " export`. A cell holds"
        ),
        (
            "the largest difference from torch over all outputs, on inputs of other batch sizes and lengths than the"
            " traced ones, padded and"
        ),
        f"unpadded, then attention sites found / attention maps computed. Tolerance {TOLERANCE:g}, relative above 1.",
        "",
        (
            "Every graph is then patched at all its sites, once with nothing flagged, which has to leave all outputs"
            " bit-identical, and once"
        ),
        "with column 1 flagged, which has to change them and keep them finite.",
        "",
        (
            f"**{whole} of {len(cells)} whole**: exported, in parity, every site found, patched both ways. The"
            f" {len(cells) - whole} holes are"
        ),
        "explained below.",
        "",
        "| model | " + " | ".join(map(str, WAYS)) + " |",
        "|---|" + "---|" * len(WAYS),
    ]
    holes: dict[tuple[str, str], int] = {}
    for row in ROWS:
        shown = [_cell(cells[row.name, str(way)], way.attention, holes) for way in WAYS]
        lines.append(f"| {row.name} | " + " | ".join(shown) + " |")
    lines += ["", "## Holes", ""]
    for (name, attention), number in holes.items():
        message = next(c["message"] for c in cells.values() if c["row"] == name and c["status"] == "refused")
        lines.append(
            f"{number}. **{name}, {attention}**: {HOLES[name][attention]}. In its own words: *{_sentence(message)}*"
        )
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines += ["", f"Made with {versions}; {results['seconds'] / 60:.0f} minutes on {results['threads']} thread(s).", ""]
    return "\n".join(lines)


def _cell(cell: Mapping[str, Any], attention: str, holes: dict[tuple[str, str], int]) -> str:
    if cell["status"] == "refused":
        number = holes.setdefault((cell["row"], attention), len(holes) + 1)
        return f"– ({number})"
    mark = "" if cell["status"] == "ok" and cell["sites"] == cell["expected"] else "**!** "
    difference = "∞" if cell["difference"] is None else f"{cell['difference']:.0e}"
    return f"{mark}{difference} · {cell['sites']}/{cell['expected']}"


def _sentence(message: str) -> str:
    return message.split(". ")[0].removesuffix(".") + "."
