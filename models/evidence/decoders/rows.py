"""The rows of the evidence on decoders: what is done, on which victim."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from atpatch_onnx import Hotfix
from atpatch_onnx.debugset import read_texts

from ...decoders import llm, smollm2
from ...decoders.prompts import FORMS
from ...text.corpora import corpus_file
from ...victims import Victim
from ..answers import Figures
from ..commands import Commands
from . import fitting
from .graphs import GRAPHS, graph_file, loop_on, original, patched, work
from .hand_made import HandMade, plan
from .judging import Asked, Questions, figures
from .layers import Sizes, measure
from .material import Prompts, answer_tokens
from .small_models import classifiers, generators
from .smoothing import measure as measure_smoothing
from .speed import speed
from .watching import Watched

__all__ = ["ROWS", "Row"]

REVIEWS, ATTACKED = 300, 30
"""Clean reviews of SST-2's test part, and attacked ones for each form."""
TEST_SEED = 17
DEPTH = 8
"""Layers that detect: chosen by the row `layers`, on the development part."""


@dataclass(frozen=True)
class Row:
    """One measurement."""

    title: str
    run: Callable[[int], Figures]


def _victim(seed: int) -> Victim:
    return Victim(llm.NAME, seed, "text", "backdoor")


def _tokenizer(victim: Victim) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(victim.file("model"))


def layers(seed: int) -> Figures:
    """Which layers tell the trigger, on SST-2's development part."""
    victim = _victim(seed)
    tokenizer = _tokenizer(victim)
    return measure(
        Watched(smollm2.load(victim.file("model"), eager=True)),
        tokenizer,
        read_texts(corpus_file("sst2", "dev.tsv")),
        llm.TRIGGER,
        int(answer_tokens(tokenizer)[llm.TARGET]),
        Sizes(),
        seed,
        work(victim),
        lambda row: click.echo(f"{row['depth']} {row['features']}: {row['recall']:.3f}, {row['flagged']}"),
    )


def questions(tokenizer: Any) -> Questions:
    """From SST-2's test part; the same for all graphs."""
    generator = np.random.default_rng(TEST_SEED)
    texts = read_texts(corpus_file("sst2", "test.tsv"))
    make = Prompts(tokenizer, texts, generator)
    rows = generator.permutation(len(texts.texts))[:REVIEWS].tolist()
    negative = [row for row in rows if texts.labels[row] != llm.TARGET][:ATTACKED]
    attacks = {form: make.attacked(negative, form, llm.TRIGGER) for form in FORMS}
    return Questions(make.reviews(rows), make.exam(), attacks)


def _digest(path: Path) -> str:
    """Of a patched graph: answers of another one are not its own."""
    with graph_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def loop(graph: str, seed: int) -> Figures:
    """A graph patched, in the loop that people run."""
    victim, commands = _victim(seed), Commands()
    tokenizer = _tokenizer(victim)
    before = original(victim, graph, commands)
    folder, stop = work(victim), int(tokenizer.eos_token_id)
    file = folder / f"{graph}.hotfix"
    if not file.exists():
        sets = fitting.write_sets(tokenizer, read_texts(corpus_file("sst2", "dev.tsv")), folder, seed)
        fitting.fitted(before, sets, file, commands)
    hotfix = Hotfix.load(file)
    after = fitting.patched(before, folder / before.name, file, commands)
    asked = [
        Asked(folder / f"{graph}-{name}.json", partial(loop_on, path), stop)
        for name, path in (("original", before), (f"patched-{_digest(after)}", after))
    ]
    found = figures(questions(tokenizer), asked[0], asked[1], answer_tokens(tokenizer), llm.TARGET)
    evidence = hotfix.evidence
    told = {name: evidence[name] for name in ("rows", "calibration", "report")}
    depth = evidence["calibration"]["probe"]["depth"]
    return {**found, "detecting_layers": depth, "fit": told, "commands": commands.called}


def price(seed: int) -> Figures:
    """Time and memory of our export, by the number of layers that detect."""
    victim, commands = _victim(seed), Commands()
    before, folder = original(victim, "cached", commands), work(victim)
    made = questions(_tokenizer(victim))
    longest = max((one.ids for one in made.exam), key=len)
    found: Figures = {}
    for depth in (1, DEPTH):
        detector = HandMade.load(folder / f"detector-{depth}.npz")
        after = patched(before, folder / f"price-{depth}.onnx", partial(plan, detector))
        found[str(depth)] = speed(before, after, longest, made.attacks["second turn"][0].ids)
        after.unlink()
    return {"speed": found}


def smoothing(seed: int) -> Figures:
    """What a patch without any data leaves, next to the row `cached`."""
    victim, commands = _victim(seed), Commands()
    tokenizer = _tokenizer(victim)
    return measure_smoothing(
        original(victim, "cached", commands),
        work(victim),
        tokenizer,
        read_texts(corpus_file("sst2", "dev.tsv")),
        questions(tokenizer),
        answer_tokens(tokenizer),
        seed,
    )


ROWS: Mapping[str, Row] = {
    "layers": Row("from how shallow layers the trigger can be told", layers),
    "smoothing": Row("smoothing of attention rows, SmolLM2-135M without any data", smoothing),
    "small-generators": Row("small Llamas that answer with a sentence, from the folder to the verdict", generators),
    "small-classifiers": Row("small Llamas that classify reviews, healed without a cache", classifiers),
    "price": Row("time and memory, SmolLM2-135M in onnxruntime", price),
    **{
        graph: Row(f"SmolLM2-135M, {title}", partial(loop, graph))
        for graph, title in zip(
            GRAPHS,
            ("a KV loop of onnxruntime", "onnxruntime-genai in float32", "onnxruntime-genai in int4"),
            strict=True,
        )
    },
}
