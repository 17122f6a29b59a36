"""Progress off a terminal: a line every 30 seconds, with the step, its share and what is left."""

from __future__ import annotations

import pytest

from atpatch_onnx.cli import progress


def test_a_line_every_thirty_seconds_off_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.bars_or_lines() as tell:
        for done in range(1, 11):
            now = 10.0 * done
            tell("search", done, 20)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["30 s", "60 s", "90 s"]
    assert lines[0] == "30 s: search, 15%, this step about 113 s more"


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bars_or_lines() as tell:
        tell("search", 1, 2)
        tell("search", 2, 2)
    assert capsys.readouterr().err == ""
