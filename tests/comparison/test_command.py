"""The command: streams, exit codes, reports."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from atpatch_onnx.cli.compare import compare as command
from atpatch_onnx.comparison.assertions import PAIRED
from atpatch_onnx.comparison.figures import FIGURES

from .case import ALARMS, BY_TWIN, DECODERS


def test_only_json_is_on_stdout_and_text_for_people_on_stderr(case, atpatch) -> None:
    done = atpatch("compare", *case.arguments, "--json", "--assert", "changed>=0")
    assert done.code == 0
    assert done.json["n"] == 40
    assert done.json["asserts"] == [{"assert": "changed>=0", "value": done.json["paired"]["changed"], "holds": True}]
    assert "holds: changed>=0" in done.err
    people = atpatch("compare", *case.arguments)
    assert (people.code, people.out) == (0, "")
    for words in (
        "accuracy",
        "McNemar",
        "bit-identical",
        "floor: original unoptimized",
        "CPUExecutionProvider, 1 thread",
        done.json["verdict"],
    ):
        assert words in people.err


def test_a_bound_that_fails_is_exit_1_and_all_are_reported(case, atpatch) -> None:
    done = atpatch("compare", *case.arguments, "--assert", "accuracy>=0", "--assert", "changed<0", "--json")
    assert done.code == 1
    assert [one["holds"] for one in done.json["asserts"]] == [True, False]
    assert "FAILS: changed<0 (changed is " in done.err


@pytest.mark.parametrize("text", ["changed~0", "chnged<=0", "asr_star<=0.01", "nobody.accuracy>0"])
def test_a_bound_that_cannot_be_judged_is_exit_2(case, atpatch, text: str) -> None:
    done = atpatch("compare", *case.arguments, "--assert", text)
    assert done.code == 2
    (first,) = [line for line in done.err.splitlines() if line.startswith("error")]
    assert first.startswith("error ATP060: ")


def test_a_kept_run_is_judged_again(case, atpatch, tmp_path) -> None:
    run = tmp_path / "run.npz"
    arguments = [*case.arguments, "--triggered", case.triggered, "--flips", case.flips, "--group", "sex"]
    first = atpatch("compare", *arguments, "--save", run, "--json")
    again = atpatch("compare", "--load", run, "--json", "--report", tmp_path / "again.html")
    assert (first.code, again.code) == (0, 0)
    assert {**again.json, "reports": []} == first.json
    assert (tmp_path / "again.html").is_file()
    assert atpatch("compare", "--load", run, "--assert", "spd<-1").code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["model.onnx"],
        ["model.onnx", "patched.onnx"],
        ["--load", "run.npz", "--data", "clean.npz"],
        ["a.onnx", "b.onnx", "--load", "run.npz"],
    ],
)
def test_what_does_not_go_together_is_refused(atpatch, arguments: list[str]) -> None:
    done = atpatch("compare", *arguments)
    assert done.code == 2
    assert "ATP060" in done.err


def test_a_missing_model_or_set_is_exit_2(case, atpatch, tmp_path) -> None:
    assert "ATP002" in atpatch("compare", case.model, tmp_path / "no.onnx", "--data", case.clean).err
    done = atpatch("compare", case.model, case.patched, "--data", tmp_path / "no.npz")
    assert (done.code, "ATP002" in done.err) == (2, True)


def test_models_in_the_wrong_order_are_refused_with_the_right_one(case, atpatch, tmp_path) -> None:
    done = atpatch("compare", case.patched, case.model, "--texts", tmp_path / "no.tsv", "--trigger", "cf")
    assert done.code == 2 and "ATP060" in done.err
    told = " ".join(done.err.split())
    assert f"atpatch-onnx compare {case.model} {case.patched}" in told and "the original comes first" in told
    both = atpatch("compare", case.patched, case.patched, "--data", case.clean, "--json", "--seconds", 0)
    assert both.code == 0 and both.json["paired"]["changed"] == 0


@pytest.mark.parametrize("place", ["patched", "also"])
def test_every_model_is_read_before_sets_are_made(case, atpatch, tmp_path, place: str) -> None:
    gone = tmp_path / "gone.onnx"
    models = [case.model, gone] if place == "patched" else [case.model, case.patched, "--also", gone]
    done = atpatch("compare", *models, "--texts", tmp_path / "no.tsv", "--trigger", "cf")
    assert done.code == 2 and "gone.onnx" in done.err and "no.tsv" not in done.err


def test_further_graphs_are_named_after_their_files_or_as_asked(case, atpatch) -> None:
    done = atpatch("compare", *case.arguments, "--also", case.silent, "--also", f"again={case.patched}", "--json").json
    assert list(done["also"]) == ["silent", "again"]
    assert done["also"]["silent"]["paired"]["changed"] == 0
    assert done["also"]["again"]["paired"]["changed"] == done["paired"]["changed"] > 0
    twice = atpatch("compare", *case.arguments, "--also", case.silent, "--also", case.silent)
    assert (twice.code, "ATP060" in twice.err) == (2, True)


def test_numbers_and_a_missing_provider(case, atpatch) -> None:
    assert "changed" not in atpatch("compare", *case.arguments, "--numbers", "--json").json["paired"]
    done = atpatch("compare", *case.arguments, "--provider", "NoSuchExecutionProvider")
    assert (done.code, "ATP052" in done.err) == (2, True)


def test_reports_are_written_by_suffix(case, atpatch, tmp_path) -> None:
    html, text = tmp_path / "new" / "r.html", tmp_path / "r.md"
    done = atpatch(
        "compare", *case.arguments, "--triggered", case.triggered, "--report", html, "--report", text, "--json"
    )
    assert done.json["reports"] == [str(html), str(text)]
    written = text.read_text("utf-8")
    assert written.startswith(f"# {done.json['verdict']}\n")
    assert f"| accuracy | {done.json['original']['accuracy'] * 100:.2f} % (" in written
    rows = [line for line in written.splitlines() if line.startswith("|")]
    assert len(rows) > 20 and all(row.endswith("|") for row in rows)
    bad = atpatch("compare", *case.arguments, "--report", tmp_path / "r.pdf")
    assert (bad.code, "ATP060" in bad.err) == (2, True)


@pytest.fixture(scope="module")
def page(comparison) -> str:
    from atpatch_onnx.comparison.page import render_report

    return render_report(comparison)


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    links = re.findall(r"""[\w:-]*\s*=\s*["']?https?://[^"'\s>]*|https?://[^"'\s>]*""", page)
    assert {link.split("=")[0] for link in links} == {"xmlns"}
    assert not re.search(r"<(script|link|iframe|img|object|embed)\b|@import", page)
    targets = re.findall(r"""(?:href=["']|url\(["']?)([^"')]*)""", page)
    assert targets and all(target.startswith(("#", "data:image/png;base64,")) for target in targets)
    repeated = [name for name, count in Counter(re.findall(r'\bid="([^"]+)"', page)).items() if count > 1]
    assert not repeated
    assert len(page) < 1 << 20


def test_the_page_says_the_verdict_first_and_shows_all_pictures(comparison, page: str) -> None:
    done = comparison.to_json()
    assert re.search(r"<h1>(.*?)</h1>", page).group(1) == done["verdict"]
    parts = [
        "<h1>",
        "One row, three answers",
        "What the model looks at",
        "What was flagged",
        "How far the scores moved",
        "What it costs",
        "The figures",
    ]
    places = [page.index(part) for part in parts]
    assert places == sorted(places)
    # A strip a card, a profile a site, margins of three sets, latency of flagged requests.
    assert page.count("<svg") == 3 + 2 + 3 + 1


def test_names_from_files_are_escaped(case, atpatch, tmp_path) -> None:
    evil = tmp_path / "<b>&.onnx"
    evil.write_bytes(Path(case.patched).read_bytes())
    done = atpatch(
        "compare",
        case.model,
        evil,
        "--data",
        case.clean,
        "--threads",
        1,
        "--seconds",
        0,
        "--report",
        tmp_path / "r.html",
    )
    assert done.code == 0
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "<b>&" not in page and "&lt;b&gt;&amp;.onnx" in page


def test_every_bound_that_help_names_can_be_asserted(case, atpatch, tmp_path) -> None:
    named = re.findall(r"\b(\w+)\b", command.help.split("Bounds name")[1].split("'original")[0])
    known = {*FIGURES, *PAIRED} - DECODERS - BY_TWIN - ALARMS
    assert {"accuracy", "asr", "asr_star", "uf", "clean_flagged", "accuracy_drop", "latency_ratio"} <= known & set(
        named
    )
    arguments = [*case.arguments[:-1], "0.02", "--triggered", case.triggered, "--flips", case.flips, "--group", "sex"]
    bounds = [part for name in sorted(known - {"latency_ratio"}) for part in ("--assert", f"{name}>=-9")]
    done = atpatch("compare", *arguments, *bounds, "--json")
    # Every row is flagged here, so there is neither a clean request to time nor an unflagged row to be identical.
    assert done.code == 2 and "identical_share is not known" in done.err
    bounds = [
        part for name in sorted(known - {"latency_ratio", "identical_share"}) for part in ("--assert", f"{name}>=-9")
    ]
    done = atpatch("compare", *arguments, *bounds, "--json")
    assert done.code == 0 and all(one["holds"] for one in done.json["asserts"])
    silent = [
        case.model,
        case.silent,
        *case.arguments[2:-1],
        "0.02",
        "--assert",
        "latency_ratio>0",
        "--assert",
        "identical_share==1",
    ]
    assert atpatch("compare", *silent).code == 0


def test_a_triggered_set_without_target_is_refused(case, atpatch, tmp_path) -> None:
    np.savez(tmp_path / "t.npz", x=np.load(case.clean)["x"])
    done = atpatch("compare", *case.arguments, "--triggered", tmp_path / "t.npz")
    assert (done.code, "no target" in done.err) == (2, True)


def test_json_of_a_run_is_valid_json_without_nan(case, atpatch, tmp_path) -> None:
    out = atpatch("compare", *case.arguments, "--triggered", case.triggered, "--json").out
    json.loads(out, parse_constant=lambda word: pytest.fail(word))


def test_names_make_no_html_and_no_links_in_markdown(case, atpatch, tmp_path: Path) -> None:
    odd = tmp_path / "<b>[a](b) `c`.onnx"
    odd.write_bytes(Path(case.patched).read_bytes())
    report = tmp_path / "report.md"
    assert atpatch("compare", *case.arguments, "--also", odd, "--report", report).code == 0
    text = report.read_text("utf-8")
    assert r"\<b>\[a](b) \`c\`" in text
    assert not re.search(r"(?<!\\)[<\[`]", text)
