"""`compare`: the same rows through an original, its patched twin, and any further graphs, in one run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rewriters.editing.observe import observe
from rewriters.editing.patcher import is_patched, stamp
from rewriters.finding.finder import find_sites
from rewriters.model import io as model_io
from rewriters.model.forms import Loaded, Model, PathLike, read
from rewriters.plan import PatchPlan
from rewriters.sites import Site

from ..errors import BAD_OPTION, DataError, ModelError, PlanError
from ..hotfix.file import Hotfix
from ..hotfix.plans import beside
from ..inference.datasets import Arrays, DataSet, as_dataset
from ..inference.prediction import find_prediction_output, prediction_output
from ..inference.runner import Runner
from ..inspection.inspector import count_nodes
from .exemplar import Exemplar, choose, follow
from .figures import CLEAN, FLIPS, TRIGGERED, check_sets
from .graph_runs import ORIGINAL, Graph, Progress, difference, run_graphs
from .outputs import Outputs, Truth
from .result import PATCHED, Comparison
from .timing import time_requests

if TYPE_CHECKING:
    from ..inference.tokenizer import TextEncoder

__all__ = ["BATCH", "compare"]

BATCH = 64
REQUESTS = 200
SECONDS = 3.0
"""For each kind of request, clean and flagged."""

Data = DataSet | Arrays | PathLike


def compare(
    original: Model,
    patched: Model,
    data: Data,
    *,
    triggered: Data | None = None,
    flips: Data | None = None,
    group: str | Sequence[Any] | NDArray[Any] | None = None,
    positive: int = 1,
    also: Mapping[str, Model] | None = None,
    output_name: str | None = None,
    classes: bool | None = None,
    hotfix: Hotfix | PathLike | None = None,
    tokenizer: PathLike | None = None,
    threads: int | None = None,
    batch: int = BATCH,
    providers: Sequence[str] | None = None,
    seconds: float = SECONDS,
    exemplar: bool = True,
    progress: Progress | None = None,
) -> Comparison:
    """Run original and patched graph over the same rows and keep what is needed to judge them.

    Graphs run as they are, batch by batch in turn. Flags are read from a patched graph's telemetry; where it has none,
    a second session runs a copy that gives them out.

    Args:
        original, patched: path, `onnx.ModelProto` or `onnx_ir.Model`.
        data: clean rows; with labels there is an accuracy, without them agreement alone.
        triggered: attacked rows with `target`; with `clean_row` into `data` there is an ASR*.
        flips: rows with `group`, for UF.
        group: protected attribute of the rows of `data` for group metrics: values (N,), an input's name, or
            "INPUT:INDEX".
        positive: class that is the favourable outcome there.
        also: further graphs by name, held against the same original.
        output_name: output with the class scores; None: the first float output of rank 2 with more than one column.
        classes: False for a model whose outputs are numbers; None: as its outputs look.
        hotfix: what was patched in, for pictures of attention; None: `<original>.hotfix` where that is the one.
        tokenizer: folder of a text model's tokenizer, for the words beside its columns.
        threads: of onnxruntime; None: its choice.
        batch: rows in one run, unless the graph fixes that.
        providers: execution providers; None: CPU.
        seconds: for timing single requests, clean and flagged ones each; 0: none are timed.
        exemplar: capture the attention maps of the most telling row.
        progress: called with step, rows done, rows in all.

    Raises:
        AtpatchError: ATP001-ATP005 (models), ATP050, ATP052 (onnxruntime), ATP056 (data), ATP060 (options).
    """
    if batch < 1:
        raise BAD_OPTION(f"a batch of {batch} rows", "give 1 or more")
    encoder = None if tokenizer is None else _encoder(tokenizer)
    further = {} if also is None else dict(also)
    if bad := [name for name in further if name in (ORIGINAL, PATCHED) or not name or not name.isprintable()]:
        raise BAD_OPTION(f"{bad[0]!r} cannot name a further graph", "give it a name of its own")
    sets = {CLEAN: as_dataset(data)}
    sets |= {name: as_dataset(given) for name, given in ((TRIGGERED, triggered), (FLIPS, flips)) if given is not None}
    truths = {name: Truth.of(rows, group if name == CLEAN else None) for name, rows in sets.items()}
    check_sets(truths)

    loaded = {name: read(model) for name, model in {ORIGINAL: original, PATCHED: patched, **further}.items()}
    sites, _ = find_sites(loaded[ORIGINAL].proto)
    graphs = [_graph(name, model, threads, providers) for name, model in loaded.items()]
    scores = _scores(graphs[0], sets[CLEAN], output_name, classes)
    for graph in graphs[1:]:
        if scores is not None and scores not in graph.own_outputs:
            raise BAD_OPTION(f"{graph.name} has no output {scores!r}", "compare graphs of one model")
    runs = {name: run_graphs(graphs, rows, batch, scores, name, progress) for name, rows in sets.items()}
    outputs = {graph.name: {name: runs[name][graph.name] for name in sets} for graph in graphs}
    floor = _floor(loaded[ORIGINAL], graphs[0], sets[CLEAN], batch, threads, providers)
    requests = _requests(graphs, sets, outputs[PATCHED], seconds) if seconds > 0 else {}
    setup = _setup(loaded, graphs, scores, batch, threads)
    shown = None
    if exemplar and sites and (chosen := choose(truths, outputs[ORIGINAL], outputs[PATCHED])) is not None:
        models = loaded[ORIGINAL], loaded[PATCHED]
        plan = _plan(models[0], models[1], sites, hotfix)
        shown = follow(
            (models[0].proto, observe(models[1].proto).model),
            (models[0].folder, models[1].folder),
            sites,
            plan,
            (outputs[ORIGINAL], outputs[PATCHED]),
            sets,
            chosen,
        )
    if shown is not None and encoder is not None:
        words, twin = (_words(encoder, inputs, shown) for inputs in (shown.inputs, shown.twin))
        shown = replace(shown, words=words, twin_words=twin)
    return Comparison(setup, truths, outputs, floor, requests, positive, shown)


def _graph(name: str, model: Loaded, threads: int | None, providers: Sequence[str] | None) -> Graph:
    runner = Runner(model.proto, model.folder, threads, providers=providers)
    seen = observe(model.proto)
    if not seen.sites:
        return Graph(name, runner, untold=seen.reason)
    observer = runner if seen.model is model.proto else Runner(seen.model, model.folder, threads, providers=providers)
    return Graph(name, runner, observer, seen.sites)


def _scores(graph: Graph, data: DataSet, name: str | None, classes: bool | None) -> str | None:
    """The output with class scores; None for a model without classes."""
    if classes is False:
        return None
    if name is None and classes is None:
        return find_prediction_output(graph.runner, data, graph.runner.outputs)
    return prediction_output(graph.runner, data, name)


def _floor(
    model: Loaded, graph: Graph, data: DataSet, batch: int, threads: int | None, providers: Sequence[str] | None
) -> dict[str, NDArray[np.float64]]:
    """The original against itself without graph optimisations, over the first batch; nothing where onnxruntime cannot
    run it so.
    """
    rows = np.arange(min(graph.runner.fixed_batch or batch, len(data)))
    feeds = graph.runner.feeds(data, rows)
    fused = graph.runner.run(feeds, graph.own_outputs)
    try:
        plain = Runner(model.proto, model.folder, threads, providers=providers, optimize=False)
        unfused = plain.run(feeds, graph.own_outputs)
    except ModelError:  # only onnxruntime itself can tell
        return {}
    found = {name: difference(fused[name], unfused[name], len(rows)) for name in graph.own_outputs}
    return {name: rows for name, rows in found.items() if rows is not None}


def _requests(
    graphs: Sequence[Graph], sets: Mapping[str, DataSet], patched: Mapping[str, Outputs], seconds: float
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Clean rows that nothing flags, and flagged rows of the set that has most of them."""
    found = {}
    flags = patched[CLEAN].flagged
    calm = np.arange(len(sets[CLEAN])) if flags is None else np.flatnonzero(~flags)
    if len(calm):
        found["clean"] = time_requests(graphs, sets[CLEAN], _some(calm), seconds)
    hit = {name: np.flatnonzero(run.flagged) for name, run in patched.items() if run.flagged is not None}
    most = max(hit, key=lambda name: len(hit[name]), default=None)
    if most is not None and len(hit[most]):
        found["flagged"] = time_requests(graphs, sets[most], _some(hit[most]), seconds)
    return found


