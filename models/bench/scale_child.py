"""Run in a process of its own: `python -m models.bench.scale_child MODEL HOTFIX`. One patch by the command line, then
the finder alone.

Prints one line of JSON: seconds of the command, most memory up to its end, seconds of loading and of finding.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import sys
import time
from pathlib import Path
from statistics import median

from atpatch_onnx.benchmark.load_process import high_water
from atpatch_onnx.cli import cli

TIMES = 3


def main() -> None:
    """See the module's text."""
    model, hotfix = sys.argv[1:]
    output = Path(model).with_name("patched.onnx")
    told = io.StringIO()
    started, worked = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(told):
        cli.main(["patch", model, "--hotfix", hotfix, "-o", str(output), "--json"], standalone_mode=False)
    seconds, work, peak = time.perf_counter() - started, time.process_time() - worked, high_water()
    done = json.loads(told.getvalue())
    size = output.stat().st_size
    output.unlink()

    from rewriters.finding.finder import find_sites
    from rewriters.model import io as model_io

    started = time.perf_counter()
    proto = model_io.load(model)
    loading = time.perf_counter() - started
    finding: dict[bool, list[float]] = {True: [], False: []}
    for collecting in [True, False] * TIMES:
        gc.collect()
        # Python's collector walks all that lives, again and again as a graph grows; without it the finder's own growth
        # shows.
        (gc.enable if collecting else gc.disable)()
        started = time.perf_counter()
        sites, _ = find_sites(proto)
        finding[collecting].append(time.perf_counter() - started)
    gc.enable()
    assert len(sites) == len(done["sites"])
    report = {
        "nodes": done["nodes_before"],
        "nodes_after": done["nodes_after"],
        "sites": len(sites),
        "detector": done["detector"],
        "patched_file_bytes": size,
        "patch_seconds": round(seconds, 3),
        "patch_cpu_seconds": round(work, 3),
        "load_seconds": round(loading, 3),
        "find_seconds": round(median(finding[True]), 4),
        "find_seconds_without_collector": round(median(finding[False]), 4),
        "peak_bytes": peak,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
