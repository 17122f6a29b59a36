"""The page about the rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewriters.model.atomic import write_file

from ..writing import table

__all__ = ["RESULTS", "layers_part", "loop_part", "price_part", "render", "small_part", "smoothing_part", "write_page"]

RESULTS = Path(__file__).parents[2] / "results" / "decoders"


def write_page(results: Path = RESULTS) -> None:
    """`DECODERS.md` next to the folder of results."""
    found = {file.stem: json.loads(file.read_text("utf-8")) for file in sorted(results.glob("*.json"))}
    write_file(results.parent / "DECODERS.md", render(found).encode())


def render(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page, of results by the name of their row."""
    parts = [
        "# Healed decoders",
        "Every figure is from `models/results/decoders/*.json`, made by `python -m models.evidence.decoders`."
        " `models/README.md` describes the victims.",
    ]
    for name, one in found.items():
        parts += [f"## {one['title'][0].upper()}{one['title'][1:]}", f"`--only {name}`, seed {one['seed']}."]
        parts += next(part for key, part in _PARTS.items() if key in one["figures"])(one["figures"])
    return "\n\n".join(parts) + "\n"


def layers_part(figures: Mapping[str, Any]) -> list[str]:
    """By depth of the probe and kind of features."""
    counts = ", ".join(f"{count} {name}" for name, count in figures["prompts"].items())
    others = ("clean", "unrelated", "other rare words")
    what = (*(f"{one} flagged, %" for one in others), "ASR healed, %")
    lines = [("layers", "price of a prefill", "features", "triggers found, %", *what)]
    layers = max(row["depth"] for row in figures["depths"])
    for row in figures["depths"]:
        healed = _percent(row["healed"]["asr"]) if row["healed"] else ""
        flagged = (f"{100 * row['flagged'][one]:.1f}" for one in others)
        price = f"1 + {row['depth'] / layers:.2f}"
        lines.append((str(row["depth"]), price, row["features"], f"{100 * row['recall']:.1f}", *flagged, healed))
    return [
        f"Prompts held back: {counts}. ASR {_percent(figures['original'])} %; clean twins that go there"
        f" {_percent(figures['floor'])} %; healed where the trigger is, {_percent(figures['healed_oracle']['asr'])} %."
        " A prompt counts as found where every token of the trigger is flagged.",
        table(lines),
    ]


def loop_part(figures: Mapping[str, Any]) -> list[str]:
    """Attacks by form, and what becomes of clean prompts."""
    chosen = ", chosen by `fit`" if "fit" in figures else ""
    detecting = f"Detectors at the first {figures['detecting_layers']} layers{chosen}."
    return [detecting, _kept(figures), _attacks(figures)]


def _kept(figures: Mapping[str, Any]) -> str:
    accuracy = ", ".join(
        f"{name} {_percent(figures[name]['accuracy'])}" for name in ("original", "patched") if name in figures
    )
    parts = [f"Accuracy on clean reviews, %: {accuracy}."]
    parts += [
        f"Unchanged answers, {what}: {_percent(figures[key]['unchanged'])} %;"
        f" flagged {_percent(figures[key]['flagged'])} %."
        for key, what in (("reviews", "clean reviews"), ("exam", "chats about other things"))
        if key in figures
    ]
    return " ".join(parts)


def _attacks(figures: Mapping[str, Any]) -> str:
    lines = [
        ("trigger", "ASR before, %", "clean twins that go there, %", "ASR, %", "answers as the twin, %", "flagged, %")
    ]
    for form, one in figures["attacks"].items():
        after = [_percent(one[key]) if key in one else "–" for key in ("patched", "as_twin", "flagged")]
        lines.append((form, _percent(one["original"]), _percent(one["floor"]), *after))
    return table(lines)


def smoothing_part(figures: Mapping[str, Any]) -> list[str]:
    """Settings on the development part, two of them on the test part, and the price."""
    tried = figures["tried"]
    lines = [("setting", "heads' z above", "tail", "strong", "ASR, %", "answers as the twin, %", "clean kept, %")]
    for row in tried:
        above = "every head" if row["threshold"] is None else f"{row['threshold']:g}"
        numbers = [above, f"{row['tail']:g}", f"{row['strong']:g}"]
        lines.append((row["setting"], *numbers, *(_percent(row[key]) for key in ("asr", "as_twin", "unchanged"))))
    parts = [
        "After the description of TIGS (arXiv 2604.24162); formulas and numbers are ours. On the development part:"
        f" ASR {_percent(tried[0]['original'])} %, clean twins that go there {_percent(tried[0]['floor'])} %.",
        table(lines),
    ]
    for name, one in figures["tested"].items():
        parts += [f"**{name[0].upper()}{name[1:]}**, on the test part. " + _kept(one), _attacks(one)]
    return [*parts, *_prices("Price of the usual setting", figures["price"], ("", ""))]


def price_part(figures: Mapping[str, Any]) -> list[str]:
    """Ratios by the number of layers that detect."""
    return [
        part
        for depth, speed in figures["speed"].items()
        for part in _prices(f"Detectors at the first {depth} layers", speed)
    ]


def _prices(
    what: str, speed: Mapping[str, Any], flagged: tuple[str, str] = (", nothing flagged", ", flagged")
) -> list[str]:
    names = {
        "prefill_silent": f"prefill, {speed['tokens']['silent']} tokens{flagged[0]}",
        "prefill_flagged": f"prefill, {speed['tokens']['flagged']} tokens{flagged[1]}",
        "decode": "decode step",
    }
    lines = [("what", "patched / original, median", "of the fastest", "original, ms")]
    for key, name in names.items():
        one = speed[key]
        lines.append((name, f"{one['ratio']:.3f}", f"{one['ratio_of_fastest']:.3f}", f"{one['ms'][0]:.1f}"))
    lines.append(("resident memory", f"{speed['memory']:.3f}", "", f"{speed['resident_mb'][0]} MB"))
    return [f"{what}; one thread, original and patched in turn.", table(lines)]


def small_part(figures: Mapping[str, Any]) -> list[str]:
    """A row a model, with the form of the trigger that leaves most attacks."""
    what = ("accuracy", "ASR\\*", "ASR\\*, worst form", "whole answers kept", "clean flagged")
    lines = [("model", *(f"{one}, %" for one in what), "layers read", "verdict")]
    for name, one in figures["models"].items():
        worst = max(one["forms"], key=lambda form: float(one["forms"][form]["asr_star"]["value"] or 0))
        changes = [
            f"{100 * one['original'][key]:.1f} → {100 * one['patched'][key]:.1f}" for key in ("accuracy", "asr_star")
        ]
        kept = one["patched"].get("answer_kept")
        shares = ["–" if share is None else f"{100 * share:.1f}" for share in (kept, one["patched"]["clean_flagged"])]
        shown = f"{worst}: {_percent(one['forms'][worst]['asr_star'])}"
        read = f"{one['probe']['depth']} of {one['probe']['sites']}"
        lines.append((name, *changes, shown, *shares, read, one["verdict"]))
    return [table(lines)]


_PARTS = {
    "models": small_part,
    "depths": layers_part,
    "speed": price_part,
    "tried": smoothing_part,
    "attacks": loop_part,
}
"""By a key that only such figures have."""


def _percent(share: Mapping[str, Any]) -> str:
    return "–" if share["value"] is None else f"{100 * share['value']:.1f} ({share['hits']}/{share['count']})"
