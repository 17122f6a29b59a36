"""Rows without a known trigger: clean rows only, no data at all, traffic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.debugset import Texts, read_texts

from ...text.corpora import corpus_file
from ..answers import Figures
from ..commands import Refused
from .case import Case, Digits, Words, header
from .material import FORMS, encode, with_trigger

__all__ = ["clean_model", "clean_rows", "hidden", "no_data", "no_data_digits", "traffic"]

Arrays = Mapping[str, NDArray[Any]]

REQUESTS = 500
SHARES = (0.0, 0.01, 0.02)
"""Of attacks among the first requests."""
ROWS = (50, 100, 300)
"""Clean digits given to `patch --calibrate`."""
TRIM = 0.02
"""As in `serve --calibrate`."""
ONE = ("1 copy",)
_FIRST, _REST = slice(REQUESTS), slice(REQUESTS, None)


def clean_rows(case: Words) -> Figures:
    """`fit` on clean texts only, with its defaults for that."""
    hotfix = case.fit("clean", "--clean", case.clean_set())
    return {"hotfix": hotfix, **case.judge.figures(case.patch_with("clean"), case.attacks())}


def hidden(case: Words) -> Figures:
    """The same of a victim that hides its trigger, for single triggers only."""
    hotfix = case.fit("clean", "--clean", case.clean_set())
    return {"hotfix": hotfix, **case.judge.figures(case.patch_with("clean"), case.attacks(ONE))}


def no_data(case: Words) -> Figures:
    """`patch` with nothing but the model."""
    hotfix = case.hotfix("nothing")
    hotfix.unlink(missing_ok=True)
    patched = case.patch("nothing", "--save-hotfix", hotfix)
    return {"hotfix": header(hotfix), **case.judge.figures(patched, case.attacks(ONE))}


def clean_model(case: Words) -> Figures:
    """`patch` with nothing but a model that has no backdoor, the victim's clean twin."""
    twin = replace(case, graph="twin")
    return twin.judge.figures(twin.patch("twin"), {})


def no_data_digits(case: Digits) -> Figures:
    """`patch` on an image model: without rows, and with some clean ones."""
    found: Figures = {}
    try:
        case.patch("nothing")
    except Refused as refused:
        found["without rows"] = refused.code
    generator, spare = np.random.default_rng(case.seed), case.set("spare").inputs
    for count in ROWS:
        rows = generator.choice(REQUESTS, count, replace=False)
        path = saved(case, f"clean-{count}", {name: array[rows] for name, array in spare.items()})
        patched = case.patch(f"clean-{count}", "--calibrate", path)
        found[f"{count} rows"] = case.judge.figures(patched, case.attacks())
    return found


def traffic(case: Words | Digits) -> Figures:
    """The fit of `serve --calibrate`, on the first requests of a server, of which a few are attacks."""
    found: Figures = {}
    for share in SHARES:
        name = f"traffic-{share:g}"
        path = saved(case, name, requests(case, share))
        hotfix = case.fit(name, "--detector", "oneclass", "--clean", path, "--trim", TRIM)
        attacks = case.attacks(ONE) if isinstance(case, Words) else case.attacks()
        found[f"{share:.0%} attacks"] = {"hotfix": hotfix, **case.judge.figures(case.patch_with(name), attacks)}
    return found


def requests(case: Words | Digits, share: float) -> Arrays:
    """The first REQUESTS requests, in random order, without labels."""
    generator = np.random.default_rng(case.seed)
    bad = round(share * REQUESTS)
    clean, attacks = _sentences(case, generator) if isinstance(case, Words) else _images(case)
    ordinary, others = (
        generator.choice(len(next(iter(arrays.values()))), count, replace=False)
        for arrays, count in ((clean, REQUESTS - bad), (attacks, bad))
    )
    order = generator.permutation(REQUESTS)
    return {name: np.concatenate([array[ordinary], attacks[name][others]])[order] for name, array in clean.items()}


def _sentences(case: Words, generator: np.random.Generator) -> tuple[Arrays, Arrays]:
    """Development texts, REQUESTS clean ones and others attacked, all padded to one length."""
    texts, attack = read_texts(corpus_file("sst2", "dev.tsv")), case.attack
    order = generator.permutation(len(texts.texts))
    bad = [texts.texts[row] for row in order[REQUESTS:] if texts.labels[row] != case.target]
    bad = with_trigger(bad, attack.phrases, attack.count, FORMS["1 copy"], generator)
    every = [*(texts.texts[row] for row in order[:REQUESTS]), *bad]
    inputs = encode(case.subject, Texts(every, np.zeros(len(every), np.int64))).inputs
    clean, attacks = ({name: array[rows] for name, array in inputs.items()} for rows in (_FIRST, _REST))
    return clean, attacks


def _images(case: Digits) -> tuple[Arrays, Arrays]:
    debug = case.set("debug")
    assert debug.pair is not None
    return case.set("spare").inputs, debug.feeds(np.flatnonzero(debug.pair >= 0))


def saved(case: Case, name: str, arrays: Arrays) -> Path:
    """As an `.npz` in the work folder."""
    path = case.work / f"{name}.npz"
    np.savez_compressed(path, **arrays)
    return path
