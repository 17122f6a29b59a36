"""The evidence in parts that can be measured one at a time: `python -m models.evidence.build --group NAME`.

Each part can be stopped anywhere and goes on where it stopped. Three of them have a command, results and a page of
their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from .case import Case

__all__ = ["PARTS", "Part", "elsewhere", "minutes_of"]

MAIN = ("fit", "latency", "kinds", "ablations", "curves")


@dataclass(frozen=True)
class Part:
    """Steps of settings; or a module with a command of its own.

    Attributes:
        kind: of settings; None: all.
        module: its `main` is a click command.
        results: its folder of results, each with the seconds it took; None where it keeps none.
    """

    title: str
    steps: tuple[str, ...] = ()
    kind: str | None = None
    module: str = ""
    results: str | None = None

    def has(self, case: Case) -> bool:
        return self.kind in (None, case.setting.kind)

    def measure(self) -> None:
        """Call the module's command."""
        import_module(self.module).main.main([], standalone_mode=False)


PARTS: Mapping[str, Part] = {
    "images": Part("Images", MAIN, "image"),
    "texts": Part("Texts", MAIN, "text"),
    "tables": Part("Tables", MAIN, "table"),
    "no-label": Part("Without labels", ("statistic", "oneclass", "inversion")),
    "peers": Part("Other defenses", ("peers", "more_peers", "onion", "alarm")),
    "adaptive": Part(
        "Hidden attention, doses, traffic (HOLDING.md)", module="models.evidence.holding.__main__", results="holding"
    ),
    "llm": Part("Language models (DECODERS.md)", module="models.evidence.decoders.__main__", results="decoders"),
    "graph-logic": Part("Logic planted in graphs", module="models.evidence.graph_logic.__main__"),
}


def elsewhere(results: Path) -> dict[str, float | None]:
    """Part with results of its own → minutes that they took, without their victims; None where that is not kept.

    Args:
        results: the folder of all results.
    """
    return {
        name: None if part.results is None else round(sum(_seconds(results / part.results)) / 60, 1)
        for name, part in PARTS.items()
        if part.module
    }


def minutes_of(evidence: Mapping[str, Any]) -> dict[str, float | None]:
    """Part → minutes of one core, victims aside, as far as they are in the evidence file."""
    kinds = {setting["name"]: setting["kind"] for setting in evidence["settings"]}
    spent: dict[str, float | None] = dict(evidence.get("elsewhere", {}))
    for name, part in PARTS.items():
        if not part.module:
            spent[name] = sum(
                run["steps"].get(step, {}).get("seconds_taken", 0.0) / 60
                for run in evidence["runs"]
                if part.kind in (None, kinds[run["setting"]])
                for step in part.steps
            )
    return {name: spent[name] for name in PARTS if name in spent}


def _seconds(folder: Path) -> Iterator[float]:
    for file in sorted(folder.glob("*.json")):
        found = json.loads(file.read_text("utf-8"))
        yield from (run["seconds"] for run in found.get("runs", [found]))
