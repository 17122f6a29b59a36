"""An alarm on hidden states, for attacks that no column shows: one linear score, learned from labeled attacks.

1. It reads the states of the patched sites, each as its mean over tokens (`rewriters.editing.alarm`).
2. The weights are those of a ridge regression of "is an attack" on the train part, each number of a state in units of
   its spread among clean rows. It is solved row by row against row, so its cost is that of the rows, not of the width.
3. The bias comes from the clean rows of the selection part, which made no weight: so that no more than the allowed
   share of new clean requests is expected above 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rewriters.editing.alarm import pooled_states
from rewriters.finding.hidden_states import hidden_states
from rewriters.names import ALARM
from rewriters.plan import Alarm, AlarmLayer
from rewriters.sites import Site

from ..errors import BAD_OPTION, DATA_MALFORMED, NOT_ADMITTED
from ..hotfix.evidence import AlarmFigures
from ..hotfix.file import Hotfix
from ..inference.prediction import batch_size
from ..inference.runner import Runner
from .judge import Judge, against_bound, rate
from .training import Context

__all__ = ["with_alarm"]

RIDGE = 1.0
"""Of the mean eigenvalue: chosen on development rows, where 0.3 to 3 do equally well."""
TINY = 1e-6
"""A spread below this is rounding: the state is the same in every request."""

Floats = NDArray[np.float64]


def with_alarm(
    hotfix: Hotfix, context: Context, sites: Sequence[Site], output: str, judge: Judge, most: float
) -> Hotfix:
    """The hotfix with an alarm, and what that says on the report part.

    Args:
        sites: all sites of the model.
        output: with the class scores.
        most: share of clean requests that may raise it.

    Raises:
        AtpatchError: ATP023 where the graph shows no hidden states, or is healed; ATP056 where there are too few clean
            rows for the share; ATP060 where nothing can be learned from the rows.
    """
    hotfix = replace(hotfix, alarm=_fit(hotfix, context, sites, most))
    data, part = context.data, context.parts.report
    runner = context.serve(hotfix.plan(sites, None), sites, output).runner
    predictions, told = np.full(len(data), -1, np.int64), np.zeros(len(data), bool)
    for chunk, outputs in runner.batches(data, part.rows, batch_size(runner), [output, ALARM], hotfix.threshold):
        predictions[chunk], told[chunk] = outputs[output][: len(chunk)].argmax(1), outputs[ALARM][: len(chunk)]
    clean = rate(told[part.clean])
    figures: AlarmFigures = {
        "clean": clean,
        "clean_bound": against_bound(clean, most),
        "attacks": rate(told[part.anomalous]),
        "left": rate(told[judge.working(part, predictions)]),
    }
    return replace(hotfix, evidence={**hotfix.evidence, "report": {**hotfix.evidence["report"], "alarm": figures}})


def _fit(hotfix: Hotfix, context: Context, sites: Sequence[Site], most: float) -> Alarm:
    parts, data = context.parts, context.data
    if not len(parts.train.anomalous) or data.group is not None:
        raise BAD_OPTION(
            "an alarm is learned from attacks of a debugging set, by a fit whose detectors are",
            "leave --alarm out, or give --debug and no detector for clean rows only",
        )
    clean = len(parts.selection.clean)
    rank = math.ceil((clean + 1) * (1 - most))
    if rank > clean:
        raise DATA_MALFORMED(
            f"{clean} clean rows to set the bar of an alarm cannot show a share of {most:g}",
            f"give more with --clean, about {math.ceil(4 / most)} in all; or allow more with --max-alarms",
        )
    patched = {site.id for site in hotfix.sites}
    found = {name: state for name, state in hidden_states(context.model).items() if name in patched}
    if not found or hotfix.mend == "heal":
        raise NOT_ADMITTED(
            "an alarm needs patched sites that read hidden states (samples, tokens, width) of the request's tokens, and"
            " a whole first run, which healing has not",
            "leave --alarm out",
        )
    model, names = pooled_states(context.model, sites, found)
    runner = Runner(model, context.folder, context.threads).without_padding(context.mask)
    states = np.zeros((len(data), sum(state.width for state in found.values())))
    rows = np.concatenate([parts.train.rows, parts.selection.clean])
    context.progress("alarm", 0, 1)
    for chunk, outputs in runner.batches(data, rows, batch_size(runner), [*names.values()]):
        states[chunk] = np.concatenate([outputs[name] for name in names.values()], axis=1)[: len(chunk)]
    weight = _ridge(states[parts.train.clean], states[parts.train.anomalous])
    bar = np.sort(states[parts.selection.clean] @ weight)[rank - 1]
    context.progress("alarm", 1, 1)
    cuts = np.cumsum([state.width for state in found.values()])[:-1]
    pieces = zip(found, np.split(weight.astype(np.float32), cuts), strict=True)
    return Alarm(tuple(AlarmLayer(name, piece) for name, piece in pieces), -float(bar))


def _ridge(clean: Floats, attacked: Floats) -> Floats:
    """Weights (D,) of states (N, D)."""
    spread = clean.std(0)
    spread[spread <= TINY * np.abs(clean).max()] = np.inf
    rows = np.concatenate([clean, attacked]) / spread
    wanted = np.repeat([0.0, 1.0], [len(clean), len(attacked)])
    rows -= rows.mean(0)
    inner = rows @ rows.T
    inner[np.diag_indices(len(inner))] += RIDGE * np.trace(inner) / len(inner)
    return np.asarray(rows.T @ np.linalg.solve(inner, wanted - wanted.mean()) / spread)
