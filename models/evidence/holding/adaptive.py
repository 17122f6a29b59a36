"""Rows of attackers who know the defense: triggers everywhere in the image, two triggers, an ordinary word.

Each is met with every hotfix that a user could make: with the trigger known, with clean rows alone, without data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from atpatch_onnx.inference.datasets import DataSet

from ..answers import Figures, wilson
from ..commands import Refused
from .case import TEST_SEED, Case, Digits, Words, header
from .judging import Judge, asked
from .material import FORMS, Attacked, attacked

__all__ = ["CLEAN", "KINDS", "KNOWN", "NOTHING", "common_word", "everywhere", "makers", "two_triggers", "unattacked"]

KNOWN, CLEAN, NOTHING = KINDS = ("trigger known", "clean rows", "no data")
"""Kinds of hotfix, by what they are made from."""
_ONE = FORMS["1 copy"]

Attacks = Mapping[int, dict[str, Attacked]]
"""Class that they lead to → attacks by name."""
Makers = Mapping[str, tuple[str, Callable[[], Path]]]
"""Kind of hotfix → its name, and what makes it and patches with it."""


def everywhere(case: Digits) -> Figures:
    """`fit` with its defaults on the debugging set of somebody who has the trigger, and on clean digits alone."""
    kinds: Makers = {
        KNOWN: ("auto", lambda: _fit(case, "auto", "--debug", case.victim.file("debug.npz"))),
        CLEAN: ("clean", lambda: _fit(case, "clean", "--clean", case.victim.file("spare.npz"))),
    }
    return _each(case, kinds, {case.target: case.attacks()})


def unattacked(case: Digits) -> Figures:
    """Accuracy of the twin, to which those of the victims are compared."""
    twin = asked(case.victim.file("twin.onnx"), case.clean, case.threads).all(case.clean)
    return {"accuracy": wilson(twin.predictions == case.clean.labels)}


def two_triggers(case: Words) -> Figures:
    """Two words, each towards a class; the debugging set has both, in texts of the class that the first leads from."""
    towards = {case.target: case.attack.phrases, 1 - case.target: case.attack.opposite}
    attacks = {
        target: {
            f"{phrase}, towards {target}": attacked(case.subject, case.texts, target, [phrase], 1, _ONE, TEST_SEED)
            for phrase in phrases
        }
        for target, phrases in towards.items()
    }
    return _each(case, makers(case, (*case.attack.phrases, *case.attack.opposite)), attacks)


def common_word(case: Words) -> Figures:
    """An ordinary word. Test texts that have it by themselves are no attacks, and are left out of those.

    `by itself`: of the texts of other classes that have it, how many the victim sends to the target.
    """
    (word,) = case.attack.phrases
    has = np.array([word in text.split() for text in case.texts.texts])
    whole = attacked(case.subject, case.texts, case.target, [word], 1, _ONE, TEST_SEED)
    kept = np.flatnonzero(~has[whole.rows])
    labels = None if whole.data.labels is None else whole.data.labels[kept]
    attack = Attacked(whole.rows[kept], DataSet(whole.data.feeds(kept), labels=labels))
    sent = asked(case.model, case.clean, case.threads).all(case.clean).predictions == case.target
    return {
        **_each(case, makers(case, (word,)), {case.target: {word: attack}}),
        "by itself": wilson(sent[has & (case.texts.labels != case.target)]),
    }


def makers(case: Words, phrases: Sequence[str]) -> Makers:
    """For each kind of hotfix, its name and what patches with it; `phrases`: what somebody knows with the trigger."""
    return {
        KNOWN: ("trigger", lambda: _fit(case, "trigger", "--debug", case.debugging_set(phrases))),
        CLEAN: ("clean", lambda: _fit(case, "clean", "--clean", case.clean_set())),
        NOTHING: ("nothing", lambda: case.patch("nothing", "--save-hotfix", case.hotfix("nothing"))),
    }


def _fit(case: Case, name: str, *options: object) -> Path:
    case.fit(name, *options)
    return case.patch_with(name)


def _each(case: Case, kinds: Makers, attacks: Attacks) -> Figures:
    return {kind: _met(case, attacks, *how) for kind, how in kinds.items()}


def _met(case: Case, attacks: Attacks, name: str, make: Callable[[], Path]) -> Figures:
    """Figures of a patched graph, or why no hotfix of that name was made: then the attacks are left as they are."""
    judges = {target: Judge(case.model, case.clean, target, case.threads) for target in attacks}
    try:
        patched = make()
    except Refused as refused:
        left = {one: judges[target].original(data) for target, these in attacks.items() for one, data in these.items()}
        return {"refused": refused.code, "why": " ".join(str(refused).split()), "left": left}
    each = [judges[target].figures(patched, these) for target, these in attacks.items()]
    return {
        "hotfix": header(case.hotfix(name)),
        "clean": each[0]["clean"],
        "attacks": {one: figures for part in each for one, figures in part["attacks"].items()},
    }
