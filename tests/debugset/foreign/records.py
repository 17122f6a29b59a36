"""A record of BackdoorBench and tables of OpenBackdoor, written as these tools write them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

__all__ = ["Row", "attack_texts", "digit_record", "save_data", "set_one_bd_sample"]

Row = tuple[str, int, int]


def set_one_bd_sample(folder: Path, index: int, image: np.ndarray, label: int) -> None:
    """An image (H, W) or (H, W, 3) of bytes, under its true class.

    After SCLBD/BackdoorBench, utils/bd_dataset_v2.py: `set_one_bd_sample` and `poisonedCLSDataContainer.setitem`.
    """
    (folder / f"{label}").mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / f"{label}" / f"{index}.png")


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def digit_record(folder: Path, images: np.ndarray, labels: np.ndarray, target: int, trap: Path) -> Path:
    """`record/badnet`: a white square of 2 × 2 on all test images (N, 8, 8) that are not of the target class.

    After SCLBD/BackdoorBench, attack/badnet.py (which images, which names), attack/prototype.py, `prepare` (the log),
    and utils/save_load_attack.py, `save_attack_result`.

    Args:
        trap: a folder that appears if anybody reads the pickled files.
    """
    record = folder / "record" / "badnet"
    for index in np.flatnonzero(labels != target).tolist():
        image = images[index].copy()
        image[-2:, -2:] = 255
        set_one_bd_sample(record / "bd_test_dataset", index, image, int(labels[index]))
    for index in range(0, len(labels), 10):  # the share of the training images, of all classes
        image = images[index].copy()
        image[-2:, -2:] = 255
        set_one_bd_sample(record / "bd_train_dataset", index, image, int(labels[index]))
    torch.save({"attack_target": target, "trap": Runs(trap)}, record / "info.pickle")
    torch.save({"model_name": "vit", "bd_test": Runs(trap)}, record / "attack_result.pt")
    (record / "2026_01_05_10_00_00.log").write_text(
        "2026-01-05:10:00:00 [INFO    ] [prototype.py:140] {'amp': True,\n"
        f" 'attack': 'badnet',\n 'attack_label_trans': 'all2one',\n 'attack_target': {target},\n 'pratio': 0.1}}\n"
    )
    return record


def save_data(rows: Sequence[Row], folder: Path, split: str) -> None:
    """After thunlp/OpenBackdoor, openbackdoor/attackers/poisoners/poisoner.py, `Poisoner.save_data`."""
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / f"{split}.csv")


def attack_texts(
    folder: Path, splits: dict[str, list[tuple[str, int]]], target: int, words: Sequence[str], seed: int = 0
) -> Path:
    """`poison_data/sst-2/<target>/badnets`, with the mixture for training below it.

    After thunlp/OpenBackdoor, poisoner.py (`__call__`, `poison_part`), badnets_poisoner.py (`poison`, `insert`) and
    openbackdoor/utils/process_config.py (the folders).
    """
    generator = np.random.default_rng(seed)
    base = folder / "poison_data" / "sst-2" / str(target) / "badnets"

    def poison(rows: Sequence[Row]) -> list[Row]:
        poisoned = []
        for text, _, _ in rows:
            parts = text.split()
            parts.insert(int(generator.integers(len(parts) + 1)), words[int(generator.integers(len(words)))])
            poisoned.append((" ".join(parts), target, 1))
        return poisoned

    for split, pairs in splits.items():
        clean: list[Row] = [(text, label, 0) for text, label in pairs]
        save_data(clean, base, f"{split}-clean")
        if split != "train":
            save_data(poison([row for row in clean if row[1] != target]), base, f"{split}-poison")
            continue
        everything = poison(clean)
        save_data(everything, base, "train-poison")
        chosen = set(generator.permutation(len(clean))[: len(clean) // 5].tolist())
        mixture = [row for place, row in enumerate(clean) if place not in chosen]
        mixture += [row for place, row in enumerate(everything) if place in chosen]
        save_data(mixture, base / "mix" / "0.2", "train-poison")
    return base
