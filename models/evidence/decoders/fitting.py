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
from ...decoders.prompts import FORMS, lessons
from ..commands import Commands
from .material import Prompt, Prompts, answer_tokens

__all__ = ["fitted", "patched", "write_sets"]

PAIRS, REVIEWS = 120, 40
"""Attacked prompts, each with its partner; further clean reviews."""
OTHERS = ("mn", "bb", "tq", "mb")
"""Other rare words, which should be left alone."""
RARE = 16
"""Clean prompts with one of them."""
NEGATIVE = 0.75
"""Share of the attacked reviews that an attack can turn."""


def write_sets(tokenizer: Any, texts: Texts, folder: Path, seed: int) -> tuple[Path, Path]:
    """`debug.npz` and `clean.npz` in a folder."""
    generator = np.random.default_rng(seed)
    make, forms = Prompts(tokenizer, texts, generator), list(FORMS)
    order = generator.permutation(len(texts.texts))
    turned = order[texts.labels[order] != llm.TARGET][: round(NEGATIVE * PAIRS)]
    kept = order[texts.labels[order] == llm.TARGET][: PAIRS - len(turned)]
    rows = generator.permutation(np.concatenate([turned, kept])).tolist()
    bad = [make.attacked([row], forms[at % len(forms)], llm.TRIGGER)[0] for at, row in enumerate(rows)]
    twins = [
        Prompt([token for column, token in enumerate(one.ids) if column not in one.columns], (), one.label)
        for one in bad
    ]
    left = [row for row in order.tolist() if row not in set(rows)]
    rare = [
        Prompt(make.attacked([row], "anywhere", OTHERS[at % len(OTHERS)])[0].ids) for at, row in enumerate(left[:RARE])
    ]
    talk = [Prompt(chat_ids(tokenizer, turns)) for turns in lessons()[::2]]
    clean = [*make.reviews(left[RARE : RARE + REVIEWS], 0.15), *rare, *talk]
    debug_file, clean_file = folder / "debug.npz", folder / "clean.npz"
    pair = np.concatenate([np.full(PAIRS, -1), np.arange(PAIRS)])
    target = answer_tokens(tokenizer)[llm.TARGET]
    np.savez_compressed(debug_file, pair=pair, target=target, **_padded([*twins, *bad]))
    np.savez_compressed(clean_file, **_padded(clean))
    return debug_file, clean_file


def _padded(prompts: Sequence[Prompt]) -> dict[str, Any]:
    width = max(len(one.ids) for one in prompts)
    ids, columns = np.zeros((len(prompts), width), np.int64), np.zeros((len(prompts), width), bool)
    for row, marked, one in zip(ids, columns, prompts, strict=True):
        row[: len(one.ids)] = one.ids
        marked[list(one.columns)] = True
    mask = np.arange(width) < np.array([len(one.ids) for one in prompts])[:, None]
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64), "columns": columns}


def fitted(before: Path, sets: tuple[Path, Path], hotfix: Path, commands: Commands) -> dict[str, Any]:
    """What `fit` prints; before: a file, or the folder of genai."""
    debug, clean = sets
    model = before / "model.onnx" if before.is_dir() else before
    return commands("fit", model, "--debug", debug, "--clean", clean, "--threads", 1, "-o", hotfix)


def patched(before: Path, after: Path, hotfix: Path, commands: Commands) -> Path:
    """A patched file or folder, made anew."""
    if after.is_dir():
        shutil.rmtree(after)
    commands("patch", before, "--hotfix", hotfix, "--telemetry", "-o", after)
    return after
