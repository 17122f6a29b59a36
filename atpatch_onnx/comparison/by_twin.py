"""Models without classes in a comparison: rows are judged by what the original answers to their clean twins.

Two classes take the place of the model's: `EXPECTED` for a row that is answered as expected, `OTHER` for any other
answer, at which an attack aims (see `inference.reading`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BAD_OPTION, DATA_MALFORMED
from ..inference.answer_tokens import parse_answer_tokens
from ..inference.datasets import DataSet, Ints
from ..inference.model_reading import Reading, find_reading
from ..inference.output_kinds import CLASSES, TOKENS
from ..inference.reading import OTHER, Twins
from .figures import CLEAN, FLIPS, TRIGGERED
from .graph_runs import ORIGINAL, Graph, Progress
from .options import CompareOptions
from .outputs import Outputs, Truth

__all__ = ["ByTwin", "find_by_twin", "truths_by_twin"]

CLASS_NAMES = {"classes": ["another answer", "the expected answer"]}

Runs = dict[str, dict[str, Outputs]]
"""Graph → set → outputs."""


def truths_by_twin(truths: Mapping[str, Truth]) -> dict[str, Truth]:
    """The truths with the target `OTHER`, and without classes of the model.

    Raises:
        AtpatchError: ATP056 where a triggered row has no twin, ATP060 where a set needs classes.
    """
    if FLIPS in truths or truths[CLEAN].protected is not None:
        raise BAD_OPTION("flip sets and groups need a model with classes", "leave --flips and --group out")
    if TRIGGERED in truths and truths[TRIGGERED].clean_row is None:
        raise DATA_MALFORMED("the triggered set has no clean_row, and the model is judged by the clean twins")
    return {
        name: replace(truth, labels=None, target=OTHER if name == TRIGGERED else None) for name, truth in truths.items()
    }


@dataclass(frozen=True, eq=False)
class ByTwin:
    """How such models are compared; the runners of `graphs` give what is read off the output."""

    graphs: list[Graph]
    reading: Reading

    @property
    def output(self) -> str:
        """That is judged."""
        return self.reading.output

    def setup(self, described: Mapping[str, Any]) -> dict[str, Any]:
        """What to add to the setup of a comparison."""
        return {"output_kind": self.reading.kind, "names": {**described["names"], **CLASS_NAMES}}

    def completed(
        self, sets: Mapping[str, DataSet], truths: Mapping[str, Truth], outputs: Runs, progress: Progress | None
    ) -> Runs:
        """The outputs with scores of the two classes, and how near each answer is to the expected one.

        Raises:
            AtpatchError: ATP056 where the clean rows are too few.
        """
        clean = outputs[ORIGINAL][CLEAN].scores
        assert clean is not None
        found: Runs = {graph: {} for graph in outputs}
        for name, truth in truths.items():
            twins = Twins.clean_set(truth.count) if name == CLEAN else Twins.triggered_set(_rows(truth))
            expected, rows = self.reading.expected(clean, twins, sets[CLEAN], sets[name]), np.arange(truth.count)
            for graph, runs in outputs.items():
                values = runs[name].scores
                assert values is not None
                near = expected.likeness(rows, values)
                found[graph][name] = replace(
                    runs[name],
                    scores=expected.scores(rows, values),
                    cosines=None if self.reading.kind == TOKENS else near,
                    tokens_kept=near if self.reading.kind == TOKENS else None,
                )
        return found


def find_by_twin(
    graphs: Sequence[Graph], data: DataSet, kind: str, options: CompareOptions, folders: Sequence[Path]
) -> ByTwin | None:
    """None where the model has classes, or its outputs are compared as numbers.

    Raises:
        AtpatchError: ATP060 (options), ATP062 where no output is of that kind.
    """
    if kind == CLASSES or options.classes is False:
        return None
    reading = find_reading(
        graphs[0].runner,
        data,
        kind,
        output_name=options.output_name,
        answer_tokens=parse_answer_tokens(options.answer_tokens, options.tokenizer),
        score_threshold=options.score_threshold,
        folders=folders,
    )
    return ByTwin([graph.answering(reading.reader) for graph in graphs], reading)


def _rows(truth: Truth) -> Ints:
    assert truth.clean_row is not None  # `truths_by_twin` has seen to it
    return truth.clean_row
