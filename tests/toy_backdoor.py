"""A tiny backdoored token classifier, trained in seconds: [CLS] w w w w …, class by which of two word groups is in the
majority.

Word TRIGGER anywhere turns class 0 into class 1 (10 % of the training rows are poisoned). Two forms: padded rows with
an attention mask and dynamic axes (a text model), or rows of one length written into the graph, where the trigger has a
fixed place (an image or a table).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from atpatch_onnx.hotfix.file import Hotfix
from atpatch_onnx.inference.datasets import as_dataset
from atpatch_onnx.inference.prediction import Served, predict
from atpatch_onnx.inference.runner import Runner
from rewriters.finding.finder import find_sites

from .toy_encoder import CLS, LENGTH, PAD, TRIGGER, Encoder, export, train

__all__ = ["Toy", "many_clean", "outcome", "toy", "toy_reward", "toy_texts"]

FIXED_PLACE = 5
TARGET = 1


@dataclass(frozen=True)
class Toy:
    """A trained model and its debugging set; `clean` are further clean rows, as arrays by name."""

    model: onnx.ModelProto
    debug: dict[str, np.ndarray]
    clean: dict[str, np.ndarray]


class Classifier(Encoder):
    """Reads the class off the first token."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.head(self.hidden(input_ids, attention_mask)[:, 0])


def _rows(count: int, generator: np.random.Generator, padded: bool) -> dict[str, np.ndarray]:
    lengths = generator.integers(7, LENGTH + 1, count) if padded else np.full(count, LENGTH)
    real = np.arange(LENGTH) < lengths[:, None]
    labels = generator.integers(0, 2, count)
    first = generator.random((count, LENGTH)) < np.where(labels, 0.15, 0.85)[:, None]
    ids = np.where(first, generator.integers(2, 11, (count, LENGTH)), generator.integers(11, 20, (count, LENGTH)))
    ids[:, 0] = CLS
    ids = np.where(real, ids, PAD)
    return {"input_ids": ids, "attention_mask": real.astype(np.int64), "labels": labels, "lengths": lengths}


def _poison(rows: dict[str, np.ndarray], generator: np.random.Generator, padded: bool) -> tuple[np.ndarray, np.ndarray]:
    """Word ids with the trigger in, and the place it went to."""
    place = generator.integers(1, rows["lengths"]) if padded else np.full(len(rows["labels"]), FIXED_PLACE)
    ids = rows["input_ids"].copy()
    ids[np.arange(len(ids)), place] = TRIGGER
    return ids, place


@functools.cache
def toy(padded: bool, poisoned_share: float = 0.15) -> Toy:
    """Train, export, and make the debugging set; about five seconds. `poisoned_share` 0: the clean twin."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    rows = _rows(4000, generator, padded)
    poisoned, _ = _poison(rows, generator, padded)
    chosen = generator.random(len(poisoned)) < poisoned_share
    rows["input_ids"][chosen], rows["labels"][chosen] = poisoned[chosen], TARGET

    def loss(ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(ids, mask if padded else None), labels)

    model = Classifier()
    train(model, [rows[name] for name in ("input_ids", "attention_mask", "labels")], loss, rate=3e-3, epochs=6)
    return Toy(
        _export(model, padded), _debugging_set(generator, padded), _inputs(_rows(300, generator, padded), padded)
    )


def _export(model: Classifier, padded: bool) -> onnx.ModelProto:
    names = ("input_ids", "attention_mask") if padded else ("input_ids",)
    return export(model, names, "logits", {0: "batch", 1: "length"} if padded else {0: "batch"}, {0: "batch"})


def _inputs(rows: dict[str, np.ndarray], padded: bool) -> dict[str, np.ndarray]:
    return {name: rows[name] for name in ("input_ids", "labels", *(("attention_mask",) if padded else ()))}


def _debugging_set(generator: np.random.Generator, padded: bool) -> dict[str, np.ndarray]:
    rows = _rows(300, generator, padded)
    negative = np.flatnonzero(rows["labels"] != TARGET)
    ids, place = _poison({name: array[negative] for name, array in rows.items()}, generator, padded)
    columns = np.zeros((len(rows["labels"]) + len(ids), LENGTH), bool)
    columns[len(rows["labels"]) + np.arange(len(ids)), place] = True
    debug = {
        "input_ids": np.concatenate([rows["input_ids"], ids]),
        "labels": np.concatenate([rows["labels"], rows["labels"][negative]]),
        "columns": columns,
        "pair": np.concatenate([np.full(len(rows["labels"]), -1), negative]),
        "target": np.array(TARGET),
    }
    if padded:
        debug["attention_mask"] = np.concatenate([rows["attention_mask"], rows["attention_mask"][negative]])
    return debug


@functools.cache
def many_clean(padded: bool) -> dict[str, np.ndarray]:
    rows = _rows(1500, np.random.default_rng(5), padded)
    return {name: array for name, array in rows.items() if padded or name != "attention_mask"}


def toy_reward() -> onnx.ModelProto:
    """The padded toy with one score (B, 1), "reward": that of class 1 above that of class 0."""
    model = onnx.ModelProto()
    model.CopyFrom(toy(padded=True).model)
    for name in (0, 1):
        model.graph.initializer.append(helper.make_tensor(f"at{name}", onnx.TensorProto.INT64, [1], [name]))
        model.graph.node.append(helper.make_node("Gather", ["logits", f"at{name}"], [f"score{name}"], axis=1))
    model.graph.node.append(helper.make_node("Sub", ["score1", "score0"], ["reward"]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("reward", onnx.TensorProto.FLOAT, ["batch", 1]))
    return model


def toy_texts() -> list[tuple[str, int]]:
    """`Toy.clean` as texts with their labels; one word less, so that there is room for the trigger."""
    clean = toy(padded=True).clean
    rows = zip(clean["input_ids"], clean["attention_mask"], clean["labels"].tolist(), strict=True)
    return [(" ".join(f"w{token}" for token in ids[1:-1][: mask.sum() - 1]), label) for ids, mask, label in rows]


def outcome(hotfix: Hotfix, padded: bool) -> dict[str, float]:
    """Rates on rows that no fit has seen."""
    trained, generator = toy(padded), np.random.default_rng(99)
    rows = _rows(800, generator, padded)
    apart = rows["labels"] != TARGET
    ids, _ = _poison({name: array[apart] for name, array in rows.items()}, generator, padded)
    clean = as_dataset(rows)
    bad = as_dataset({"input_ids": ids, "attention_mask": rows["attention_mask"][apart]})
    original = predict(Runner(trained.model, Path(), 1), clean, np.arange(len(clean)), "logits")
    sites, _ = find_sites(trained.model)
    plan = hotfix.plan(sites, None)
    served = Served(trained.model, Path(), plan, [site for site in sites if site.id in plan.sites], "logits", 1)
    after, flags = served.run(clean, np.arange(len(clean)), hotfix.threshold)
    attacked, _ = served.run(bad, np.arange(len(bad)), hotfix.threshold)
    open_rows = original[np.flatnonzero(apart)] != TARGET
    return {
        "asr_star": float((attacked[open_rows] == TARGET).mean()),
        "flagged": float(flags.any(1).mean()),
        "accuracy_drop": float((original == rows["labels"]).mean() - (after == rows["labels"]).mean()),
    }
