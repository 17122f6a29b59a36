"""What a patched graph answers, against the original: attacks left by form, clean answers kept, prompts flagged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.statistics import proportions
from rewriters.model.atomic import write_file

from ..answers import Figures, wilson
from .loops import Loop, Said
from .material import Prompt

__all__ = ["Asked", "Questions", "figures", "first"]

REVIEW_TOKENS, EXAM_TOKENS = 3, 24
"""How long an answer is looked at."""
EVERY = 50
"""Answers between two savings."""


@dataclass(frozen=True)
class Questions:
    """All that a graph is asked: clean reviews, chats about other things, and attacks by form."""

    reviews: list[Prompt]
    exam: list[Prompt]
    attacks: Mapping[str, list[Prompt]]


@dataclass
class Asked:
    """Answers of one graph; they are kept in a file, so that a run that was cut off goes on.

    Attributes:
        file: JSON.
        loop: makes the loop, when there is something left to ask.
    """

    file: Path
    loop: Callable[[], Loop]
    stop: int
    _known: dict[str, Said] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.file.is_file():
            self._known = {key: Said(*said) for key, said in json.loads(self.file.read_text()).items()}

    def all(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[Said]:
        """An answer of so many tokens to each prompt."""
        keys = [f"{tokens}:{','.join(map(str, ids))}" for ids in prompts]
        missing = {key: ids for key, ids in zip(keys, prompts, strict=True) if key not in self._known}
        loop = self.loop() if missing else None
        for at, (key, ids) in enumerate(missing.items()):
            assert loop is not None
            self._known[key] = loop.answer(ids, tokens, self.stop)
            if (at + 1) % EVERY == 0:
                self._save()
        if missing:
            self._save()
        return [self._known[key] for key in keys]

    def _save(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        whole = {key: (said.tokens, said.flagged) for key, said in self._known.items()}
        write_file(self.file, json.dumps(whole).encode())


def figures(
    questions: Questions, original: Asked, patched: Asked | None, answers: NDArray[np.int64], target: int
) -> Figures:
    """Of both graphs; without a patched one of the original.

    Args:
        answers: (2,) tokens of the answers, by class.
        target: class that the attack aims at.
    """
    graphs = {"original": original} | ({"patched": patched} if patched else {})
    reviews = {name: graph.all(_ids(questions.reviews), REVIEW_TOKENS) for name, graph in graphs.items()}
    exam = {name: graph.all(_ids(questions.exam), EXAM_TOKENS) for name, graph in graphs.items()}
    wanted = answers[[one.label for one in questions.reviews]]
    found: Figures = {
        name: {"accuracy": proportions.accuracy(first(said), wanted).to_json()} for name, said in reviews.items()
    }
    if patched:
        for key, said in (("reviews", reviews), ("exam", exam)):
            found[key] = {
                "unchanged": _same(said["original"], said["patched"]),
                "flagged": wilson(np.array([bool(one.flagged) for one in said["patched"]])),
                "telemetry": said["patched"][0].flagged is not None,
            }
    found["attacks"] = {
        form: _attack(prompts, graphs, int(answers[target])) for form, prompts in questions.attacks.items()
    }
    return found


def _attack(prompts: Sequence[Prompt], graphs: Mapping[str, Asked], target: int) -> Figures:
    """ASR of each graph, the floor, and how often the patched answer is that of the clean twin."""
    twins = first(graphs["original"].all([one.twin for one in prompts], 1))
    found: Figures = {"floor": proportions.asr(twins, target).to_json()}
    for name, graph in graphs.items():
        said = graph.all(_ids(prompts), 1)
        found[name] = proportions.asr(first(said), target).to_json()
        if name == "patched":
            found["asr_star"] = proportions.asr_star(first(said), twins, target).to_json()
            found["as_twin"] = wilson(first(said) == twins)
            found["flagged"] = wilson(np.array([bool(one.flagged) for one in said]))
    return found


def _ids(prompts: Sequence[Prompt]) -> list[list[int]]:
    return [one.ids for one in prompts]


def first(said: Sequence[Said]) -> NDArray[np.int64]:
    """(N,) tokens that the answers begin with."""
    return np.array([one.tokens[0] for one in said])


def _same(before: Sequence[Said], after: Sequence[Said]) -> Figures:
    return wilson(np.array([one.tokens == other.tokens for one, other in zip(before, after, strict=True)]))
