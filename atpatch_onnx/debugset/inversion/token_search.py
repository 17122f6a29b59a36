"""Trigger inversion over all classes of a model that reads tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import NOT_DIFFERENTIABLE
from ...inference.datasets import DataSet
from ..sets import Anomalous, Built, triggered_sets
from ..subject import Subject
from ..text import token_input
from .common import Progress, chosen, classes, finish, key, prepare, stepper
from .rows import TokenRows, token_rows
from .state import State
from .verdict import by_success
from .words import TokenSearch

__all__ = ["invert_tokens"]

Word = Callable[[int], str]


def invert_tokens(
    subject: Subject,
    data: DataSet,
    asked: Sequence[int] | None,
    *,
    longest: int,
    exhaustive: bool,
    word: Word | None,
    seed: int,
    state_path: Path | None,
    progress: Progress,
) -> Built:
    """Search a trigger of tokens.

    Args:
        longest: tokens of a trigger, at most.
        exhaustive: try every token of the vocabulary in one row of each class, too.
        word: token id → its text, for the report.

    Raises:
        AtpatchError: ATP056 (no token input), ATP060 (classes), ATP082 (no gradients, or no embedding table).
    """
    clean = subject.complete(data)
    ids = token_input(subject)
    graph, output, predictions, count = prepare(subject, clean)
    embedding = graph.embedding(ids)
    if embedding is None:
        raise NOT_DIFFERENTIABLE(f"no embedding table is read at the ids of {ids!r}")
    rows = token_rows(subject, clean.inputs)
    special = np.unique([*rows.ids[:, : rows.prefix].reshape(-1), *_endings(rows), rows.pad])
    candidates = np.setdiff1d(np.arange(len(embedding.table)), special)
    searched = classes(asked, count, predictions)
    state = State(state_path, key(subject, clean, seed, f"{longest} {exhaustive}"))
    search = TokenSearch(subject, graph, embedding, rows, predictions, candidates, output, seed)
    scans = _scans(search, state, np.unique(predictions).tolist() if exhaustive else (), progress)
    # The other classes are searched even if one is named: a class can only be odd compared with others.
    targets = classes(None, count, predictions)
    traces, triggers = _triggers(search, state, targets, scans, longest, progress)
    described = {
        target: {
            "tokens": list(tokens),
            "length": len(tokens),
            **({"words": [word(token) for token in tokens]} if word else {}),
        }
        for target, tokens in triggers.items()
    }
    counts = {target: max(1, int((predictions != target).sum()) - search.sample) for target in traces}
    verdicts = [verdict for verdict in by_success(traces, counts, described) if verdict.target in searched]
    attacked = chosen(verdicts, asked)
    if attacked is None:
        return finish(subject, Built(None), verdicts, state)
    truth = predictions if clean.labels is None else clean.labels
    wide, anomalous = _inserted(clean, rows, ids, truth, attacked, triggers[attacked], seed)
    built = triggered_sets(wide, anomalous, attacked, {"trigger": "inverted"})
    return finish(subject, built, verdicts, state)


def _scans(search: TokenSearch, state: State, sources: Iterable[int], progress: Progress) -> dict[int, Any]:
    """Class → scores of one of its rows with each token of the vocabulary in it."""
    scans = {}
    for source in sources:
        if (scan := state.get(f"scan_{source}")) is None:
            scan = search.scan(source, stepper(progress, f"vocabulary in a row of class {source}"))
            state.put({f"scan_{source}": scan})
        scans[source] = scan
    return scans


def _triggers(
    search: TokenSearch, state: State, targets: Iterable[int], scans: dict[int, Any], longest: int, progress: Progress
) -> tuple[dict[int, list[float]], dict[int, tuple[int, ...]]]:
    """Class → success by length, and class → tokens of the trigger found for it."""
    traces: dict[int, list[float]] = {}
    triggers: dict[int, tuple[int, ...]] = {}
    for target in targets:
        stored, tokens = state.get(f"trace_{target}"), state.get(f"tokens_{target}")
        if stored is None or tokens is None:
            trace = search.search(target, _gains(scans, target), longest, stepper(progress, f"class {target}"))
            stored, tokens = np.array([one.success for one in trace]), np.array(trace[-1].tokens)
            state.put({f"trace_{target}": stored, f"tokens_{target}": tokens})
        traces[target], triggers[target] = stored.tolist(), tuple(tokens.tolist())
    return traces, triggers


def _inserted(
    clean: DataSet, rows: TokenRows, ids: str, truth: Any, attacked: int, trigger: tuple[int, ...], seed: int
) -> tuple[DataSet, Anomalous]:
    """Clean rows and rows with the trigger, all padded to the same length."""
    open_to = np.flatnonzero(truth != attacked)
    carriers = rows.take(open_to)
    places = carriers.places(np.random.default_rng(seed))
    inserted, columns = carriers.insert(np.tile(np.array(trigger), (len(open_to), 1)), places)
    width = inserted.ids.shape[1]

    def widened(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {name: _widen(name, array, width, rows.pad, ids) for name, array in inputs.items()}

    return (
        DataSet(widened(clean.inputs), labels=clean.labels),
        Anomalous(widened(inserted.inputs), columns, open_to),
    )


def _gains(scans: dict[int, Any], target: int) -> Any:
    """(V',) smallest margin towards the class over the carriers of all others."""
    margins = [
        scan[:, target] - np.delete(scan, target, 1).max(1) for source, scan in scans.items() if source != target
    ]
    return np.min(margins, 0) if margins else None


def _endings(rows: TokenRows) -> list[int]:
    last = rows.lengths - 1
    return [
        int(token) for back in range(rows.suffix) for token in np.unique(rows.ids[np.arange(len(rows)), last - back])
    ]


def _widen(name: str, array: Any, width: int, pad: int, ids: str) -> Any:
    filler = pad if name == ids else 0
    return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=filler)
