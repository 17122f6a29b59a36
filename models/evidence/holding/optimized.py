"""An attacker who has the patched model itself, and searches its graph for another trigger that gets through.

The search is the product's own inversion, with gradients through the patched graph where it has them, else through the
original, which is what a patched graph computes where nothing is flagged. What it finds is tried on the patched graph.
The same search on the clean twin says what it finds in a model without a backdoor: words that any such model obeys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.debugset import Subject, Texts, read_texts
from atpatch_onnx.debugset.gradients import TorchGraph
from atpatch_onnx.debugset.inversion.common import prepare
from atpatch_onnx.debugset.inversion.rows import token_rows
from atpatch_onnx.debugset.inversion.words import TokenSearch
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.inference.datasets import DataSet, Ints
from atpatch_onnx.inference.tokenizer import TextEncoder
from rewriters.model import io as model_io

from ...text.corpora import corpus_file
from ...text.sets import LENGTH
from ..answers import Figures
from .adaptive import CLEAN, KNOWN, makers
from .case import TEST_SEED, Words, header
from .material import FORMS, Attacked, attacked, encode, tokenizer_folder

__all__ = ["SEARCHED", "TWIN", "optimized_words"]

WORD = re.compile("[a-z]+")
"""Of the vocabulary's tokens, those that are words by themselves."""
TEXTS, LONGEST = 150, 3
"""Development texts that the search has, and words of a trigger."""
KEPT, SAMPLE = 24, 24
"""Words that a gradient favors which are tried, and texts that each is tried on."""
TWIN, SEARCHED = "clean twin", "searched in it"
Arrays = Mapping[str, NDArray[Any]]


class Opened(Subject):
    """A model, patched or not, taken for one like any other; counts the rows it is asked."""

    def __init__(self, path: Path, threads: int) -> None:
        model = model_io.load(path)
        del model.metadata_props[:]  # the stamp of the patch
        super().__init__(model, threads=threads)
        self.asked = 0

    def scores(self, inputs: Arrays) -> NDArray[np.float32]:
        self.asked += len(next(iter(inputs.values())))
        return super().scores(inputs)


@dataclass(frozen=True)
class Target:
    """A model to attack, and where gradients come from: `own`, of its own graph."""

    subject: Opened
    graph: TorchGraph
    output: str
    predictions: Ints
    own: bool

    @classmethod
    def of(cls, path: Path, original: Path, clean: DataSet, threads: int) -> Target:
        """`clean`: rows that the attacker has."""
        subject = Opened(path, threads)
        try:
            graph, output, predictions, _ = prepare(subject, clean)
        except AtpatchError:  # ATP082
            graph, output, *_ = prepare(Opened(original, threads), clean)
            return cls(subject, graph, output, subject.predictions(clean.inputs), False)
        return cls(subject, graph, output, predictions, True)


def optimized_words(case: Words) -> Figures:
    """Up to LONGEST words of the vocabulary, against two kinds of hotfix and against the clean twin.

    `clean twin`: what those words do in it, and what the words do that were searched in it.
    """
    texts = read_texts(corpus_file("sst2", "dev.tsv"))
    few = encode(case.subject, Texts(list(texts.texts[:TEXTS]), texts.labels[:TEXTS]))
    twin = replace(case, graph="twin")
    found: Figures = {}
    in_twin: Figures = {}
    how = makers(case, case.attack.phrases)
    for kind in (KNOWN, CLEAN):
        name, make = how[kind]
        patched = make()
        words, told = _searched(case, patched, case.model, few)
        attacks = {words: _with(case, words)}
        found[kind] = {"hotfix": header(case.hotfix(name)), **case.judge.figures(patched, attacks)}
        found[f"search, {kind}"] = told
        in_twin[f"words of {kind}"] = twin.judge.original(attacks[words])
    words, told = _searched(twin, twin.model, twin.model, few)
    in_twin[SEARCHED] = twin.judge.original(_with(case, words))
    return {**found, "search, clean twin": f"{told}, {words}", TWIN: in_twin}


def _searched(case: Words, path: Path, original: Path, clean: DataSet) -> tuple[str, str]:
    """The best words found, and how: rows asked, and whose gradients."""
    target = Target.of(path, original, clean, case.threads)
    encoder = TextEncoder(tokenizer_folder(), LENGTH)
    rows = token_rows(target.subject, clean.inputs)
    embedding = target.graph.embedding(rows.name)
    assert embedding is not None
    whole = np.array([token for token in range(len(embedding.table)) if WORD.fullmatch(encoder.word(token))])
    search = TokenSearch(
        *(target.subject, target.graph, embedding, rows, target.predictions, whole, target.output, case.seed),
        keep=KEPT,
        sample=SAMPLE,
    )
    best = search.search(case.target, None, LONGEST, lambda done, total: None)[-1]
    words = " ".join(encoder.word(token) for token in best.tokens)
    gradients = "its own" if target.own else "the original's"
    return words, f"{target.subject.asked} rows asked, {gradients} gradients"


def _with(case: Words, words: str) -> Attacked:
    return attacked(case.subject, case.texts, case.target, [words], 1, FORMS["1 copy"], TEST_SEED)
