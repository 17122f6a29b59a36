"""Whether rows are coded as the model expects, judged by what it gets right: a wrong scale or wrong names of classes
would else be taken for a fault of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ROWS_MISFIT
from ..inference.datasets import DataSet
from .images import ImageLayout
from .subject import Subject

__all__ = ["FEWEST", "accuracy_of", "check_labels", "check_scale", "check_scores", "most_frequent"]

FEWEST = 40
"""Rows that a judgment needs."""
SAMPLE = 400
BELOW = 0.15
"""A model this far below the share of the most frequent class has not seen such rows, or other labels."""
BETTER = 0.2

MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
"""Of ImageNet, by channel: what most image processors subtract and divide by."""

Floats = NDArray[np.floating[Any]]


def check_labels(subject: Subject, data: DataSet, names: Sequence[str] = ()) -> float | None:
    """The accuracy on the rows; None without labels. Raises what `check_scores` does."""
    return None if data.labels is None else check_scores(subject.scores(data.inputs), data, names)


def check_scores(scores: Floats, data: DataSet, names: Sequence[str] = ()) -> float:
    """The accuracy on rows with labels.

    Args:
        scores: (N, C) of the model on the rows.
        names: of the classes, for the message.

    Raises:
        AtpatchError: ATP085 for a label that is no class of the model, and where far fewer rows are right than if it
            always answered the most frequent class.
    """
    assert data.labels is not None
    count = scores.shape[1]
    known = f" ({', '.join(names)})" if names else ""
    if len(odd := data.labels[(data.labels < 0) | (data.labels >= count)]):
        raise ROWS_MISFIT(
            f"the model has {count} classes{known}, so labels from 0 to {count - 1} were expected, and a row has"
            f" {int(odd[0])}",
            "check the column of labels and the names of the classes",
        )
    right, frequent = float((scores.argmax(1) == data.labels).mean()), most_frequent(data)
    if len(data) >= FEWEST and right < frequent - BELOW:
        order = f" with the classes in the order {', '.join(names)}" if names else ""
        raise ROWS_MISFIT(
            f"the model was expected to get more than {frequent:.0%} of the {len(data):,} rows right, the share of the"
            f" most frequent class, and gets {right:.0%}{order}",
            "check the order of the classes (--class-names), the column of labels, and the coding of the rows",
        )
    return right


def most_frequent(data: DataSet) -> float:
    """Share of the rows that have the most frequent label."""
    assert data.labels is not None
    return float(np.unique(data.labels, return_counts=True)[1].max() / len(data))


def accuracy_of(subject: Subject, data: DataSet) -> float:
    """Share of rows that the model gets right."""
    return float((subject.predictions(data.inputs) == data.labels).mean())


def check_scale(subject: Subject, data: DataSet, layout: ImageLayout) -> None:
    """Try other usual scales of pixels, where labels show which one is right.

    Raises:
        AtpatchError: ATP085 where the model gets many more rows right with pixels on another scale.
    """
    if data.labels is None or data.inputs[layout.name].dtype.kind != "f" or len(data) < FEWEST:
        return
    rows = np.linspace(0, len(data) - 1, min(len(data), SAMPLE)).astype(np.int64)
    labels = data.labels[rows]
    given = data.feeds(rows)
    pixels = given[layout.name]
    right = accuracy_of(subject, DataSet(given, labels=labels))
    if right > 1 - BETTER:
        return
    found = {
        name: accuracy_of(subject, DataSet({**given, layout.name: change(pixels).astype(pixels.dtype)}, labels=labels))
        for name, change in _scales(layout).items()
    }
    best = max(found, key=lambda name: found[name], default="")
    if found and found[best] >= right + BETTER:
        raise ROWS_MISFIT(
            f"pixels {best} were expected: then the model gets {found[best]:.0%} of {len(rows)} rows right; found were"
            f" pixels from {layout.low:g} to {layout.high:g}, with which it gets {right:.0%}",
            "scale the images as for training",
        )


def _scales(layout: ImageLayout) -> Mapping[str, Callable[[Floats], Floats]]:
    """Other scales by name, from what the range of the pixels shows."""
    if layout.low < 0:
        return {"from 0 to 1": lambda x: (x + 1) / 2} if layout.low >= -1 and layout.high <= 1 else {}
    top = 255 if layout.high > 1.5 else 1
    scales: dict[str, Callable[[Floats], Floats]] = {"from -1 to 1": lambda x: x / top * 2 - 1}
    if top == 255:
        scales["from 0 to 1"] = lambda x: x / 255
    else:
        scales["from 0 to 255"] = lambda x: x * 255
    if layout.channel_axis is not None:
        shape = [1, 1, 1, 1]
        shape[layout.channel_axis + 1] = -1
        scales["normalized by ImageNet's mean and deviation"] = lambda x: (
            (x / top - MEAN.reshape(shape)) / STD.reshape(shape)
            if x.shape[layout.channel_axis + 1] == len(MEAN)  # type: ignore[operator]
            else x
        )
    return scales
