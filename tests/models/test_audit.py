"""The committed figures of audits: every verdict right, within the time that was promised."""

from __future__ import annotations

import json

import pytest

from atpatch_onnx.auditing.behavior import guard
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


def test_clean_models_keep_far_from_what_a_guard_is_suspected_for() -> None:
    """The figure that the comment on the threshold quotes."""
    twins = [group["models"]["twin"] for group in GROUPS.values() if "twin" in group["models"]]
    changed = [twin["guard"]["changed"] / twin["guard"]["rows"] for twin in twins if twin["guard"] is not None]
    assert max(changed) == 0.0025 < guard.SHARE / 3
    # measured only since noise says how loud a site may be
    assert all(site.get("excess", 0) <= 1 for twin in twins for site in twin.get("loudness", ()))


def test_each_kind_of_input_is_there() -> None:
    assert {"mnist-vit-badnets", "sst2-badnets", "adult-cells"} <= set(GROUPS)
