"""Audit the graphs of another author: `python -m models.evidence.graph_logic.another`. Needs what the corpus needs, and
the packages in `clean.PACKAGED`; the text host is the twin of `sst2-fresh-badnets`.

What was said at the first look, when nobody had changed a rule because of these graphs, stays in the results.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import onnx

from atpatch_onnx.auditing.auditor import audit

from ...writing import save_json
from . import planted, planted_routes
from .clean import MADE, PACKAGED, made, packaged
from .plant import Plant

RESULTS = Path(__file__).parents[3] / "results" / "graph_logic.json"
GROUP = "another_author"


def judge(model: onnx.ModelProto) -> dict[str, Any]:
    """What `atpatch-onnx audit --budget 0` says: the verdict, and codes of the findings that count."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "model.onnx")
        onnx.save(model, file)
        started = time.perf_counter()
        found = audit(file, budget=0).to_json()
    codes = Counter(one["code"] for one in found["findings"] if one["severity"] != "note")
    seconds = round(time.perf_counter() - started, 2)
    return {"nodes": len(model.graph.node), "seconds": seconds, "verdict": found["verdict"], "codes": dict(codes)}


def clean_rows() -> list[dict[str, Any]]:
    """One row a graph."""
    rows = []
    for names, make, kind in ((PACKAGED, packaged, "model in a package"), (MADE, made, "made here")):
        for name in names:
            rows.append({"name": name, "kind": kind, **judge(make(name))})
            click.echo(f"{name}: {rows[-1]['verdict']} {rows[-1]['codes']}")
    return rows


def planted_rows() -> list[dict[str, Any]]:
    """One row a graph, with the proof that it acts, and what is said of its host."""
    rows = []
    for module in (planted, planted_routes):
        for name in module.__all__:
            plant: Plant = getattr(module, name)()
            shares = {key: round(share, 4) for key, share in plant.acts().items()}
            acts = shares["target"] >= 0.99 and shares["unchanged"] >= 0.99 and shares["target_in_host"] < 0.9
            host = judge(plant.host)["verdict"]
            rows.append({"name": name, "acts": acts, **shares, "host_verdict": host, **judge(plant.planted)})
            click.echo(f"{name}: {'acts' if acts else 'DOES NOT ACT'}, {rows[-1]['verdict']} {rows[-1]['codes']}")
    return rows


def figures(clean: list[dict[str, Any]], plants: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of graphs; a plant that does not act counts for nothing."""
    acting = [row for row in plants if row["acts"]]
    missed = [row["name"] for row in acting if row["verdict"] == "clean"]
    return {
        "clean": len(clean),
        "false_alarms": sum(row["verdict"] != "clean" for row in clean),
        "planted": len(acting),
        "found": len(acting) - len(missed),
        "recall": round(1 - len(missed) / len(acting), 3) if acting else None,
        "missed": missed,
        "alarms_on_hosts": sorted({row["name"] for row in acting if row["host_verdict"] != "clean"}),
    }


@click.command()
@click.option("--first-look", is_flag=True, help="Keep what is said as the first look.")
def main(first_look: bool) -> None:
    """Exits with 1 where a planted graph does not act."""
    clean, plants = clean_rows(), planted_rows()
    said = {"figures": figures(clean, plants), "clean": clean, "planted": plants}
    whole = json.loads(RESULTS.read_text())
    whole.setdefault(GROUP, {})["first_look" if first_look else "today"] = said
    save_json(RESULTS, whole)
    click.echo(json.dumps(said["figures"], indent=1))
    if not all(row["acts"] for row in plants):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
