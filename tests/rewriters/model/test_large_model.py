"""A 3 GB model with external data: patched in seconds, in little memory, its weights neither read nor copied."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from ...tiny import wire

pytestmark = pytest.mark.slow

WIDTH, LAYERS = 8192, 3
SIZE = LAYERS * 4 * WIDTH * WIDTH * 4
MOST_SECONDS = 10
MOST_BYTES = 400e6

# ru_maxrss of the only child of a small process; of the test process itself it would be the largest of all its
# children.
MEASURE = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"code": done.returncode, "out": done.stdout, "err": done.stderr, "peak": peak}))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    assert SIZE > 3e9
    folder = tmp_path_factory.mktemp("large")
    with (folder / "model.onnx.data").open("wb") as file:
        file.truncate(SIZE)  # a hole: zeros that take no room
    weights = []
    for index in range(LAYERS * 4):
        tensor = TensorProto(
            name=f"layers.{index // 4}.{'qkvo'[index % 4]}", data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH]
        )
        tensor.data_location = TensorProto.EXTERNAL
        length = WIDTH * WIDTH * 4
        for key, value in {"location": "model.onnx.data", "offset": index * length, "length": length}.items():
            tensor.external_data.add(key=key, value=str(value))
        weights.append(tensor)
    (folder / "model.onnx").write_bytes(wire(LAYERS, WIDTH, 64, 17, weights).SerializeToString())
    return folder / "model.onnx"


def measured(*arguments: object) -> tuple[dict, float]:
    command = [sys.executable, "-m", "atpatch_onnx", *map(str, arguments)]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], capture_output=True, text=True, timeout=120, check=True
    )
    seconds = time.perf_counter() - started
    report = json.loads(done.stdout)
    assert report["code"] == 0, report["err"]
    return report, seconds


def test_patch_next_to_the_original_is_quick_small_and_shares_the_weights(large):
    data = large.parent / "model.onnx.data"
    before, names = data.stat(), {path.name for path in large.parent.iterdir()}
    report, seconds = measured("patch", large, "--detector", "statistic", "--json")
    done = json.loads(report["out"])
    assert len(done["sites"]) == LAYERS
    assert seconds < MOST_SECONDS
    assert report["peak"] < MOST_BYTES
    output = Path(done["output"])
    assert output.stat().st_size < 1e6
    assert {path.name for path in large.parent.iterdir()} == names | {output.name}
    after = data.stat()
    assert (after.st_ino, after.st_nlink, after.st_mtime_ns) == (before.st_ino, before.st_nlink, before.st_mtime_ns)
    onnx.checker.check_model(str(output))


def test_unpatch_gives_the_original_back(large):
    measured("patch", large, "--detector", "statistic", "-o", large.parent / "p.onnx")
    _, seconds = measured("unpatch", large.parent / "p.onnx", "-o", large.parent / "back.onnx")
    assert seconds < MOST_SECONDS
    assert (large.parent / "back.onnx").read_bytes() == large.read_bytes()


@pytest.mark.parametrize("link", [False, True], ids=["copy", "link"])
def test_patch_into_another_folder_takes_no_room(large, tmp_path, link):
    """A copy keeps the holes; a hard link is the same file. (Copying 3 GB of real weights takes what the disk
    takes.)
    """
    report, seconds = measured(
        "patch", large, "--detector", "statistic", "-o", tmp_path / "out.onnx", *(["--link-data"] if link else [])
    )
    assert seconds < MOST_SECONDS
    assert report["peak"] < MOST_BYTES
    data = tmp_path / "model.onnx.data"
    assert data.stat().st_size == SIZE
    assert data.stat().st_blocks * 512 < 1e6
    assert data.samefile(large.parent / "model.onnx.data") is link
    data.unlink()  # onnx refuses to read data with a second link
