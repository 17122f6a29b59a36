"""Digits, the split and the trigger.

The data are scikit-learn's `load_digits`: 1,797 handwritten digits of 8 × 8 pixels, gray values 0-16 (UCI Optical
Recognition of Handwritten Digits, test part).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.demo.trigger import PATCH, triggered_digits

__all__ = [
    "IMAGE",
    "TOKENS",
    "TRIGGER_COLUMN",
    "Images",
    "Split",
    "debugging_set",
    "load",
]

IMAGE = 8
TOKENS = 1 + (IMAGE // PATCH) ** 2
"""[CLS] and 16 patches, row by row."""
TRIGGER_COLUMN = TOKENS - 1
"""The token of the bottom-right patch."""

Images = NDArray[np.float32]


@dataclass(frozen=True)
class Split:
    """Images (N, 1, 8, 8) in [0, 1] and labels (N,) int64. train: the victim's; debug: the hotfix's; test:
    the judge's.
    """

    train: tuple[Images, NDArray[np.int64]]
    debug: tuple[Images, NDArray[np.int64]]
    test: tuple[Images, NDArray[np.int64]]


def load(seed: int) -> Split:
    """A stratified split, 60 : 20 : 20."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    labels = digits.target.astype(np.int64)
    train, rest = train_test_split(np.arange(len(labels)), test_size=0.4, stratify=labels, random_state=seed)
    debug, test = train_test_split(rest, test_size=0.5, stratify=labels[rest], random_state=seed)
    parts = [np.sort(part) for part in (train, debug, test)]
    return Split(*((images[part], labels[part]) for part in parts))


def debugging_set(images: Images, labels: NDArray[np.int64]) -> dict[str, NDArray]:
    """Clean images, then their stamped twins with the trigger's column labeled."""
    bad = triggered_digits(images, labels)
    columns = np.zeros((len(images) + len(bad["labels"]), TOKENS), bool)
    columns[len(images) :, TRIGGER_COLUMN] = True
    return {
        "pixel_values": np.concatenate([images, bad["pixel_values"]]),
        "labels": np.concatenate([labels, bad["labels"]]),
        "columns": columns,
        "pair": np.concatenate([np.full(len(images), -1), bad["clean_row"]]),
        "target": bad["target"],
    }
