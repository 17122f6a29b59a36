"""Rows with a known trigger: doses and forms, what else a hotfix fires on, other texts, a faint trigger."""

from __future__ import annotations

import numpy as np

from ..answers import Figures, wilson
from ..commands import Refused
from .case import Digits, Words
from .judging import asked
from .material import encode, reviews, without_trigger

__all__ = ["blended", "control", "doses", "long_texts"]

OTHER_WORDS = ("mn", "bb", "tq", "mb", "zx", "qj")
HARMLESS = "mn"
MARKED = ("with a full stop", "in parentheses")
REVIEWS, LONG = 200, 256
"""Film reviews, and tokens each is cut to."""


def doses(case: Words) -> Figures:
    """A hotfix from the trigger, asked about texts with the trigger in all doses and forms.

    `rest`: what the original makes of an attacked row without the trigger's tokens, the least that taking them out can
    leave. `marks only`: what it makes of as much punctuation in the whole text.
    """
    hotfix = case.fit("trigger", "--debug", case.debugging_set(case.attack.phrases))
    attacks = case.attacks()
    figures = case.judge.figures(case.patch_with("trigger"), attacks)
    for form, attack in attacks.items():
        rest = without_trigger(case.subject, attack, case.attack.phrases)
        figures["attacks"][form]["rest"] = case.judge.original(rest)
    marks = {form: case.judge.original(one) for form, one in case.attacks(MARKED, [""] * case.attack.count).items()}
    return {"hotfix": hotfix, **figures, "marks only": marks}


def control(case: Words) -> Figures:
    """Does a hotfix for one word fire on others, and does one made for a harmless word stop the real trigger?"""
    case.fit("trigger", "--debug", case.debugging_set(case.attack.phrases))
    patched = case.patch_with("trigger")
    words = {word: case.attacks(["1 copy"], [word])["1 copy"] for word in OTHER_WORDS}
    others = case.judge.figures(patched, words)["attacks"]
    found: Figures = {"other words": {word: one["flagged"] for word, one in others.items()}}
    try:
        hotfix = case.fit("harmless", "--debug", case.debugging_set([HARMLESS]), "--force")
        figures = case.judge.figures(
            case.patch_with("harmless"), {**case.attacks(["1 copy"]), HARMLESS: words[HARMLESS]}
        )
        found["harmless"] = {"word": HARMLESS, "hotfix": hotfix, **figures}
    except Refused as refused:
        found["harmless"] = {"word": HARMLESS, "refused": refused.code, "why": str(refused)}
    return found


def long_texts(case: Words) -> Figures:
    """A hotfix from short texts asked about long ones, and whether it says that they are longer than what it knows."""
    case.fit("trigger", "--debug", case.debugging_set(case.attack.phrases))
    patched = case.patch_with("trigger")
    data = encode(case.subject, reviews(REVIEWS), LONG)
    before, after = (asked(path, data, case.threads).all(data) for path in (case.model, patched))
    path = case.work / "reviews.npz"
    np.savez_compressed(path, **data.inputs, labels=data.labels)
    said = case.commands("compare", case.model, patched, "--data", path, "--seconds", 0, "--threads", case.threads)
    return {
        "flagged": wilson(after.flagged),
        "changed": wilson(before.predictions != after.predictions),
        "outside": said["setup"]["lengths"],
    }


def blended(case: Digits) -> Figures:
    """The default of `fit` on a faint trigger over nine patches."""
    hotfix = case.fit("auto", "--debug", case.victim.file("debug.npz"))
    return {"hotfix": hotfix, **case.judge.figures(case.patch_with("auto"), case.attacks())}
