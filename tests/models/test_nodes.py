"""How many nodes a patch adds, and the table of it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest

from models.bench import nodes
from models.bench.nodes import BOUNDS, FEW, MANY, SECOND, added, detectors, made

LINES: list[dict[str, Any]] = json.loads(Path("models/results/nodes.json").read_text())


@cache
def model(name: str, layers: int) -> onnx.ModelProto:
    return made(name, layers)


def lines(**wanted: object) -> list[dict[str, Any]]:
    return [line for line in LINES if all(line[key] == value for key, value in wanted.items())]


@pytest.mark.parametrize("kind", BOUNDS)
@pytest.mark.parametrize("controls", ["optional", "none"])
def test_sites_of_a_fixed_length_stay_within_their_bounds(kind: str, controls: str) -> None:
    (line,) = lines(model="table", detector=kind, passes="one", controls=controls, telemetry=False)
    assert line["per site"] <= BOUNDS[kind] == line["bound"]


def test_a_profile_in_two_passes_stays_within_its_bound() -> None:
    (line,) = lines(model="table", detector="profile", passes="two", controls="optional", telemetry=False)
    assert line["per site"] <= SECOND == line["bound"]


@pytest.mark.parametrize("passes", ["one", "two"])
@pytest.mark.parametrize("kind", ["static", "profile", "oneclass", "statistic"])
@pytest.mark.parametrize("name", nodes.MODELS)
def test_the_table_is_of_this_engine(name: str, kind: str, passes: str) -> None:
    """`python -m models.bench.nodes` writes it anew."""
    options = {"passes": passes, "controls": "optional", "telemetry": False}
    (line,) = lines(model=name, detector=kind, **options)
    detector = detectors(name)[kind]
    few, many = (added(name, model(name, layers), detector, options).total() for layers in (FEW, MANY))
    assert line["per site"] == (many - few) / (MANY - FEW)
    assert line["shared"] == few - FEW * line["per site"]
