"""Decoders in a comparison: what is asked for besides class scores, and how each graph is run for it.

1. A prediction is the first token of the answer: of `--answer-tokens`, or of the whole vocabulary.
2. Greedy answers come from a loop with caches, as a server runs it: `--answer-length` tokens, or up to the end.
3. How likely each graph finds the clean answer: the right one where the data have it, else the original's own.

Shape letters: N rows, T tokens of an answer, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inference.answer_tokens import parse_answer_tokens
from ..inference.datasets import DataSet, Ints
from ..inference.decoders import IDS, Answers
from ..inference.generation import NONE, Loop, follow, generate
from ..inference.generation_tokens import stop_tokens
from ..inference.padding import MASK, lengths
from ..inference.prediction import answers_of
from .figures import CLEAN, TRIGGERED
from .graph_runs import ORIGINAL, Graph, Progress
from .options import CompareOptions
from .outputs import Outputs, Truth

__all__ = ["Decoding", "find_decoding", "time_steps"]

STEPS_EACH = 4
"""Timed steps behind one prompt."""
FEWEST = 12

Runs = dict[str, dict[str, Outputs]]
"""Graph → set → outputs."""


@dataclass(frozen=True, eq=False)
class Decoding:
    """How decoders are compared.

    Attributes:
        graphs: their runners give the scores of the first answer token.
        output: with these scores.
        tokens: class → token; None: a class is a token.
        length: tokens of an answer, at most.
        stop: tokens that end one.
    """

    graphs: list[Graph]
    output: str
    tokens: tuple[int, ...] | None
    length: int
    stop: tuple[int, ...]

    def completed(
        self, sets: Mapping[str, DataSet], truths: Mapping[str, Truth], outputs: Runs, progress: Progress | None
    ) -> Runs:
        """The outputs with whole answers, and with scores of only the tokens that matter.

        Raises:
            AtpatchError: ATP052 where onnxruntime fails.
        """
        if self.tokens is None:
            outputs = _only_used(outputs, truths)
        if not self.length:
            return outputs
        expected: dict[str, Ints] = {}
        for name, data in self._asked(sets):
            said = {
                graph.name: self._said(graph, data, f"{name}, answers of {graph.name}", progress)
                for graph in self.graphs
            }
            if name == CLEAN:
                known = truths[CLEAN].answer
                expected[CLEAN] = said[ORIGINAL] if known is None else known
            elif (twins := truths[name].clean_row) is not None:
                expected[name] = expected[CLEAN][twins]
            for graph in self.graphs:
                likely = None
                if name in expected:
                    found = follow(graph.runner, data, np.arange(len(data)), expected[name])
                    likely = np.where(found.tokens == NONE, np.nan, found.likelihoods)
                run = outputs[graph.name][name]
                outputs[graph.name][name] = replace(run, answers=said[graph.name], likelihoods=likely)
        return outputs

    @property
    def caches(self) -> bool:
        """Whether a step runs only the new token."""
        return bool(self.graphs[0].caches)

    def facts(self, words: Mapping[int, str]) -> dict[str, Any]:
        """For the setup."""
        return {
            "tokens": None if self.tokens is None else list(self.tokens),
            "length": self.length,
            "stop": list(self.stop),
            "words": {str(name): word for name, word in words.items()},
        }

    def _asked(self, sets: Mapping[str, DataSet]) -> Iterator[tuple[str, DataSet]]:
        return ((name, sets[name]) for name in (CLEAN, TRIGGERED) if name in sets)

    def _said(self, graph: Graph, data: DataSet, step: str, progress: Progress | None) -> Ints:
        found = generate(graph.runner, data, np.arange(len(data)), self.length, self.stop)
        if progress is not None:
            progress(step, len(data), len(data))
        return found.tokens


def find_decoding(
    graphs: Sequence[Graph], data: DataSet, options: CompareOptions, folders: Sequence[Path]
) -> Decoding | None:
    """None where the graphs are not run as decoders: they have no caches, and no answer tokens are given.

    Args:
        folders: where files may say which tokens end an answer.

    Raises:
        AtpatchError: ATP060 (answer tokens), ATP081 (tokenizer).
    """
    if options.classes is False:
        return None
    tokens = parse_answer_tokens(options.answer_tokens, options.tokenizer)
    answers = [answers_of(graph.runner, data, tokens) for graph in graphs]
    if answers[0] is None:
        return None
    told = [_answering(graph, one) for graph, one in zip(graphs, answers, strict=True)]
    return Decoding(told, answers[0].decoder.logits, answers[0].tokens, options.answer_length, stop_tokens(folders))


def _answering(graph: Graph, answers: Answers | None) -> Graph:
    return graph.answering(answers, frozenset() if answers is None else frozenset(answers.decoder.caches.values()))


def _only_used(outputs: Runs, truths: Mapping[str, Truth]) -> Runs:
    """Scores of the tokens that any graph predicts, that are right or that an attack aims at: a vocabulary is large."""
    used: list[NDArray[Any]] = [run.predictions for runs in outputs.values() for run in runs.values()]
    for truth in truths.values():
        used += [np.atleast_1d(array) for array in (truth.labels, truth.target) if array is not None]
    tokens = np.unique(np.concatenate(used))
    found: Runs = {}
    for graph, runs in outputs.items():
        found[graph] = {}
        for name, run in runs.items():
            assert run.scores is not None
            known = tokens[(tokens >= 0) & (tokens < run.scores.shape[1])]
            found[graph][name] = replace(run, scores=run.scores[:, known], classes=known)
    return found


def time_steps(graphs: Sequence[Graph], data: DataSet, rows: Ints, seconds: float) -> dict[str, NDArray[np.float64]]:
    """Seconds of single decode steps behind prompts, graph by graph, in the same order; graphs take turns."""
    taken: dict[str, list[float]] = {graph.name: [] for graph in graphs}
    given = np.asarray(data.inputs.get(MASK, np.ones(data.inputs[IDS].shape, np.int64)))
    used = lengths(given)
    spent = 0.0
    for number, row in enumerate(rows.tolist()):
        if number and spent > seconds and len(taken[graphs[0].name]) >= FEWEST:
            break
        ids, mask = (array[[row], : used[row]] for array in (data.inputs[IDS], given))
        loops = {graph.name: Loop(graph.runner, ids, mask, {}) for graph in graphs}
        token = loops[graphs[0].name].scores.argmax(1)
        for step in range(STEPS_EACH + (number == 0)):
            at = (number + step) % len(graphs)
            for graph in (*graphs[at:], *graphs[:at]):
                loops[graph.name].add(token)
                if step or number:  # the first step of all is a warm-up
                    taken[graph.name].append(loops[graph.name].seconds)
                    spent += loops[graph.name].seconds
            token = loops[graphs[0].name].scores.argmax(1)
    return {name: np.array(values) for name, values in taken.items()}
