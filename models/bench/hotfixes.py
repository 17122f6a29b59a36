"""A `profile` hotfix with a trained detector at every site, for any model of the table.

`fit` leaves out sites that change nothing for the better, and models with random weights have nothing to be mended; the
bench is after the dearest case, so it takes the pieces of `fit` up to the choice of sites, and keeps them all. The
debugging set is made here: texts of random tokens, half of them with one rare token somewhere, images of noise with one
bright patch; that token or patch is the labeled column. So the detectors are trained on maps of the very model, with
labels that are true, and the benign pairs are its own means.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.benchmark.inputs import random_inputs
from atpatch_onnx.errors import DataError, PlanError
from atpatch_onnx.fitting.recipes import make_recipe
from atpatch_onnx.fitting.splits import split
from atpatch_onnx.fitting.training import Context, anchor_sites, train_sites
from atpatch_onnx.hotfix.file import Hotfix, HotfixSite
from atpatch_onnx.inference.capture import Capture
from atpatch_onnx.inference.datasets import DataSet
from rewriters.finding.finder import find_sites
from rewriters.model import io as model_io

from .builders import folder

__all__ = ["ROWS", "debugging_set", "hotfix"]

ROWS, LENGTH = 128, 64
"""Of the debugging set: rows, half of them anomalous, and tokens of a text."""
RARE = 7
"""Id of the token that stands for a trigger."""
PATCH, BRIGHT = 16, 4.0
"""Pixels along a patch, and the value they are set to."""
MOST_FLAGGED = 0.01

Say = Callable[[str], None]


def hotfix(model: Path, say: Say = lambda text: None, *, every: int = 1, fresh: bool = False) -> Path:
    """The hotfix of a model of the cache, fitted where it is not there, or again.

    Args:
        every: of the detectors, see `rewriters.plan.Profile`.
    """
    path = folder() / f"{model.stem}{f'-every{every}' if every > 1 else ''}.hotfix"
    proto = model_io.load(model)
    weights = model_io.weights_digest(proto, model.parent)
    if fresh or not _fits(path, weights):
        _fit(model, proto, weights, say, every).save(path)
    return path


def _fits(path: Path, weights: str) -> bool:
    """Whether the file is a hotfix of these weights, in the format of today."""
    try:
        return Hotfix.load(path).weights == weights
    except (PlanError, DataError):
        return False


def debugging_set(proto: Any, seed: int = 0) -> DataSet:
    """Clean rows, and as many partners with one column changed."""
    half = ROWS // 2
    clean = random_inputs(proto, {"batch": half, **_length(proto)}, seed)
    generator = np.random.default_rng(seed)
    changed = {name: array.copy() for name, array in clean.items()}
    if "input_ids" in changed:
        place = generator.integers(1, LENGTH - 1, half)
        changed["input_ids"][np.arange(half), place] = RARE
        columns = np.eye(LENGTH, dtype=bool)[place]
    else:
        side = changed["pixel_values"].shape[-1] // PATCH
        patch = generator.integers(0, side * side, half)
        for row, (y, x) in enumerate(zip(*np.divmod(patch, side), strict=True)):
            changed["pixel_values"][row, :, y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH] = BRIGHT
        columns = np.eye(side * side + 1, dtype=bool)[patch + 1]  # the class token comes first
    arrays: dict[str, NDArray[Any]] = {name: np.concatenate([clean[name], changed[name]]) for name in clean}
    arrays["columns"] = np.concatenate([np.zeros_like(columns), columns])
    arrays["pair"] = np.concatenate([np.full(half, -1), np.arange(half)])
    return DataSet.from_arrays(arrays)


def _length(proto: Any) -> dict[str, int]:
    named = {axis.dim_param for value in proto.graph.input for axis in value.type.tensor_type.shape.dim}
    return {"sequence": LENGTH} if "sequence" in named else {}


def _fit(model: Path, proto: Any, weights: str, say: Say, every: int) -> Hotfix:
    data = debugging_set(proto)
    sites, _ = find_sites(proto)
    context = Context(
        proto,
        model.parent,
        data,
        split(data, 0),
        0,
        MOST_FLAGGED,
        None,
        lambda step, done, total: say(f"{step} {done}/{total}"),
    )
    columns = context.columns.shape[1]
    capture = Capture(proto, model.parent, sites, data, columns)
    assert len(capture.sites) == len(sites), capture.skipped
    rows = len(context.parts.train.rows)
    made = make_recipe("profile", capture.sites, rows, columns, 0, every)
    trained = anchor_sites(context, capture, made, train_sites(context, capture, made))
    kept = tuple(
        HotfixSite(one.site.id, layer, one.site.heads, one.site.fingerprint, one.plan)
        for layer, one in enumerate(trained)
    )
    return Hotfix(kept, 0.5, weights, groups=(tuple(site.id for site in kept),), data=data.digest, seeds={"fit": 0})
