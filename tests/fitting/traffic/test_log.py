"""Rows for a fit from a decision log with inputs."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from atpatch_onnx import AtpatchError, Hotfix
from atpatch_onnx.decisions import DecisionRow, to_line
from atpatch_onnx.fitting.traffic import log as traffic_log
from atpatch_onnx.fitting.traffic.log import collect_log

from ...conftest import Run
from ...serve.load import DEMO


def line(
    number: int,
    samples: int = 1,
    *,
    inputs: dict[str, np.ndarray] | None = None,
    unit: str = "u",
    alarms: list[bool] | None = None,
) -> str:
    """A decision; without other inputs its samples hold its number."""
    numbers = np.arange(samples * 2, dtype=np.float32).reshape(samples, 2) + 1000 * number
    row = DecisionRow(
        unix=1.8e9 + number,
        experiment="e",
        revision=1,
        salt="0" * 16,
        mode="shadow",
        weight=0.0,
        id=str(number),
        unit=unit,
        unit_given=True,
        assigned="original",
        arm="original",
        batch=samples,
        fallback=None,
        alarms=alarms,
        inputs={"x": numbers} if inputs is None else inputs or None,
    )
    return to_line(row) + "\n"


def lines(numbers: Iterable[int]) -> str:
    return "".join(map(line, numbers))


def firsts(path: Path, *, rotated: bool = True) -> list[float]:
    return [float(row["x"][0, 0]) for row in collect_log(path, rotated=rotated).rows]


def test_rows_come_from_rotated_and_compressed_files_too(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.with_name("log.jsonl.2").write_bytes(gzip.compress(lines(range(3)).encode()))
    log.with_name("log.jsonl.1").write_text(lines(range(3, 5)))
    log.write_text(lines(range(5, 8)) + line(8, inputs={}) + '{"torn')
    assert firsts(log) == [1000.0 * number for number in range(8)]
    assert firsts(log, rotated=False) == [5000.0, 6000.0, 7000.0]


def test_requests_with_an_alarm_are_left_out(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(line(0, alarms=[False]) + line(1, alarms=[True]) + line(2, 2, alarms=[False, True]) + line(3))
    assert firsts(log) == [0.0, 3000.0]


def test_a_log_may_come_from_one_client_and_that_can_be_seen(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(line(0, 60) + line(1, 20, unit="other"))
    collector = collect_log(tmp_path / "log")
    assert len(collector.rows) == 80 and collector.largest_share == 0.75
    assert collector.rows[0]["x"].dtype == np.float32 and collector.rows[0]["x"].shape == (1, 2)


def test_of_a_long_log_requests_at_even_distances_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic_log, "MOST_ROWS", 10)
    (tmp_path / "log").write_text(lines(range(30)))
    assert firsts(tmp_path / "log") == [3000.0 * number for number in range(10)]


@pytest.mark.parametrize("content", ["", line(0, inputs={})], ids=["empty", "without inputs"])
def test_a_log_without_inputs_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "log").write_text(content)
    with pytest.raises(AtpatchError, match=r"ATP087.*--log-inputs"):
        collect_log(tmp_path / "log")


def test_fit_takes_the_rows_of_a_log_and_sets_a_few_aside(atpatch: Callable[..., Run], tmp_path: Path) -> None:
    images = np.load(DEMO / "clean.npz")["pixel_values"][:120].reshape(-1, 1, 8, 8).astype(np.float32)
    rows = [line(number, inputs={"pixel_values": image[None]}) for number, image in enumerate(images)]
    (tmp_path / "log").write_text("".join(rows))
    arguments = ("--from-log", tmp_path / "log", "-o", tmp_path / "model.hotfix", "--json")
    done = atpatch("fit", DEMO / "model.onnx", *arguments)
    assert done.code == 0, done.err
    assert f"120 rows from {tmp_path / 'log'}; one unit gave 100% of them" in done.err
    assert done.json["detector"] == "oneclass" and Hotfix.load(tmp_path / "model.hotfix").detector == "oneclass"


def test_a_log_is_the_only_data_of_a_fit(atpatch: Callable[..., Run], tmp_path: Path) -> None:
    done = atpatch("fit", DEMO / "model.onnx", "--from-log", tmp_path / "log", "--clean", tmp_path / "clean.npz")
    assert done.code == 2 and "--from-log" in done.err
