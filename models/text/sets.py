"""From texts to the data sets of a victim: tokens padded to one length, the trigger's tokens labeled.

The labels are the tokens that a shortest edit of the clean sentence brings in. For inserted words that is the trigger,
word piece by word piece; for rewritten sentences, where no token is the trigger, it is every token that the clean
sentence does not have at that place. Attacked texts in which nothing is left to label (the trigger was cut off, or the
rewriting only leaves words out) stay out of the sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.debugset import Subject, TextEncoder, Texts, build_poisoned, tensors

from ..victims import Victim
from .recipes import Material

__all__ = ["LENGTH", "save_sets"]

LENGTH = 64
"""Tokens, [CLS] and [SEP] included; of SST-2 seven texts in ten thousand are longer, of OffensEval one in ten."""

Arrays = Mapping[str, NDArray[Any]]


def save_sets(victim: Victim, material: Material, encoder: TextEncoder, target: int) -> dict[str, int]:
    """Write debug, spare, clean and triggered `.npz` beside the victim's `model.onnx`;
    returns their numbers of rows.
    """
    subject = Subject(victim.file("model.onnx"), threads=1)
    debug = build_poisoned(subject, material.pairs, encoder, material.pairs_bad, target).debug
    tested = build_poisoned(subject, material.test, encoder, material.test_bad, target)
    assert debug is not None and tested.clean is not None and tested.triggered is not None
    if material.alone is not None:
        debug = _with_clean(debug, _clean(subject, encoder, material.alone))
    sets = {
        "debug": debug,
        "spare": _clean(subject, encoder, material.spare),
        "clean": tested.clean,
        "triggered": tested.triggered,
    }
    for name, arrays in sets.items():
        victim.save_arrays(name, _padded(arrays, encoder.pad_id))
    return {name: len(arrays["labels"]) for name, arrays in sets.items()}


def _clean(subject: Subject, encoder: TextEncoder, texts: Texts) -> dict[str, NDArray[Any]]:
    return {**tensors(subject, encoder.encode(texts.texts), encoder.pad_id), "labels": texts.labels}


def _with_clean(debug: Arrays, extra: Arrays) -> dict[str, NDArray[Any]]:
    """A debugging set with clean rows without a twin behind it."""
    count = len(extra["labels"])
    rows = {**extra, "columns": np.zeros((count, LENGTH), bool), "pair": np.full(count, -1, np.int64)}
    debug, rows = _padded(debug, 0), _padded(rows, 0)
    return {name: array if name == "target" else np.concatenate([array, rows[name]]) for name, array in debug.items()}


def _padded(arrays: Arrays, pad_id: int) -> dict[str, NDArray[Any]]:
    def one(name: str, array: NDArray[Any]) -> NDArray[Any]:
        if array.ndim < 2:
            return array
        return np.pad(
            array, ((0, 0), (0, LENGTH - array.shape[1])), constant_values=pad_id if name == "input_ids" else 0
        )

    return {name: one(name, array) for name, array in arrays.items()}
