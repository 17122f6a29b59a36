"""`bench`: the price of a patch, measured against its original in turns."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rewriters.model import io as model_io
from rewriters.model.forms import Model, PathLike, read

from ..errors import BAD_OPTION, EXTRA_MISSING
from ..inference.datasets import Arrays, DataSet, as_dataset
from .arms import CPU, Arm, check_provider
from .footprint import ROUNDS, Footprint, footprints
from .paired_latency import Spread, time_pairs
from .requests import Asked, Asker
from .result import Bench, Timed, ratio_interval

__all__ = ["bench", "time_requests"]

PAIRS = 200
SECONDS = 5.0
FEWEST = 10
"""Pairs that a request gets however long it takes; with fewer a median means little."""

Data = DataSet | Arrays | PathLike

Progress = Callable[[str, int, int], None]


def bench(
    original: Model,
    patched: Model,
    *,
    shapes: Sequence[Mapping[str, int]] = ({},),
    data: Data | None = None,
    flagged: Data | None = None,
    share: float = 1.0,
    threads: int = 1,
    provider: str = CPU,
    pairs: int = PAIRS,
    seconds: float = SECONDS,
    rounds: int = ROUNDS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Bench:
    """Time original and patch in turns on requests that nothing flags and on flagged ones, and weigh both.

    Args:
        original, patched: path, `onnx.ModelProto` or `onnx_ir.Model`; graphs in memory are written to a temporary
            folder first.
        shapes: sizes by the names of the graph's symbolic axes, one request of each kind for each; see `inputs`.
        data: rows for clean requests, instead of random inputs; of `shapes` only the leading axis counts then.
        flagged: rows for flagged requests; None: those of the clean ones, under a lower threshold.
        share: of a batch to be flagged where the threshold is set here, one sample at least.
        threads: within an operator.
        provider: execution provider; on CUDA inputs and outputs are bound to device memory.
        pairs, seconds: of a request, whichever is reached first, `FEWEST` pairs at least.
        rounds: processes a graph for load time and memory; 0: neither is measured.
        seed: of random inputs.
        progress: told how far each step is.

    Raises:
        AtpatchError: ATP001-ATP005 (models), ATP050-ATP052 (runtime and extras), ATP056 (data), ATP060 (options).
    """
    _check(share, threads, pairs, seconds, flagged if data is None else None)
    check_provider(provider)
    told = progress or (lambda step, done, total: None)
    setup = _setup()
    with _file(original) as first, _file(patched) as second:
        asker = Asker(first, second, threads, provider, seed)
        clean, hit = (None if rows is None else as_dataset(rows) for rows in (data, flagged))
        asked = []
        for number, shape in enumerate(shapes):
            told("requests", number, len(shapes))
            asked += asker.random(shape, share) if clean is None else asker.rows(shape, clean, hit, share)
        told("requests", len(shapes), len(shapes))
        remarks = tuple(dict.fromkeys(asker.remarks))
        if not asked:
            raise BAD_OPTION("there is nothing to time: " + "; ".join(remarks))
        del asker  # its sessions would share the caches
        timed = list(time_requests((first, second), asked, threads, provider, pairs, seconds, told))
        weighed = _weigh((first, second), asked, threads, provider, rounds, told) if rounds else None
    paths = [os.fspath(model) if isinstance(model, (str, os.PathLike)) else None for model in (original, patched)]
    return Bench((paths[0], paths[1]), timed, weighed, provider, threads, setup, remarks)


def time_requests(
    models: tuple[Path, Path],
    asked: Sequence[Asked],
    threads: int,
    provider: str = CPU,
    pairs: int = PAIRS,
    seconds: float = SECONDS,
    progress: Progress | None = None,
) -> Iterator[Timed]:
    """Every request in both graphs, timed in pairs; one pair of sessions serves all."""
    original, patched = (Arm(model, threads, provider) for model in models)
    outputs = [name for name in original.outputs if name in patched.outputs]
    for number, one in enumerate(asked):
        if progress is not None:
            progress("timing", number, len(asked))
        arms = (original.request(one.feeds, outputs), patched.request(one.feeds, outputs))
        taken = time_pairs(*arms, pairs=pairs, seconds=seconds, fewest=min(FEWEST, pairs))
        spreads = [Spread.of(column * 1e3) for column in taken.T]
        yield Timed(
            one.shape, one.kind, one.flagged, one.threshold, spreads[0], spreads[1], ratio_interval(taken), len(taken)
        )
    if progress is not None:
        progress("timing", len(asked), len(asked))


def _weigh(
    models: tuple[Path, Path], asked: Iterable[Asked], threads: int, provider: str, rounds: int, told: Progress
) -> tuple[Footprint, Footprint]:
    told("loading", 0, 1)
    requests = [(one.kind, one.feeds) for one in asked]
    original, patched = footprints(models, requests, threads=threads, provider=provider, rounds=rounds)
    told("loading", 1, 1)
    return original, patched


@contextmanager
def _file(model: Model) -> Iterator[Path]:
    """The model as a file; a graph in memory is written to a temporary folder, its external data linked there where
    that can be.
    """
    if isinstance(model, (str, os.PathLike)):
        model_io.load(model)  # refused here, with a code, rather than by onnxruntime
        yield Path(model)
        return
    loaded = read(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        model_io.save(loaded.proto, path, loaded.folder)
        yield path


def _check(share: float, threads: int, pairs: int, seconds: float, stray: Any) -> None:
    if not 0 < share <= 1:
        raise BAD_OPTION(f"a share of {share} of the batch is not in (0, 1]")
    if threads < 1 or pairs < 1 or not seconds > 0 or math.isinf(seconds):
        raise BAD_OPTION("threads, pairs and seconds must be above 0")
    if stray is not None:
        raise BAD_OPTION("flagged rows go with clean ones", "add --data")
    try:
        import_module("scipy")
    except ImportError as error:
        raise EXTRA_MISSING("bench needs scipy", "pip install 'atpatch-onnx[report]'") from error


def _setup() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": {name: version(name) for name in ("atpatch-onnx", "onnx", "numpy")}
        | {"onnxruntime": import_module("onnxruntime").__version__},
    }
