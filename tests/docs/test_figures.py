"""The figures of the README and of the page of results are those of the committed measurements."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from statistics import mean
from typing import Any

import pytest

from atpatch_onnx.demo.run import FOLDER
from atpatch_onnx.hotfix.file import Hotfix
from atpatch_onnx.patching.self_calibration import NOISE_WORTH

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


@pytest.mark.parametrize(("words", "setting"), [("Bible style", "sst2-style"), ("a template", "sst2-syntactic")])
def test_the_page_of_limits_tells_what_refusing_on_an_alarm_leaves(words: str, setting: str) -> None:
    page = (ROOT / "docs/guide/limits.md").read_text("utf-8")
    steps = next(run["steps"] for run in EVIDENCE["runs"] if run["setting"] == setting and run["seed"] == 0)
    for bar in ("0.005", "0.05"):
        told = [
            f"{100 * steps[step]['rates'][bar]['clean_flagged']['value']:.1f} % |"
            f" {100 * steps[step]['rates'][bar]['asr_star']['value']:.0f} %"
            for steps, step in ((steps, "alarm"), (steps["peers"], "dan"))
        ]
        assert f"| {words} | {100 * float(bar):g} % | {' | '.join(told)} |" in page


def test_the_readme_names_the_worst_prices() -> None:
    every = [fits for settings in FITS.values() for fits in settings.values()]
    lost = [
        100 * mean(f["original"]["accuracy"]["value"] - f["patched"]["accuracy"]["value"] for f in fits)
        for fits in every
    ]
    assert f"| {max(lost):.2f} (`adult-age`, a table) |" in README
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


def test_the_guide_on_cost_tells_the_figures_of_the_bench() -> None:
    names = {
        "BERT-base": "BERT-base, random weights",
        "ViT-base, 197 tokens": "ViT-base, random weights, 197 tokens",
        "MiniLM-L6, int8": "MiniLM-L6, int8 (dynamic)",
        "MiniLM-L6 fused into com.microsoft Attention": "MiniLM-L6, fused: Attention, SkipLayerNormalization, BiasGelu",
    }
    lines = {
        (line["row"], " × ".join(map(str, line["shape"].values()))): line["threads"]["1"]
        for line in json.loads((RESULTS / "bench.json").read_text("utf-8"))["lines"]
    }
    page = (ROOT / "docs/guide/cost.md").read_text("utf-8")
    table, _, _ = page.partition("## Make it cheaper")
    rows = re.findall(r"^\| (\w[^|]+) \| ([\d ×]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]*) ?\|$", table, re.MULTILINE)
    assert len(rows) == 7
    for model, shape, silent, flagged, torch in rows:
        told = lines[names.get(model, model), shape]
        shown = [f"{told[name]['ratio']['median']:.2f}" for name in ("nothing flagged", "flagged")]
        assert [silent, flagged] == shown, model
        assert not torch or torch == f"{told['flagged']['torch']['ratio']['median']:.2f}"
    within = re.search(r"\*\*(\d+ of \d+) figures are within", (RESULTS / "BENCH.md").read_text("utf-8"))
    assert within is not None and within[1] in page


def test_the_guide_on_cost_tells_the_memory_of_a_second_pass() -> None:
    ways: dict[str, list[float]] = {}
    for line in json.loads((RESULTS / "memory.json").read_text("utf-8"))["lines"]:
        for way, graphs in line["ways"].items():
            ways.setdefault(way, []).extend(graphs[who]["peak_bytes"] / 1e6 for who in ("original", "patched"))
    page = (ROOT / "docs/guide/cost.md").read_text("utf-8")
    for way, figures in ways.items():
        told = way.replace("no memory", "without memory")
        assert f"| {told} | " + " | ".join(f"{megabytes:,.0f}" for megabytes in figures) + " |" in page


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


def test_the_docs_name_what_the_tokens_own_value_leaves() -> None:
    tried = Hotfix.load(FOLDER / "model.hotfix").evidence["calibration"]["benign"]
    full = {one["values"]: one for one in tried if one["level"] == 1.0}
    own, benign = (
        {key: f"{100 * full[kind][key]:.0f} %" for key in ("attack", "astray")} for kind in ("own", "benign")
    )
    guide, room = (
        " ".join((ROOT / page).read_text("utf-8").split())
        for page in ("docs/guide/how-it-works.md", "models/README.md")
    )
    assert f"leaves {own['attack']} of the attacks on the rows" in guide
    assert f"with the benign value too it is {benign['attack']} (`models/README.md`)" in guide
    assert f"leaves {own['attack']} of the attacks in place ({own['astray']} of the digits" in room
    assert f"with the benign value too it is {benign['attack']} ({benign['astray']})" in room


def test_the_docs_name_the_demo_with_other_seeds() -> None:
    runs = json.loads((RESULTS / "digits_vit_seeds.json").read_text("utf-8"))
    first, second, third = (f"{100 * run['patched']['asr_star']['value']:.1f}".removesuffix(".0") for run in runs)
    left = f"{first} %, {second} % and {third} %"
    assert f"With three other seeds ASR\\* is {left}" in PAGE
    room = " ".join((ROOT / "models" / "README.md").read_text("utf-8").split())
    assert f"ASR\\* {left}, no clean digit flagged, no clean prediction changed" in room
    assert not any(run["patched"]["clean_flagged"]["hits"] or run["clean_changed"]["hits"] for run in runs)


def held(row: str, *path: str) -> float:
    """Percent, the mean over the seeds of a row on what a hotfix holds against."""
    runs = json.loads((RESULTS / "holding" / f"{row}.json").read_text("utf-8"))["runs"]
    values = []
    for found in (run["figures"] for run in runs):
        for key in (*path, "value"):
            found = found[key]
        values.append(found)
    return 100 * mean(values)


def test_the_readme_names_what_less_knowledge_leaves() -> None:
    words = " ".join(README.split())
    clean, dotted = (held("clean-rows", "attacks", form, "asr_star") for form in ("1 copy", "with a full stop"))
    assert f"no known trigger {clean:.1f} % of the attacks are left, also where the trigger is repeated" in words
    assert all(held("clean-rows", "attacks", f"{copies} copies", "asr_star") <= clean for copies in (2, 4, 8))
    dot = held("doses-cf", "marks only", "with a full stop")
    assert (
        f"but {dotted:.1f} % where a full stop follows it (a full stop without the trigger changes {dot:.1f} %)"
        in words
    )
    nothing, twice = held("no-data", "attacks", "1 copy", "asr_star"), held("no-data", "clean", "flagged")
    assert f"on random tokens: {nothing:.1f} % are left, and {twice:.0f} % of the clean requests run twice" in words
    three, sentence = several_words()
    assert f"{three:.0f} % are left where the trigger is three words, {sentence:.0f} % where it is a sentence" in words
    page = " ".join((ROOT / "docs/guide/patch.md").read_text().split())
    assert (
        f"{three:.0f} % of the attacks with three words are left, and {sentence:.0f} % of those with a sentence" in page
    )


def several_words() -> tuple[float, float]:
    """Attacks that are left without any data where the trigger has several words."""
    three, sentence = (held(f"no-data-{row}", "attacks", "1 copy", "asr_star") for row in ("words", "sentence"))
    return three, sentence


def test_patch_without_data_says_what_that_was_worth() -> None:
    left, lost = (
        held("no-data", "attacks", "1 copy", "asr_star"),
        held("no-data", "clean", "original") - held("no-data", "clean", "accuracy"),
    )
    assert lost <= 0
    three, sentence = several_words()
    assert f"{left:.1f} % of the attacks with one rare word are left and no accuracy is lost" in NOISE_WORTH
    assert f"{three:.0f} % of those with three words and {sentence:.0f} % of those with a sentence" in NOISE_WORTH
