"""The process that fits a hotfix on rows of live requests and builds the patched graph, apart from the server.

1. It is a process of its own, with a low priority and its own onnxruntime, so that requests do not wait for it: neither
   for the processor nor for the interpreter's lock.
2. Rows reach it through a pipe, never through a file. The server drops them as soon as they are sent.
3. It leaves two files in a private folder, which is removed with the server (see `temporary_folder`): the hotfix, and
   the patched graph, for onnxruntime to load.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx

from rewriters.model.external_data import external_locations

from ..errors import AtpatchError
from ..fitting.traffic.collector import Row
from ..paths import sha256_of
from .arm_graph import ArmGraph

__all__ = ["HOTFIX", "FitFailed", "FitProcess"]

HOTFIX = "model.hotfix"
_GRAPH = "patched.onnx"
_NICE = 10


class FitFailed(Exception):
    """No hotfix came of it, with the reason in one line."""


class FitProcess:
    """Starts the process, and waits for it.

    Args:
        model: path of the original.
        folder: for the two files; a hotfix that lies there is used, and nothing is fitted.
        threads: of onnxruntime and of numpy.
    """

    def __init__(self, model: Path, folder: Path, threads: int) -> None:
        self._model, self._folder, self._threads = model, folder, threads
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False

    def run(self, rows: list[Row]) -> ArmGraph:
        """Fit on rows, which are dropped once they are sent, and build the patched graph. Waits for the process.

        Raises:
            FitFailed: the process refused the rows or the model, or was ended.
        """
        paths = os.pathsep.join(path for path in sys.path if path)
        threads = {name: str(self._threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        command = [sys.executable, "-P", "-m", __name__, str(self._model), str(self._folder), str(self._threads)]
        process = self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **threads, "PYTHONPATH": paths},
            start_new_session=True,  # Ctrl+C is for the server
        )
        assert process.stdin is not None and process.stdout is not None
        if self._ended:
            process.kill()
        with suppress(BrokenPipeError), process.stdin as pipe:  # it says itself why it stopped reading
            send(rows, pipe)
        rows.clear()
        with process.stdout as pipe:
            text = pipe.read()
        status = process.wait()
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError:
            raise FitFailed(f"the process of the fit ended with status {status}") from None
        if "error" in found:
            raise FitFailed(found["error"])
        return ArmGraph(
            path=self._folder / HOTFIX,
            sha256=sha256_of(self._folder / HOTFIX),
            # A graph with external data is small, and names files next to the original.
            model=onnx.load(self._folder / _GRAPH, load_external_data=False)
            if found["external"]
            else self._folder / _GRAPH,
            folder=self._model.parent,
            sites=tuple(found["sites"]),
            untold=found["untold"],
            stamped=True,
        )

    def end(self) -> None:
        """End the process, if it runs or is about to start."""
        self._ended = True
        if self._process is not None:
            self._process.kill()


def send(rows: Iterable[Row], pipe: IO[bytes]) -> None:
    """Write rows: for each a line of JSON with types and shapes, then the bytes of the arrays."""
    for row in rows:
        arrays = {name: array.astype(str) if array.dtype.kind == "O" else array for name, array in row.items()}
        head = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
        pipe.write(json.dumps(head).encode() + b"\n" + b"".join(array.tobytes() for array in arrays.values()))


def receive(pipe: IO[bytes]) -> Iterator[Row]:
    """Read what `send` wrote."""
    while line := pipe.readline():
        row = {}
        for name, (code, shape) in json.loads(line).items():
            dtype = np.dtype(code)
            data = pipe.read(dtype.itemsize * int(np.prod(shape)))
            row[name] = np.frombuffer(data, dtype).reshape(shape)
        yield row


def _work(model: Path, folder: Path, threads: int) -> dict[str, Any]:
    """What the process does; returns what it prints."""
    # Only the process needs these, so the server does without.
    from rewriters.editing import patcher
    from rewriters.editing.observe import observe
    from rewriters.model.forms import read

    from ..fitting.traffic.fit import fit_on_traffic
    from ..hotfix.file import Hotfix
    from ..hotfix.options import PatchOptions
    from ..patching.planning import make_plan

    file = folder / HOTFIX
    if not file.exists():
        fit_on_traffic(model, list(receive(sys.stdin.buffer)), threads=threads).save(file)
    loaded = read(model)
    planned = make_plan(loaded.proto, loaded, PatchOptions(hotfix=Hotfix.load(file)))
    seen = observe(patcher.patch(loaded.proto, planned.plan, planned.sites))
    (folder / _GRAPH).write_bytes(seen.model.SerializeToString())
    return {"sites": seen.sites, "untold": seen.reason, "external": bool(external_locations(seen.model))}


def main(arguments: list[str]) -> int:
    """The process."""
    if hasattr(os, "nice"):
        os.nice(_NICE)
    model, folder, threads = arguments
    try:
        found = _work(Path(model), Path(folder), int(threads))
    except AtpatchError as error:
        found = {"error": str(error)}
    except Exception as error:  # a bug of ours: the server answers on, and its own log has the traceback
        traceback.print_exc()
        found = {"error": f"internal error, {type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
