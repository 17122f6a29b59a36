"""The corpus of planted graphs: what the committed results have to show, and one case from end to end."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from atpatch_onnx.auditing.graph_logic import check_graph
from models.evidence.graph_logic import planted
from models.evidence.graph_logic.clean import CLEAN
from models.evidence.graph_logic.later_planted import LATER_PLANTED
from models.evidence.graph_logic.planted import PLANTED
from models.evidence.graph_logic.planting import build, prove
from models.evidence.graph_logic.unseen_clean import UNSEEN_CLEAN
from models.evidence.graph_logic.unseen_planted import UNSEEN_PLANTED
from rewriters.model import io

RESULTS: dict[str, Any] = json.loads((Path(planted.__file__).parents[2] / "results" / "graph_logic.json").read_text())
THIRDS = ("first_two_thirds", "last_third")


def rows(kind: str) -> list[dict[str, Any]]:
    parts = (*THIRDS, "later") if kind == "planted" else THIRDS
    return [row for part in parts for row in RESULTS[part][kind]]


def test_the_results_are_of_the_corpus_in_the_code() -> None:
    assert [row["name"] for row in rows("clean")] == [case.name for case in (*CLEAN, *UNSEEN_CLEAN)]
    cases = (*PLANTED, *UNSEEN_PLANTED, *LATER_PLANTED)
    assert [row["name"] for row in rows("planted")] == [case.name for case in cases]


def test_every_plant_acts_and_every_style_and_trigger_is_there() -> None:
    assert all(row["acts"] and row["hit"] == 1 and row["host_hit"] < 1 for row in rows("planted"))
    assert min(Counter(row["style"] for row in rows("planted")).values()) >= 3
    assert len({row["style"] for row in rows("planted")}) == 6
    assert {"token", "patch", "checksum of pixels"} <= {row["trigger"] for row in rows("planted")}


def test_hosts_and_other_clean_graphs_raise_no_alarm_and_plants_are_found() -> None:
    assert len(rows("clean")) >= 30 and len(rows("planted")) >= 30
    assert sum(bool(row["codes"]) for row in rows("clean")) * 30 <= len(rows("clean"))
    assert not any(row["host_codes"] for row in rows("planted"))
    assert sum(bool(row["codes"]) for row in rows("planted")) >= 0.95 * len(rows("planted"))


def test_the_first_look_at_the_last_third_is_kept() -> None:
    first = RESULTS["first_look_at_the_last_third"]
    assert [row["name"] for row in first["planted"]] == [case.name for case in UNSEEN_PLANTED]
    assert first["figures"]["planted"] == len(UNSEEN_PLANTED) and first["figures"]["clean"] == len(UNSEEN_CLEAN)


def test_a_plant_is_made_proved_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATPATCH_CACHE", str(tmp_path))
    case = next(case for case in PLANTED if case.host.name.startswith("PP-OCR"))
    host, path, target = build(case)
    assert prove(case, host, path, target).acts
    assert not check_graph(io.load(host), host).findings
    assert [one.severity for one in check_graph(io.load(path), path).findings] == ["error"]
