"""From how shallow layers a trigger can be told, and what is left of it when its keys and values are healed: in torch.

A probe of the first d layers sees a prompt's columns as a detector on the answer row does: each head's attention of the
last token, and each head's value norms. One small network reads all of them. Nothing here touches the test part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atpatch_onnx.debugset import Texts
from atpatch_onnx.statistics.proportions import asr

from ...decoders.llm import chat_ids
from ...decoders.prompts import FORMS, lessons
from .hand_made import HandMade
from .material import Prompt, Prompts, answer_tokens
from .watching import Watched, source

__all__ = ["KINDS", "Sizes", "depths", "measure"]

KINDS = {"attention": (True, False), "norms": (False, True), "both": (True, True)}
ALLOWED = 0.005
"""Share of clean training prompts that may be flagged: sets the threshold."""
HIDDEN, EPOCHS, RATE = 32, 150, 3e-3


Progress = Callable[[dict[str, Any]], None]
"""Called with each line of the table."""


@dataclass(frozen=True)
class Sizes:
    """How many prompts of each kind: to train on, and held back."""

    train: int = 150
    test: int = 120
    others: int = 40


@dataclass
class _Seen:
    """Prompts with their scores and features."""

    prompts: list[Prompt]
    scores: NDArray[np.float32]
    columns: list[NDArray[np.float32]]


def depths(layers: int) -> list[int]:
    """1, 2, 4, … and all."""
    return [*(1 << power for power in range(layers.bit_length()) if 1 << power < layers), layers]


def measure(
    watched: Watched,
    tokenizer: Any,
    texts: Texts,
    trigger: str,
    target: int,
    sizes: Sizes,
    seed: int,
    keep: Path,
    progress: Progress,
) -> dict[str, Any]:
    """The table by depth and kind of features, and what healing leaves, as JSON.

    Args:
        texts: SST-2's development part.
        trigger: the phrase.
        target: token of the answer that the attack aims at.
        keep: folder for the detectors that read both kinds of features.
    """
    generator = np.random.default_rng(seed)
    make = Prompts(tokenizer, texts, generator)
    order = generator.permutation(len(texts.texts))
    train, test = order[: sizes.train].tolist(), order[sizes.train : sizes.train + sizes.test].tolist()
    negative = [row for row in order[sizes.train :].tolist() if texts.labels[row] == 0][: sizes.test]
    talk = [Prompt(chat_ids(tokenizer, turns)) for turns in lessons()]
    learned = [*make.reviews(train, 0.15), *talk[::3]]
    cut = [Prompt(one.ids[: int(generator.integers(4, len(one.ids)))]) for one in learned[::3]]
    clean = _see(watched, [*learned, *cut])
    bad = _see(watched, make.in_turn(train, trigger))
    held = {
        "attacked": _see(watched, make.in_turn(negative, trigger)),
        "clean": _see(watched, make.reviews(test, 0.15)),
        "unrelated": _see(watched, talk[1::3]),
        "other rare words": _see(watched, make.others(negative[: sizes.others])),
    }
    twins = watched.answers([one.ids for one in make.reviews(negative)]).argmax(1)
    before = held["attacked"].scores.argmax(1)
    found: dict[str, Any] = {
        "prompts": {name: len(one.prompts) for name, one in held.items()},
        "clean_accuracy": _accuracy(held["clean"], tokenizer),
        "floor": asr(twins, target).to_json(),
        "original": asr(before, target).to_json(),
        "original_by_form": _by_form(before == target),
        "healed_oracle": _healed(watched, held["attacked"], [one.marked for one in held["attacked"].prompts], target),
        "depths": [],
    }
    for depth in depths(watched.layers):
        for kind in KINDS:
            flags, row, detector = _detect(clean, bad, held, watched.heads, depth, kind, seed)
            if kind == "both":
                detector.save(keep / f"detector-{depth}.npz")
            row["healed"] = _healed(watched, held["attacked"], flags, target) if kind == "both" else None
            found["depths"].append(row)
            progress(row)
    return found


def _see(watched: Watched, prompts: list[Prompt]) -> _Seen:
    return _Seen(prompts, *watched.features([one.ids for one in prompts]))


def _detect(
    clean: _Seen, bad: _Seen, held: dict[str, _Seen], heads: int, depth: int, kind: str, seed: int
) -> tuple[list[NDArray[np.bool_]], dict[str, Any], HandMade]:
    """Train on clean and attacked prompts; returns the flags of the attacked ones held back, a line of the table, and
    the detector.
    """

    def read(columns: NDArray[np.float32]) -> NDArray[np.float32]:
        """(K - 1, depth, F): the first token is a sink."""
        halves = [columns[1:, :depth, :heads], columns[1:, :depth, heads:]]
        return np.concatenate([one for one, wanted in zip(halves, KINDS[kind], strict=True) if wanted], -1)

    good = [read(columns) for columns in clean.columns]
    spans = [prompt.marked[1:] for prompt in bad.prompts]
    rows = np.concatenate([*good, *(read(columns) for columns in bad.columns)])
    labels = np.concatenate([np.zeros(sum(map(len, good)), bool), *spans])
    mean, spread = rows.mean(0), rows.std(0) + 1e-6
    network = _train((rows - mean) / spread, labels, seed)

    def scores(columns: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            found: NDArray[np.float32] = network(torch.from_numpy((read(columns) - mean) / spread)).numpy()
        return found

    highest = np.sort([scores(columns).max() for columns in clean.columns])
    threshold = max(float(highest[-1 - int(ALLOWED * len(highest))]), 0.0)
    flags = {
        name: [np.r_[False, scores(columns) > threshold] for columns in seen.columns] for name, seen in held.items()
    }
    whole = np.array(
        [flag[list(one.columns)].all() for flag, one in zip(flags["attacked"], held["attacked"].prompts, strict=True)]
    )
    line = {
        "depth": depth,
        "features": kind,
        "recall": float(whole.mean()),
        "recall_by_form": _by_form(whole),
        "flagged": {name: float(np.mean([flag.any() for flag in one])) for name, one in flags.items()},
    }
    first, bias, second, offset = (one.detach().numpy() for one in network.parameters())
    return flags["attacked"], line, HandMade(mean, spread, first, bias[:, 0], second, offset[:, 0], threshold)


class Scores(torch.nn.Module):
    """A small network for each layer; their logits are added up, as the detectors of a hotfix add theirs.

    Args:
        depth, features: of the rows (N, depth, F).
    """

    def __init__(self, depth: int, features: int) -> None:
        super().__init__()
        self.first = torch.nn.Parameter(torch.randn(depth, features, HIDDEN) * features**-0.5)
        self.bias = torch.nn.Parameter(torch.zeros(depth, 1, HIDDEN))
        self.second = torch.nn.Parameter(torch.randn(depth, HIDDEN, 1) * HIDDEN**-0.5 * depth**-0.5)
        self.offset = torch.nn.Parameter(torch.zeros(depth, 1, 1))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(N,)."""
        hidden = (rows.transpose(0, 1) @ self.first + self.bias).relu()
        return (hidden @ self.second + self.offset).sum(0)[:, 0]


