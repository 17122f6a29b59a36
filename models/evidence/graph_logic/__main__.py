"""Audit the corpus: `python -m models.evidence.graph_logic`. Needs the extras cpu and export, and
models/requirements.txt and tests/third_party.txt.

The last third of the corpus (`unseen_clean`, `unseen_planted`) was made after the rules had been fixed. What those
rules said of it at the first look stays in the results, whatever the rules say today: they were changed because of it.
`later_planted` was made after that change, and the rules have not been changed since.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from atpatch_onnx.auditing.graph_logic import check_graph
from atpatch_onnx.auditing.verdict import judge
from rewriters.model import io

from ...victims import versions
from ..writing import save_json
from .clean import CLEAN, Clean
from .later_planted import LATER_PLANTED
from .planted import PLANTED
from .planting import Planted, build, prove
from .unseen_clean import UNSEEN_CLEAN
from .unseen_planted import UNSEEN_PLANTED

RESULTS = Path(__file__).parents[2] / "results" / "graph_logic.json"


def audit(path: Path) -> dict[str, Any]:
    """The verdict, codes of the findings that count against a model, the number of nodes, and seconds."""
    model = io.load(path)
    started = time.perf_counter()
    checked = check_graph(model, path)
    seconds = round(time.perf_counter() - started, 2)
    codes = Counter(finding.code for finding in checked.findings if finding.severity != "note")
    verdict = judge(checked.findings, checked.not_tried, None).word
    not_tried = sorted({one.why for one in checked.not_tried})
    said = {"verdict": verdict, "codes": dict(sorted(codes.items()))}
    return {"nodes": len(model.graph.node), "seconds": seconds, **said} | (
        {"not_tried": not_tried} if not_tried else {}
    )


def judge_clean(cases: tuple[Clean, ...]) -> list[dict[str, Any]]:
    """One row a graph."""
    rows = []
    for case in cases:
        rows.append({"name": case.name, "kind": case.group, **audit(case.path())})
        click.echo(f"{case.name}: {rows[-1]['codes'] or 'clean'}")
    return rows


def judge_planted(cases: tuple[Planted, ...]) -> list[dict[str, Any]]:
    """One row a graph, with the proof that it acts, and what is said of its host."""
    rows = []
    for case in cases:
        host, path, target = build(case)
        acting = prove(case, host, path, target)
        rows.append(
            {
                "name": case.name,
                "style": case.style,
                "trigger": case.trigger.what,
                "acts": acting.acts,
                "hit": acting.hit,
                "host_hit": acting.host_hit,
                "clean_difference": round(acting.difference, 6),
                "host_codes": audit(host)["codes"],
                **audit(path),
            }
        )
        click.echo(f"{case.name}: {'acts' if acting.acts else 'DOES NOT ACT'}, {rows[-1]['codes'] or 'MISSED'}")
    return rows


def figures(clean: list[dict[str, Any]], planted: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of graphs; a plant that does not act counts for nothing."""
    acting = [row for row in planted if row["acts"]]
    found = [row for row in acting if row["codes"]]
    return {
        "clean": len(clean),
        "false_alarms": sum(row["verdict"] != "clean" for row in clean),
        "called_backdoored": sum(row["verdict"] == "backdoored" for row in clean),
        "planted": len(acting),
        "found": len(found),
        "recall": round(len(found) / len(acting), 3) if acting else None,
        "missed": [row["name"] for row in acting if not row["codes"]],
    }


@click.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=RESULTS)
@click.option("--first-look", is_flag=True, help="Only the last third, and keep what is said of it as the first look.")
def main(output: Path, first_look: bool) -> None:
    """Exits with 1 where a planted graph does not act."""
    before = json.loads(output.read_text()) if output.exists() else {}
    unseen_clean, unseen_planted = judge_clean(UNSEEN_CLEAN), judge_planted(UNSEEN_PLANTED)
    last = {"figures": figures(unseen_clean, unseen_planted), "clean": unseen_clean, "planted": unseen_planted}
    if first_look:
        before["first_look_at_the_last_third"] = last
        save_json(output, before)
        return
    clean, planted, later = judge_clean(CLEAN), judge_planted(PLANTED), judge_planted(LATER_PLANTED)
    results = before | {  # what was said at first looks, and of the other corpora, stays
        "versions": versions(),
        "all": figures(clean + unseen_clean, planted + unseen_planted + later),
        "first_two_thirds": {"figures": figures(clean, planted), "clean": clean, "planted": planted},
        "last_third": last,
        "later": {"figures": figures([], later), "planted": later},
    }
    save_json(output, results)
    click.echo(json.dumps(results["all"], indent=1))
    if not all(row["acts"] for row in planted + unseen_planted + later):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
