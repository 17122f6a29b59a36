"""Run in a fresh process (`python -P load_process.py`): what loading and running one graph costs. Imports nothing
but onnxruntime.

Standard input: JSON with model, threads, provider, memory_patterns, requests (one .npz file each) and loads. Standard
output: one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def high_water() -> int:
    """Peak resident memory of this process, in bytes."""
    if sys.platform == "win32":
        return _windows_high_water()
    else:
        import resource

        status = Path("/proc/self/status")
        if status.is_file():
            # Not ru_maxrss, which a child starts with at its parent's mark.
            return int(status.read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _load(asked: dict[str, Any]) -> tuple[Any, float]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = asked["threads"]
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = asked["memory_patterns"]
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(asked["model"], options, providers=[asked["provider"]])
    return session, time.perf_counter() - start


if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    class _Memory(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS of psapi.h."""

        _fields_ = (
            ("cb", wintypes.DWORD),
            ("PageFaultCount", wintypes.DWORD),
            ("PeakWorkingSetSize", ctypes.c_size_t),
            ("others", ctypes.c_size_t * 7),
        )

    def _windows_high_water() -> int:
        memory = _Memory(cb=ctypes.sizeof(_Memory))
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel.GetCurrentProcess.restype = wintypes.HANDLE
        arguments = (wintypes.HANDLE, ctypes.POINTER(_Memory), wintypes.DWORD)
        kernel.K32GetProcessMemoryInfo.argtypes = arguments
        if not kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(memory), memory.cb):
            raise ctypes.WinError(ctypes.get_last_error())
        return int(memory.PeakWorkingSetSize)


def main() -> None:
    """Load, run every request twice, then load again and again."""
    asked = json.load(sys.stdin)
    import numpy as np
    import onnxruntime  # noqa: F401 - before the idle mark is taken

    idle = high_water()
    session, seconds = _load(asked)
    report: dict[str, Any] = {"idle": idle, "loaded": high_water(), "ran": {}, "load_seconds": [seconds]}
    taken = {value.name for value in (*session.get_inputs(), *session.get_overridable_initializers())}
    for kind, file in asked["requests"]:
        with np.load(file) as arrays:
            feeds = {name: arrays[name] for name in arrays.files if name in taken}
        for value in session.get_inputs():  # a patched graph may require its runtime controls
            if value.name == "atpatch_enabled":
                feeds.setdefault(value.name, np.array(True))
            elif value.name == "atpatch_threshold":
                default = session.get_modelmeta().custom_metadata_map["atpatch.threshold"]
                feeds.setdefault(value.name, np.array(float(default), np.float32))
            elif value.name == "atpatch_span":
                feeds.setdefault(value.name, np.zeros((1, 2), np.int64))
        for _ in range(2):
            session.run(None, feeds)
        report["ran"][kind] = high_water()
    for _ in range(asked["loads"]):
        session = None
        session, seconds = _load(asked)
        report["load_seconds"].append(seconds)
    print(json.dumps(report))  # noqa: T201


if __name__ == "__main__":
    main()
