"""`bench`: what a patch costs; original and patch are measured in turns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Unpack

import onnx

from rewriters.editing.patcher import is_patched, stamp
from rewriters.model import io as model_io
from rewriters.model.forms import Model, PathLike, read

from ..errors import BAD_OPTION, EXTRA_MISSING
from ..inference.datasets import Arrays, DataSet, as_dataset
from ..inspection.inspector import count_nodes
from ..inspection.model_order import refuse_swapped
from ..paths import temporary_folder
from .arms import Arm, check_provider
from .footprint import Footprint, footprints
from .options import BenchKeywords, BenchOptions
from .paired_latency import Spread, time_pairs
from .requests import Asked, Asker
from .result import Bench, Timed, ratio_interval

__all__ = ["bench", "time_requests"]

FEWEST = 10
"""Fewest pairs of a request, however long they take; a median of fewer says little."""

Data = DataSet | Arrays | PathLike

Progress = Callable[[str, int, int], None]


def bench(
    original: Model,
    patched: Model,
    *,
    shapes: Sequence[Mapping[str, int]] = ({},),
    data: Data | None = None,
    flagged: Data | None = None,
    progress: Progress | None = None,
    **options: Unpack[BenchKeywords],
) -> Bench:
    """Time original and patch in turns on requests that nothing flags and on flagged ones; measure memory, loading
    and size of both.

    Args:
        original, patched: path, `onnx.ModelProto` or `onnx_ir.Model`; graphs in memory are written to a temporary
            folder first.
        shapes: sizes by the names of the graph's symbolic axes, one request of each kind for each; see `inputs`.
        data: rows for clean requests, instead of random inputs; of `shapes` only the leading axis counts then.
        flagged: rows for flagged requests; None: those of the clean ones, under a lower threshold.
        progress: called with the step, the parts done, and the number of parts.
        options: fields of `BenchOptions`.

    Returns:
        times in milliseconds and their ratios with 95 % intervals; bytes and milliseconds of loading where they were
        taken.

    Raises:
        AtpatchError: ATP001-ATP005 (models), ATP050-ATP052 (runtime and extras), ATP056 (data), ATP060 (options).
    """
    chosen = BenchOptions(**options)
    if flagged is not None and data is None:
        raise BAD_OPTION("flagged rows go with clean ones", "add --data")
    _require_extra()
    check_provider(chosen.provider)
    report = progress or (lambda step, done, total: None)
    setup = _setup()
    with _file(original) as (first, one), _file(patched) as (second, other):
        refuse_swapped((str(first), str(second)), (is_patched(one), is_patched(other)), "atpatch-onnx bench")
        nodes, sites = (count_nodes(one), count_nodes(other)), len(stamp(other).get("sites", "").split())
        del one, other
        asker = Asker(first, second, chosen.threads, chosen.provider, chosen.seed)
        clean, hit = (None if rows is None else as_dataset(rows) for rows in (data, flagged))
        asked = []
        for number, shape in enumerate(shapes):
            report("requests", number, len(shapes))
            asked += asker.random(shape, chosen.share) if clean is None else asker.rows(shape, clean, hit, chosen.share)
        report("requests", len(shapes), len(shapes))
        remarks = tuple(dict.fromkeys(asker.remarks))
        if not asked:
            raise BAD_OPTION("there is nothing to time: " + "; ".join(remarks))
        del asker  # its sessions would share the caches
        timed = list(time_requests((first, second), asked, chosen, report))
        weighed = _weigh((first, second), asked, chosen, report) if chosen.rounds else None
    paths = [os.fspath(model) if isinstance(model, (str, os.PathLike)) else None for model in (original, patched)]
    return Bench((paths[0], paths[1]), timed, weighed, chosen.provider, chosen.threads, setup, remarks, nodes, sites)


def time_requests(
    models: tuple[Path, Path],
    asked: Sequence[Asked],
    options: BenchOptions,
    progress: Progress | None = None,
) -> Iterator[Timed]:
    """Every request in both graphs, timed in pairs; one pair of sessions serves all."""
    original, patched = (Arm(model, options.threads, options.provider) for model in models)
    outputs = [name for name in original.outputs if name in patched.outputs]
    for number, one in enumerate(asked):
        if progress is not None:
            progress("timing", number, len(asked))
        arms = (original.request(one.feeds, outputs), patched.request(one.feeds, outputs))
        taken = time_pairs(*arms, pairs=options.pairs, seconds=options.seconds, fewest=min(FEWEST, options.pairs))
        spreads = [Spread.of(column * 1e3) for column in taken.T]
        yield Timed(
            one.shape, one.kind, one.flagged, one.threshold, spreads[0], spreads[1], ratio_interval(taken), len(taken)
        )
    if progress is not None:
        progress("timing", len(asked), len(asked))


def _weigh(
    models: tuple[Path, Path], asked: Iterable[Asked], options: BenchOptions, report: Progress
) -> tuple[Footprint, Footprint]:
    report("loading", 0, 1)
    requests = [(one.kind, one.feeds) for one in asked]
    original, patched = footprints(
        models, requests, threads=options.threads, provider=options.provider, rounds=options.rounds
    )
    report("loading", 1, 1)
    return original, patched


@contextmanager
def _file(model: Model) -> Iterator[tuple[Path, onnx.ModelProto]]:
    """The model as a file, and as a graph without external data. A graph in memory is written to a temporary folder,
    its external data linked there where that can be.
    """
    if isinstance(model, (str, os.PathLike)):
        yield Path(model), model_io.load(model)  # refused here, with a code, rather than by onnxruntime
        return
    loaded = read(model)
    with temporary_folder() as folder:
        path = folder / "model.onnx"
        model_io.save(loaded.proto, path, loaded.folder)
        yield path, loaded.proto


def _require_extra() -> None:
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
