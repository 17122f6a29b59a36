"""The files of a log: what is read of them, what is counted, and the revision that goes on."""

from __future__ import annotations

import gzip
import json
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atpatch_onnx.decisions import DecisionRow, Reading, from_line, last_revision, read_rows, to_line
from atpatch_onnx.serve.log import DecisionLog

from ..ab.logs import row, write_log


def lines(*rows: Any) -> bytes:
    return b"".join((entry if isinstance(entry, bytes) else json.dumps(entry).encode()) + b"\n" for entry in rows)


def decision(number: int, **changes: Any) -> DecisionRow:
    found = from_line(json.dumps(row(number, **changes)))
    assert isinstance(found, DecisionRow)
    return found


def read(*files: Path) -> tuple[list[Any], Reading]:
    reading = Reading(files)
    return list(read_rows(files, reading)), reading


# Rows that are there twice


def test_a_decision_counts_once_however_often_it_is_there(tmp_path: Path) -> None:
    rows = [row(number) for number in range(5)]
    one = write_log(tmp_path / "one.jsonl", [*rows, *rows[:2]])
    # as a log shipper puts them
    two = write_log(tmp_path / "two.jsonl", ({key: entry[key] for key in sorted(entry)} for entry in rows))
    found, reading = read(one, two)
    assert [entry.id for entry in found] == [entry["id"] for entry in rows]
    assert (reading.lines, reading.duplicates, reading.bad) == (12, 7, 0)


def test_an_id_that_clients_use_again_is_no_duplicate(tmp_path: Path) -> None:
    again = [row(0, id="same"), row(1, id="same"), row(2, id="same")]
    found, reading = read(write_log(tmp_path / "log.jsonl", again))
    assert (len(found), reading.duplicates) == (3, 0)


# Lines of any length


def test_lines_longer_than_a_block(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(
        lines(b"x" * 300_000, row(0, id="r" * 300_000), b"[" + b"1," * 100_000 + b"1]", row(1)) + b"\x00" * 300_000
    )
    found, reading = read(log)
    assert [len(entry.id) for entry in found] == [300_000, 2]
    assert (reading.lines, reading.bad, reading.torn) == (5, 2, 1)


def test_a_row_without_line_end_is_torn_only_if_it_is_no_json(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(lines(row(0))[:-1])
    found, reading = read(log)
    assert (len(found), reading.torn) == (1, 0)
    log.write_bytes(lines(row(0, arm="third"))[:-1])
    _, reading = read(log)
    assert (reading.bad, reading.torn) == (1, 0)


# The revision that goes on


@pytest.mark.parametrize(("content", "revision"), [
    (b"", 0),
    (b"garbage\n", 0),
    (lines(row(0, revision=3)), 3),
    (lines(row(0, revision=3)) + lines(row(1, revision=4))[:100], 3),
    (lines(row(0, revision=3), row(1, revision="7")), 7),
    (lines(row(0, revision=3), row(1, revision="seven"), row(2, revision=None), row(3, revision=2.5), row(4,
    revision=True)), 3),
    (lines(row(0, revision=3), row(1, revision=10**30)), 3),
    (lines(row(0, revision=3, inputs={"x": [0.25] * 400_000})), 3),
    (lines(row(0, revision=3), row(1, id="r" * 3_000_000, arm="third")), 3),
    (lines(row(0, revision=3)) + b"\x00" * 2_000_000, 3),
    # A shadow run that began before the change ends after it.
    (lines(row(0, revision=3), row(1, event="revision", revision=4), row(2, revision=3)), 4),
], ids=["empty", "garbage", "plain", "torn", "text", "no number", "huge", "2 MB", "3 MB and refused", "zeros",
"late"])  # fmt: skip
def test_revisions_go_on(tmp_path: Path, content: bytes, revision: int) -> None:
    (tmp_path / "log.jsonl").write_bytes(content)
    assert last_revision(tmp_path / "log.jsonl") == revision


def test_revisions_go_on_after_rotation(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert last_revision(log) == 0
    (tmp_path / "log.jsonl.2.gz").write_bytes(gzip.compress(lines(row(0, revision=2))))
    assert last_revision(log) == 2
    write_log(tmp_path / "log.jsonl.1", [row(1, revision=5)])
    log.write_bytes(b"")
    assert last_revision(log) == 5
    (tmp_path / "log.jsonl.1").unlink()
    (tmp_path / "log.jsonl.1.gz").write_bytes(gzip.compress(lines(row(1, revision=5)))[:-20])
    assert last_revision(log) == 2


# The server's own file


def written(path: Path, *rows: DecisionRow) -> DecisionLog:
    log = DecisionLog(path)
    for entry in rows:
        log.write(entry)
    log.close()
    return log


def test_a_row_after_half_a_row_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    written(path, decision(0))
    with path.open("ab") as file:
        file.write(lines(row(1))[:200])
    written(path, decision(2))
    found, reading = read(path)
    assert [entry.id for entry in found] == ["r0", "r2"]
    assert reading.bad == 1


def test_a_full_disk_costs_only_the_rows_that_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = DecisionLog(path)
    size = len(to_line(decision(0))) + 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (size * 7 // 2, limit[1]))
    try:
        for number in range(40):
            log.write(decision(number))
        log._listener.stop()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    failures = log.failures
    log._listener.start()
    for number in range(40, 43):
        log.write(decision(number))
    log.close()
    found, _ = read(path)
    assert 30 <= failures <= 37
    assert log.failures == failures
    assert {"r0", "r1", "r2", "r40", "r41", "r42"} <= {entry.id for entry in found}
    assert len(found) >= 43 - failures


def test_a_row_that_cannot_be_spelled_is_counted_and_the_next_is_written(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = written(path, decision(0), decision(1, inputs={"x": [1.0]}), decision(2))
    assert log.failures == 0
    broken = replace(decision(3), inputs={"x": np.array([1j])})
    assert written(path, broken, decision(4)).failures == 1
    assert [entry.id for entry in read(path)[0]] == ["r0", "r1", "r2", "r4"]
