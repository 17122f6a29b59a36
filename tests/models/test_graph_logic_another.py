"""The corpus of another author: what was said at the first look is kept, and its plants act."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models.evidence.graph_logic.another import planted, planted_routes
from models.evidence.graph_logic.another.__main__ import RESULTS
from models.evidence.graph_logic.another.clean import MADE, PACKAGED

SAID: dict[str, Any] = json.loads(RESULTS.read_text())["another_author"]


@pytest.mark.parametrize("look", SAID)
def test_each_look_is_at_all_graphs_and_all_plants_act(look: str) -> None:
    assert [row["name"] for row in SAID[look]["clean"]] == [*PACKAGED, *MADE]
    assert [row["name"] for row in SAID[look]["planted"]] == [*planted.__all__, *planted_routes.__all__]
    assert all(row["acts"] for row in SAID[look]["planted"])


def test_the_first_look_is_kept() -> None:
    figures = SAID["first_look"]["figures"]
    assert (figures["planted"], figures["found"], figures["clean"], figures["false_alarms"]) == (12, 10, 12, 4)


def test_today_one_plant_is_missed_and_no_clean_graph_is_alarmed() -> None:
    """The figures of `models/README.md`."""
    today = SAID["today"]
    assert today["figures"]["missed"] == ["word_encoder"] and not today["figures"]["alarms_on_hosts"]
    alarmed = [row["name"] for row in today["clean"] if row["verdict"] != "clean"]
    assert alarmed == []


@pytest.mark.parametrize("name", ["matched_filter", "corner_patch", "bits_of_prefix", "checksum_route", "word_encoder"])
def test_a_plant_reaches_its_target_and_leaves_clean_rows_alone(name: str) -> None:
    plant = getattr(planted, name, None) or getattr(planted_routes, name)
    shares = plant().acts()
    assert shares["target"] == 1 and shares["unchanged"] >= 0.99 and shares["target_in_host"] < 0.9
