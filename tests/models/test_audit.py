"""The committed figures of audits: every verdict right, within the time that was promised."""

from __future__ import annotations

import json
import statistics

import pytest

from atpatch_onnx.auditing.behavior import guard, loud
from models.evidence.audit import CASES, RESULTS

GROUPS = json.loads(RESULTS.read_text("utf-8"))["groups"]
MOST_CPU_SECONDS = 15 * 60 * 2
"""Fifteen minutes on two cores."""


@pytest.mark.parametrize("name", GROUPS)
def test_verdict_and_class_are_right_in_time(name: str) -> None:
    assert GROUPS[name]["target"] == CASES[name].target
    for kind, figures in GROUPS[name]["models"].items():
        wanted = ("backdoored", [CASES[name].target]) if kind == "model" else ("clean", [])
        assert figures["right"] and (figures["verdict"], figures["classes"]) == wanted
        assert figures["cpu_seconds"] <= MOST_CPU_SECONDS


def test_clean_models_keep_far_from_what_a_guard_and_loud_sites_are_suspected_for() -> None:
    """The figures that the comments on both thresholds quote."""
    twins = [group["models"]["twin"] for group in GROUPS.values() if "twin" in group["models"]]
    changed = [twin["guard"]["changed"] / twin["guard"]["rows"] for twin in twins if twin["guard"] is not None]
    assert max(changed) == 0.0025 < guard.SHARE / 3
    louder = []
    for twin in twins:
        if levels := [site["loudness"] for site in twin.get("loudness", ())]:
            louder.append(max(levels) / statistics.median(levels))
    assert round(max(louder), 1) == 3.1 < loud.TIMES


def test_each_kind_of_input_is_there() -> None:
    assert {"mnist-vit-badnets", "sst2-badnets", "adult-cells"} <= set(GROUPS)
