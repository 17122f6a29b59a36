"""`compare`: runs the original, the patched model and any further graphs on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np
from numpy.typing import NDArray

from rewriters.editing.observe import observe
from rewriters.finding.finder import find_sites
from rewriters.model.forms import Loaded, Model, PathLike
from rewriters.sites import Site

from ..errors import BAD_OPTION, ModelError
from ..inference.datasets import Arrays, DataSet, as_dataset
from ..inference.output_kinds import CLASSES, kind_of
from ..inference.prediction import check_target, find_prediction_output, prediction_output
from ..inference.runner import Runner
from ..inference.single_scores import check_two_classes, find_threshold
from .by_twin import ByTwin, find_by_twin, truths_by_twin
from .decoding import Decoding, find_decoding, time_steps
from .examples import pick_examples
from .exemplar import Exemplar, choose, follow
from .figures import CLEAN, FLIPS, TRIGGERED, check_sets
from .graph_runs import ORIGINAL, Graph, Progress, difference, run_graphs
from .model_order import read_models
from .options import CompareKeywords, CompareOptions
from .outputs import Outputs, Truth
from .patched_in import patched_in, words_of
from .result import PATCHED, Comparison
from .rivals import Rivals, rival_outputs
from .setup import describe_setup, length_warnings
from .timing import spread_over, time_both

if TYPE_CHECKING:
    from ..inference.tokenizer import TextEncoder

__all__ = ["compare"]

Data = DataSet | Arrays | PathLike


def compare(
    original: Model,
    patched: Model,
    data: Data,
    *,
    triggered: Data | None = None,
    flips: Data | None = None,
    also: Mapping[str, Model] | None = None,
    rivals: Rivals | None = None,
    progress: Progress | None = None,
    **options: Unpack[CompareKeywords],
) -> Comparison:
    """Run the original and the patched graph on the same rows and keep what is needed to judge them.

    Graphs run unchanged, batch by batch in turn. Flags are read from a patched graph's telemetry; where it has none,
    a second session runs a copy with flags as outputs.

    Args:
        original, patched: path, `onnx.ModelProto` or `onnx_ir.Model`.
        data: clean rows; with labels there is an accuracy, without them only agreement.
        triggered: attacked rows with `target`; with `clean_row` into `data` there is an ASR*.
        flips: rows with `group`, for UF.
        also: further graphs by name, compared with the same original.
        rivals: of a table's protected attribute: plain ways to fairness, judged on the same rows.
        progress: called with step, rows done, rows in all.
        options: fields of `CompareOptions`.

    Returns:
        outputs of both on every row, with the figures, the verdict and `to_json` made from them.

    Raises:
        AtpatchError: ATP001-ATP005 (models), ATP050, ATP052 (onnxruntime), ATP056, ATP085 (data), ATP060 (options).
    """
    told = CompareOptions(**options)
    encoder = None if told.tokenizer is None else _encoder(told.tokenizer)
    loaded = read_models({ORIGINAL: original, PATCHED: patched, **_further(also)})
    sets = {CLEAN: as_dataset(data)}
    sets |= {name: as_dataset(given) for name, given in ((TRIGGERED, triggered), (FLIPS, flips)) if given is not None}
    kind = kind_of(told.output_kind, *(one.output_kind for one in sets.values()))
    truths = _truths(sets, kind, told)
    sites, _ = find_sites(loaded[ORIGINAL].proto)
    graphs, scores, special = _graphs(loaded, sets[CLEAN], kind, told)
    runs = {name: run_graphs(graphs, rows, told.batch, scores, name, progress) for name, rows in sets.items()}
    outputs = {graph.name: {name: runs[name][graph.name] for name in sets} for graph in graphs}
    if special is not None:
        outputs = special.completed(sets, truths, outputs, progress)
    elif TRIGGERED in sets and (given := outputs[ORIGINAL][CLEAN].scores) is not None:
        check_target(sets[TRIGGERED].target, given.shape[1])
    if rivals is not None and scores is not None:
        outputs |= rival_outputs(rivals, sets, outputs[ORIGINAL], _asked(graphs[0], scores, told.batch), told.positive)
    floor = _floor(loaded[ORIGINAL], graphs[0], sets[CLEAN], told)
    requests = time_both(graphs, sets, outputs[PATCHED], told.seconds) if told.seconds > 0 else {}
    setup = describe_setup(loaded, graphs, scores, told) | {"lengths": length_warnings(loaded[PATCHED], sets)}
    setup |= special.setup(setup) if isinstance(special, ByTwin) else {}
    found = Comparison(setup, truths, outputs, floor, requests, told.positive)
    if isinstance(special, Decoding):
        return _decoded(found, special, sets, encoder, told)
    shown = _exemplar(loaded, sites, sets, truths, outputs, told) if told.exemplar and sites else None
    shown = shown if shown is None or encoder is None else _with_words(encoder, shown)
    return replace(found, exemplar=shown)


def _truths(sets: Mapping[str, DataSet], kind: str, options: CompareOptions) -> dict[str, Truth]:
    """What is known of the rows of each set."""
    truths = {name: Truth.of(rows, options.group if name == CLEAN else None) for name, rows in sets.items()}
    truths = truths if kind == CLASSES else truths_by_twin(truths)
    for rows in sets.values() if kind == CLASSES and options.score_threshold is not None else ():
        check_two_classes(rows)
    check_sets(truths)
    return truths


def _decoded(
    found: Comparison,
    decoding: Decoding,
    sets: Mapping[str, DataSet],
    encoder: TextEncoder | None,
    options: CompareOptions,
) -> Comparison:
    """With decode steps timed, names of the classes, and examples."""
    requests = dict(found.requests)
    if options.seconds > 0 and decoding.caches:
        rows = spread_over(np.arange(len(sets[CLEAN])))
        requests["step"] = time_steps(decoding.graphs, sets[CLEAN], rows, options.seconds)
    setup = {**found.setup, "answers": decoding.facts(_class_words(decoding, found.outputs, encoder))}
    examples = pick_examples(found.truths, sets, found.outputs, encoder) if options.exemplar else ()
    return replace(found, setup=setup, requests=requests, examples=examples)


def _graphs(
    loaded: Mapping[str, Loaded], data: DataSet, kind: str, options: CompareOptions
) -> tuple[list[Graph], str | None, Decoding | ByTwin | None]:
    """The graphs, the output with class scores, and how decoders and models without classes are run."""
    graphs = [Graph.of(name, model, options.threads, options.providers) for name, model in loaded.items()]
    folders = [one.folder for one in loaded.values()]
    folders += [] if options.tokenizer is None else [Path(options.tokenizer)]
    special: Decoding | ByTwin | None = find_by_twin(graphs, data, kind, options, folders)
    scores: str | None
    if special is None and options.score_threshold is not None:
        scores, threshold = find_threshold(graphs[0].runner, data, options.output_name, options.score_threshold)
        graphs = [replace(graph, classes=threshold) for graph in graphs]
    else:
        special = find_decoding(graphs, data, options, folders) if special is None else special
        graphs = graphs if special is None else special.graphs
        scores = _scores(graphs[0], data, options) if special is None else special.output
    for graph in graphs[1:]:
        if scores is not None and scores not in graph.own_outputs:
            raise BAD_OPTION(f"{graph.name} has no output {scores!r}", "compare graphs of one model")
    return graphs, scores, special


def _further(also: Mapping[str, Model] | None) -> dict[str, Model]:
    further = {} if also is None else dict(also)
    if bad := [name for name in further if name in (ORIGINAL, PATCHED) or not name or not name.isprintable()]:
        raise BAD_OPTION(f"{bad[0]!r} cannot name a further graph", "give it a name of its own")
    return further


def _with_words(encoder: TextEncoder, shown: Exemplar) -> Exemplar:
    words, twin = (words_of(encoder, inputs, shown) for inputs in (shown.inputs, shown.twin))
    return replace(shown, words=words, twin_words=twin)


def _scores(graph: Graph, data: DataSet, options: CompareOptions) -> str | None:
    """The output with class scores; None for a model without classes."""
    name, classes = options.output_name, options.classes
    if classes is False:
        return None
    if name is None and classes is None:
        return find_prediction_output(graph.runner, data)
    return prediction_output(graph.runner, data, name)


def _asked(graph: Graph, scores: str, batch: int) -> Callable[[DataSet], NDArray[np.float32]]:
    """Class scores (N, C) of a graph for a set."""

    def ask(data: DataSet) -> NDArray[np.float32]:
        found = run_graphs([graph], data, batch, scores, "rivals")[graph.name].scores
        assert found is not None
        return found

    return ask


def _floor(model: Loaded, graph: Graph, data: DataSet, options: CompareOptions) -> dict[str, NDArray[np.float64]]:
    """Differences of the original from itself without graph optimizations, on the first batch.

    Nothing where onnxruntime cannot run it so.
    """
    rows = np.arange(min(graph.runner.fixed_batch or graph.runner.at_most(data, options.batch), len(data)))
    feeds = graph.runner.feeds(data, rows)
    fused = graph.runner.run(feeds, graph.own_outputs)
    try:
        plain = Runner(model.proto, model.folder, options.threads, providers=options.providers, optimize=False)
        unfused = graph.runner.alike(plain).run(feeds, graph.own_outputs)
    except ModelError:  # only onnxruntime knows whether it can run it
        return {}
    found = {name: difference(fused[name], unfused[name], len(rows)) for name in graph.own_outputs}
    return {name: rows for name, rows in found.items() if rows is not None}


def _exemplar(
    loaded: Mapping[str, Loaded],
    sites: Sequence[Site],
    sets: Mapping[str, DataSet],
    truths: Mapping[str, Truth],
    outputs: Mapping[str, Mapping[str, Outputs]],
    options: CompareOptions,
) -> Exemplar | None:
    """The row that shows best what the patch does, with its attention maps; None where no row shows anything."""
    chosen = choose(truths, outputs[ORIGINAL], outputs[PATCHED])
    if chosen is None:
        return None
    original, patched = loaded[ORIGINAL], loaded[PATCHED]
    found = follow(
        (original.proto, observe(patched.proto).model),
        (original.folder, patched.folder),
        sites,
        patched_in(original, patched, sites, options.hotfix),
        (outputs[ORIGINAL], outputs[PATCHED]),
        sets,
        chosen,
    )
    if options.score_threshold is None and not outputs[ORIGINAL][CLEAN].by_twin:
        return found
    return replace(found, before=None, after=None, clean=None)  # a score is no probability, nor is a cosine


def _encoder(folder: PathLike) -> TextEncoder:
    from ..inference.tokenizer import TextEncoder

    return TextEncoder(folder)


def _class_words(
    decoding: Decoding, outputs: Mapping[str, Mapping[str, Outputs]], encoder: TextEncoder | None
) -> dict[int, str]:
    """Class → its token as text; empty without a tokenizer."""
    if encoder is None:
        return {}
    if decoding.tokens is not None:
        return {name: encoder.text([token]) for name, token in enumerate(decoding.tokens)}
    classes = outputs[ORIGINAL][CLEAN].classes
    assert classes is not None
    return {token: encoder.text([token]) for token in classes.tolist()}
