"""The file of the decision log, on a disk that is full and in a folder where nothing can be renamed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from atpatch_onnx.decisions import Reading, read_rows
from atpatch_onnx.serve.log import DecisionLog

from .rows import ROW

_FULL = """
import resource, sys
from pathlib import Path
from atpatch_onnx.serve.log import DecisionLog
from tests.serve.rows import ROW
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
log = DecisionLog(Path(sys.argv[1]))
for _ in range(20):
    log.write(ROW)
log.close()
print(log.failures)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on files there")
def test_rows_that_a_full_disk_does_not_take_are_counted_and_later_ones_are_read(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    run = subprocess.run([sys.executable, "-c", _FULL, str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0 and not run.stderr, run.stderr
    assert path.stat().st_size == 1000  # the last row is torn
    log = DecisionLog(path)
    log.write(ROW)
    log.close()
    reading = Reading((path,))
    rows = list(read_rows([path], reading))
    assert int(run.stdout) + len(rows) == 21 and reading.bad == 1


def test_a_log_that_cannot_be_rotated_grows_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log.jsonl"
    (tmp_path / "log.jsonl.1").mkdir()
    log = DecisionLog(path, max_bytes=1000, backups=1)
    for _ in range(20):
        log.write(ROW)
    log.close()
    assert log.failures == 0 and path.stat().st_size > 2000
    assert len(list(read_rows([path], Reading((path,))))) == 20
    assert caplog.text.count("cannot be rotated") == 1
