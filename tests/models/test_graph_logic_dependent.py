"""Graphs with logic that depends on values: two halves, and what was said of the second one at the first look."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from atpatch_onnx.auditing.graph_logic import check_graph
from models.evidence.graph_logic.__main__ import RESULTS
from models.evidence.graph_logic.dependent.__main__ import HALVES, half
from models.evidence.graph_logic.dependent.clean import DEPENDENT_CLEAN
from models.evidence.graph_logic.dependent.planted import DEPENDENT_PLANTED
from models.evidence.graph_logic.planting import build, prove
from rewriters.model import io

SAID: dict[str, Any] = json.loads(RESULTS.read_text())["dependent"]


@pytest.mark.parametrize("name", HALVES)
def test_every_look_is_at_all_graphs_of_its_half_and_all_plants_act(name: str) -> None:
    for said in SAID[name].values():
        assert [row["name"] for row in said["clean"]] == [case.name for case in half(DEPENDENT_CLEAN, name)]
        assert [row["name"] for row in said["planted"]] == [case.name for case in half(DEPENDENT_PLANTED, name)]
        assert all(row["acts"] for row in said["planted"])


def test_halves_have_both_exporters_and_two_plants_of_each_style() -> None:
    for name in HALVES:
        exporters = Counter(case.name.rpartition(", ")[2] for case in half(DEPENDENT_CLEAN, name))
        assert min(exporters["dynamo"], exporters["torchscript"]) >= 8
        styles = Counter(case.style for case in half(DEPENDENT_PLANTED, name))
        assert len(styles) == 6 and set(styles.values()) == {2}


def test_the_first_look_at_the_second_half_is_kept() -> None:
    figures = SAID["second_half"]["first_look"]["figures"]
    assert (figures["planted"], figures["found"]) == (12, 10)
    assert (figures["clean"], figures["false_alarms"], figures["called_backdoored"]) == (24, 3, 2)


def test_today_one_clean_graph_of_all_is_alarmed_and_none_is_called_backdoored() -> None:
    today = [SAID[name]["today"] for name in HALVES]
    alarmed = [row["name"] for said in today for row in said["clean"] if row["verdict"] != "clean"]
    assert alarmed == ["sales of a shop that may be closed, dynamo"]
    assert sum(said["figures"]["called_backdoored"] for said in today) == 0
    assert not [name for said in today for name in said["figures"]["missed"]]


def test_a_plant_is_made_proved_and_found(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATPATCH_CACHE", str(tmp_path))
    case = next(case for case in DEPENDENT_PLANTED if case.host.name.startswith("PP-OCR"))
    host, path, target = build(case)
    assert prove(case, host, path, target).acts
    assert not check_graph(io.load(host), host).findings
    assert "error" in {one.severity for one in check_graph(io.load(path), path).findings}


@pytest.mark.parametrize("name", ["a window of a scan, torchscript", "depth with pixels that are missing, torchscript"])
def test_a_clean_graph_is_made_and_clean(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATPATCH_CACHE", str(tmp_path))
    path = next(case for case in DEPENDENT_CLEAN if case.name == name).path()
    assert all(one.severity == "note" for one in check_graph(io.load(path), path).findings)