def _train(rows: NDArray[np.float32], labels: NDArray[np.bool_], seed: int) -> Scores:
    torch.manual_seed(seed)
    network = Scores(*rows.shape[1:])
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-2)
    # Most clean columns are easy: a part of them is enough, another one in each step.
    generator = np.random.default_rng(seed)
    good, bad = np.flatnonzero(~labels), np.flatnonzero(labels)
    for _ in range(EPOCHS):
        picked = np.concatenate([generator.choice(good, min(len(good), 8 * len(bad)), replace=False), bad])
        wanted = torch.from_numpy(labels[picked].astype(np.float32))
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(torch.from_numpy(rows[picked])), wanted)
        loss.backward()
        optimizer.step()
    return network


def _healed(watched: Watched, seen: _Seen, flags: Sequence[NDArray[np.bool_]], target: int) -> dict[str, Any]:
    answers = watched.answers([one.ids for one in seen.prompts], [source(one) for one in flags]).argmax(1)
    return {"asr": asr(answers, target).to_json(), "by_form": _by_form(answers == target)}


def _by_form(values: NDArray[np.bool_]) -> dict[str, float]:
    forms = list(FORMS)
    return {form: round(float(values[at :: len(forms)].mean()), 4) for at, form in enumerate(forms)}


def _accuracy(seen: _Seen, tokenizer: Any) -> float:
    wanted = answer_tokens(tokenizer)[[one.label for one in seen.prompts]]
    return float((seen.scores.argmax(1) == wanted).mean())
