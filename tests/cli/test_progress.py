"""What people see while a command runs: progress, tables, and before it starts, what it lacks."""

from __future__ import annotations

import io
import re
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from atpatch_onnx.cli import cli, progress
from atpatch_onnx.cli.rendering import table
from atpatch_onnx.inspection import environment

from ..conftest import Run
from ..debugset.digits import DIGITS
from ..documents import ROOT


def test_a_line_every_thirty_seconds_off_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.bars() as tell:
        for done in range(1, 11):
            now = 10.0 * done
            tell("search", done, 20)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["30 s", "60 s", "90 s"]
    assert lines[0] == "30 s: search, 15%, this step about 113 s more"


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bars() as tell:
        tell("search", 1, 2)
        tell("search", 2, 2)
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_bar_for_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    for name, value in {"TERM": "xterm", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    with progress.bars() as tell:
        tell("training", 1, 4)
        tell("tuning", 3, 4)
        time.sleep(0.3)  # the bar is drawn ten times a second
    drawn = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", screen.getvalue())
    last = [line for line in re.split(r"[\r\n]+", drawn) if line.strip()][-1]
    assert "tuning" in last and "75%" in last and "training" not in last


@pytest.mark.parametrize("command", ["compare", "debugset"])
def test_commands_report_their_rows(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []

    @contextmanager
    def listen() -> Iterator[progress.Advance]:
        yield lambda *state: told.append(state)

    monkeypatch.setattr(import_module(f"atpatch_onnx.cli.{command}"), "bars", listen)
    rows = DIGITS / "clean.npz"
    options = {
        "compare": [DIGITS / "model.onnx", "--data", rows, "--seconds", "0", "--threads", "1"],
        "debugset": ["--data", rows, "--trigger-patch", "2", "--target", "0", "-o", tmp_path / "set.npz"],
    }
    done = CliRunner().invoke(cli, [command, str(DIGITS / "model.onnx"), *map(str, options[command])])
    assert done.exit_code == 0, done.stderr
    assert any(step in ("clean", "predicting") and last == total > 100 for step, last, total in told)


# ---- tables


def test_ids_of_sites_are_never_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("COLUMNS", "60")
    site = "model.encoder.layers.11.self_attention.softmax_of_a_long_name_that_is_wider_than_it"
    table(
        "sites", ("site", "flagged", "why"), [(site, "12 of 1,000", "a reason that is long enough to be folded twice")]
    )
    assert any(site in line for line in screen.getvalue().splitlines())


# ---- what is needed at the end is missed at the beginning


def test_doctor_knows_every_extra(atpatch: Callable[..., Run]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    brought = {
        extra: {re.split(r"[\[<>=;]", text)[0].strip().lower() for text in texts}
        for extra, texts in project.items()
        if extra not in ("all", "dev", "docs")
    }
    assert {extra: {name.lower() for name in names} for extra, names in environment.EXTRAS.items()} == brought
    assert environment.USES.keys() == brought.keys() == atpatch("doctor", "--json").json["extras"].keys()


@pytest.mark.parametrize(
    ("missing", "options"),
    [
        ("matplotlib", ["--html", "page.html"]),
        ("jinja2", ["--report", "page.html"]),
        ("fairlearn", ["--group", "x:0"]),
        ("fairlearn", ["--table", "t.csv", "--attribute", "sex"]),
    ],
)
def test_compare_says_before_it_starts_what_it_lacks(
    atpatch: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, missing: str, options: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    run = atpatch("compare", "not-there.onnx", "not-there.onnx", *options)
    assert run.code == 2 and run.err.startswith("error ATP051: ") and missing in run.err


@pytest.mark.parametrize("command", ["fit", "ab"])
def test_pages_of_other_commands_are_checked_too(
    atpatch: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    arguments = {
        "fit": ["fit", DIGITS / "model.onnx", "--debug", "not-there.npz", "--report", "page.html"],
        "ab": ["ab", "analyze", "not-there.jsonl", "--html", "page.html"],
    }
    run = atpatch(*arguments[command])
    assert run.code == 2 and run.err.startswith("error ATP051: "), run.err
