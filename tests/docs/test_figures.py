"""The figures of the README and of the page of results are those of the committed measurements."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from statistics import mean
from typing import Any

import pytest

from ..documents import ROOT

RESULTS = ROOT / "models" / "results"
EVIDENCE = json.loads((RESULTS / "evidence.json").read_text("utf-8"))
README = (ROOT / "README.md").read_text("utf-8")
PAGE = (ROOT / "docs" / "guide" / "results.md").read_text("utf-8")

FITS: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
"""Group → setting → the step `fit` of each run."""
for run in EVIDENCE["runs"]:
    group = next(one["group"] for one in EVIDENCE["settings"] if one["name"] == run["setting"])
    FITS[group][run["setting"]].append(run["steps"]["fit"])

ROWS = {
    "images": ("asr", "images with a trigger", "backdoored image models"),
    "words": ("asr_star", "texts with a word or sentence", "word and sentence triggers"),
    "rewritten": ("asr_star", "rewritten sentences", "rewritten sentences"),
    "tables": ("uf", "tables, a protected attribute", "unfair table models"),
}
"""Group → measure, and how its row begins in the README and on the page."""


def numbers(text: str, start: str) -> list[float]:
    """Numbers with a % sign, or a sign or point, in the table row that begins so."""
    (row,) = re.findall(rf"^\| \**{re.escape(start)}.*$", text, re.MULTILINE)
    return [float(number) for number in re.findall(r"(?<![\w(.])-?\d+(?:\.\d+)?(?= %)", row)]


def over_settings(group: str, value: Any) -> list[float]:
    """Percent: the mean over the seeds of each setting."""
    return [100 * mean(value(fit) for fit in fits) for fits in FITS[group].values()]


@pytest.mark.parametrize("group", ROWS)
def test_the_readme_names_mean_best_and_worst_of_each_fault(group: str) -> None:
    measure, start, _ = ROWS[group]
    before = over_settings(group, lambda fit: fit["original"][measure]["value"])
    after = over_settings(group, lambda fit: fit["patched"][measure]["value"])
    expected = [mean(before), mean(after), min(after), max(after)]
    assert numbers(README, start) == pytest.approx(expected, abs=0.51 if group == "rewritten" else 0.06)


@pytest.mark.parametrize("group", ROWS)
def test_the_page_of_results_has_the_means(group: str) -> None:
    measure, _, start = ROWS[group]
    before = mean(over_settings(group, lambda fit: fit["original"][measure]["value"]))
    after = mean(over_settings(group, lambda fit: fit["patched"][measure]["value"]))
    shown = numbers(PAGE, start)
    assert shown[0] == pytest.approx(before, abs=0.51)
    assert shown[1] == pytest.approx(after, abs=0.51 if group == "rewritten" else 0.006)


def test_the_readme_names_the_worst_prices() -> None:
    every = [fits for settings in FITS.values() for fits in settings.values()]
    lost = [
        100 * mean(f["original"]["accuracy"]["value"] - f["patched"]["accuracy"]["value"] for f in fits)
        for fits in every
    ]
    assert f"| {max(lost):.2f} (`bank-education`, a table) |" in README
    flagged = {
        name: 100 * mean(fit["clean_flagged"]["value"] for fit in fits)
        for group in ("images", "words", "rewritten")
        for name, fits in FITS[group].items()
    }
    worst = max(flagged, key=flagged.__getitem__)
    assert f"| {flagged[worst]:.2f} % (`{worst}`)" in README

    timed = [run["steps"]["latency"] for run in EVIDENCE["runs"] if "latency" in run["steps"]]
    clean, all_flagged = (max(step[kind]["ratio"] for step in timed if step.get(kind)) for kind in ("clean", "flagged"))
    assert f"× {clean:.2f}, an image model" in README and f"× {all_flagged:.1f}, the same image model" in README


def test_the_readme_names_the_worst_time_to_load() -> None:
    ratios = re.findall(r"^\* (.+), load: ([\d.]+)", (RESULTS / "BENCH.md").read_text("utf-8"), re.MULTILINE)
    worst, model = max((float(ratio), model) for model, ratio in ratios)
    assert "int8" in model and f"× {worst:.1f}, a model in 8-bit integers" in README


def test_the_readme_names_the_demo_as_it_was_measured() -> None:
    demo = json.loads((ROOT / "models" / "digits_vit" / "results.json").read_text("utf-8"))
    before, after = demo["original"], demo["patched"]
    assert f"{before['asr']['hits']} of {before['asr']['count']} test digits to none" in README
    assert after["asr"]["hits"] == after["clean_flagged"]["hits"] == 0
    assert f"stays at {100 * after['accuracy']['value']:.1f} %" in README
    assert f"any of {after['clean_flagged']['count']} clean digits" in README
    assert before["accuracy"]["hits"] == after["accuracy"]["hits"]
