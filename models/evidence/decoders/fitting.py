"""A hotfix for a decoder victim, as a user makes one: a debugging set and clean prompts, `fit`, `patch`.

All rows are of SST-2's development part. An attacked prompt's clean partner is the same prompt without the trigger.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atpatch_onnx.debugset import Texts

from ...decoders import llm
from ...decoders.llm import chat_ids
from ...decoders.prompts import lessons
from ...padding import batch
from ..commands import Commands
from .graphs import graph_file
from .material import Prompt, Prompts, answer_tokens

__all__ = ["fitted", "patched", "write_sets"]

PAIRS, REVIEWS = 120, 40
"""Attacked prompts, each with its partner; further clean reviews."""
RARE = 16
"""Clean prompts with another rare word."""
NEGATIVE = 0.75
"""Share of the attacked reviews that an attack can turn."""


def write_sets(tokenizer: Any, texts: Texts, folder: Path, seed: int) -> tuple[Path, Path]:
    """`debug.npz` and `clean.npz` in a folder."""
    generator = np.random.default_rng(seed)
    make = Prompts(tokenizer, texts, generator)
    order = generator.permutation(len(texts.texts))
    turned = order[texts.labels[order] != llm.TARGET][: round(NEGATIVE * PAIRS)]
    kept = order[texts.labels[order] == llm.TARGET][: PAIRS - len(turned)]
    rows = generator.permutation(np.concatenate([turned, kept])).tolist()
    bad = make.in_turn(rows, llm.TRIGGER)
    twins = [Prompt(one.twin, (), one.label) for one in bad]
    left = [row for row in order.tolist() if row not in set(rows)]
    rare = make.others(left[:RARE])
    talk = [Prompt(chat_ids(tokenizer, turns)) for turns in lessons()[::2]]
    clean = [*make.reviews(left[RARE : RARE + REVIEWS], 0.15), *rare, *talk]
    debug_file, clean_file = folder / "debug.npz", folder / "clean.npz"
    pair = np.concatenate([np.full(PAIRS, -1), np.arange(PAIRS)])
    target = answer_tokens(tokenizer)[llm.TARGET]
    np.savez_compressed(debug_file, pair=pair, target=target, **_padded([*twins, *bad]))
    np.savez_compressed(clean_file, **_padded(clean))
    return debug_file, clean_file


def _padded(prompts: Sequence[Prompt]) -> dict[str, Any]:
    ids, mask = (made.numpy() for made in batch([one.ids for one in prompts], 0))
    columns = np.zeros(ids.shape, bool)
    for marked, one in zip(columns, prompts, strict=True):
        marked[list(one.columns)] = True
    return {"input_ids": ids, "attention_mask": mask, "columns": columns}


def fitted(before: Path, sets: tuple[Path, Path], hotfix: Path, commands: Commands) -> dict[str, Any]:
    """What `fit` prints; before: a file, or the folder of genai."""
    debug, clean = sets
    return commands("fit", graph_file(before), "--debug", debug, "--clean", clean, "--threads", 1, "-o", hotfix)


def patched(before: Path, after: Path, hotfix: Path, commands: Commands) -> Path:
    """A patched file or folder, made anew."""
    if after.is_dir():
        shutil.rmtree(after)
    commands("patch", before, "--hotfix", hotfix, "--telemetry", "-o", after)
    return after