def _some(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """`REQUESTS` rows from all over, again and again where there are fewer."""
    places = (
        np.linspace(0, len(rows) - 1, REQUESTS).astype(np.int64)
        if len(rows) >= REQUESTS
        else np.arange(REQUESTS) % len(rows)
    )
    return np.asarray(rows[places])


def _plan(
    original: Loaded, patched: Loaded, sites: Sequence[Site], hotfix: Hotfix | PathLike | None
) -> PatchPlan | None:
    """What was patched in, by the digest in the stamp; None where it cannot be found."""
    if isinstance(hotfix, (str, os.PathLike)):
        hotfix = Hotfix.load(hotfix)
    stamped = stamp(patched.proto).get("hotfix") if is_patched(patched.proto) else None
    if hotfix is None:
        if not stamped or not isinstance(original.source, (str, os.PathLike)):
            return None
        hotfix = _beside(Path(original.source), stamped)
        if hotfix is None:
            return None
    elif stamped and hotfix.digest != stamped:
        raise BAD_OPTION(
            f"the patched model was not made with this hotfix: stamp {stamped[:16]}, hotfix {hotfix.digest[:16]}"
        )
    plan = hotfix.plan(sites, None, force=True)
    made = set(stamp(patched.proto).get("sites", "").split())
    passes = stamp(patched.proto).get("passes", plan.passes)
    return PatchPlan(
        {name: site for name, site in plan.sites.items() if name in made},
        plan.threshold,
        passes="two" if passes == "two" else "one",
    )


def _beside(model: Path, digest: str) -> Hotfix | None:
    """The hotfix beside the model, where it is the one of that digest; pictures are no reason to fail for another."""
    path = beside(model)
    try:
        hotfix = None if path is None else Hotfix.load(path)
    except (PlanError, DataError):
        return None
    return hotfix if hotfix is not None and hotfix.digest == digest else None


def _encoder(folder: PathLike) -> TextEncoder:
    from ..inference.tokenizer import TextEncoder

    return TextEncoder(folder)


def _words(encoder: TextEncoder, inputs: Arrays, shown: Exemplar) -> tuple[str, ...]:
    """Of the input that holds a token for each column: the first with whole numbers beyond the 0 and 1 of masks and
    types.
    """
    columns = {view.flagged.size for view in shown.sites}
    for array in inputs.values():
        if array.ndim == 1 and array.dtype.kind in "iu" and array.size in columns and array.max() > 1:
            return tuple(encoder.word(int(token)) for token in array)
    return ()


def _setup(
    loaded: Mapping[str, Loaded], graphs: Sequence[Graph], scores: str | None, batch: int, threads: int | None
) -> dict[str, Any]:
    runner = graphs[0].runner
    return {
        "models": {graph.name: _model_facts(loaded[graph.name], graph) for graph in graphs},
        "scores": scores,
        "providers": list(runner.providers),
        "threads": threads,
        "cores": os.cpu_count(),
        "batch": runner.fixed_batch or batch,
        "optimisation": "all graph optimisations (ORT_ENABLE_ALL)",
        "versions": {name: version(name) for name in ("atpatch-onnx", "onnx", "numpy")}
        | {"onnxruntime": _runtime_version()},
    }


def _model_facts(model: Loaded, graph: Graph) -> dict[str, Any]:
    stamped = stamp(model.proto) if is_patched(model.proto) else {}
    return {
        "path": os.fspath(model.source) if isinstance(model.source, (str, os.PathLike)) else None,
        "digest": model_io.digest(model.proto),
        "nodes": count_nodes(model.proto),
        "patched_sites": stamped.get("sites", "").split(),
        "detector": stamped.get("detector"),
        "passes": stamped.get("passes"),
        "flags": _flags_from(graph, bool(stamped)),
    }


def _flags_from(graph: Graph, patched: bool) -> str:
    if graph.observer is None:
        return f"not known: {graph.untold}" if patched else "none: not patched"
    return "its telemetry" if graph.observer is graph.runner else "a copy of it with telemetry"


def _runtime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)
