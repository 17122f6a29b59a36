"""What a trigger leads to: the class, found by experiment where the user does not name it; or other answers than
without it, where the model has no classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import BAD_OPTION, NOTHING_FOUND
from ..inference.datasets import Ints
from ..inference.reading import OTHER, low_and_median
from ..inference.tokenizer import TextEncoder
from .forms import text_forms
from .samples import Texts
from .sets import Built
from .subject import Subject
from .text import clean_texts, insert, tensors

__all__ = ["answered_otherwise", "class_number", "find_target", "leads_to"]

SAMPLE = 200
LEAST = 0.2
"""Share of the rows that a trigger must send to one class; a word of a harmless model rarely flips one row in ten."""


def find_target(
    subject: Subject, texts: Texts, encoder: TextEncoder, triggers: Sequence[str], place: str, seed: int
) -> int:
    """The class to which the trigger sends most of the rows that are not predicted as that class without it.

    Raises:
        AtpatchError: ATP083 where the trigger leads to no class, and those of `clean_texts`.
    """
    generator = np.random.default_rng([seed, 2])
    rows = np.sort(generator.permutation(len(texts.texts))[:SAMPLE])
    sample = [texts.texts[row] for row in rows]
    clean = clean_texts(subject, Texts(sample, None), encoder)
    form, _ = text_forms((1,), place, False)
    words = [triggers[place % len(triggers)] for place in range(len(sample))]
    changed = [insert(encoder, text, [word], form, generator).encoded for text, word in zip(sample, words, strict=True)]
    after = subject.predictions(tensors(subject, changed, encoder.pad_id))
    return leads_to(subject.predictions(clean.inputs), after, f"the trigger {' / '.join(triggers)!r}")


def leads_to(before: Ints, after: Ints, what: str) -> int:
    """The class to which most rows (N,) change that were of another class before.

    Args:
        what: is the trigger, for the message.

    Raises:
        AtpatchError: ATP083 where fewer than `LEAST` of them change to one class.
    """
    shares = {
        number: float((after[before != number] == number).mean())
        for number in np.unique(after).tolist()
        if (before != number).any()
    }
    best = max(shares, key=lambda number: shares[number], default=0)
    if (share := shares.get(best, 0.0)) < LEAST:
        raise NOTHING_FOUND(
            f"{what} leads to no class: at least {LEAST:.0%} of the rows were expected to"
            f" change to one class, and {share:.0%} do (class {best})",
            "check the spelling of the trigger, or name the class with --target",
        )
    return best


def answered_otherwise(subject: Subject, built: Built) -> Built:
    """Add to the report of a model without classes how far the trigger leads: the share of triggered rows that are not
    answered as their clean twins are (`asr`), and how near the answers are (`likeness`: median and 5 % quantile).

    Raises:
        AtpatchError: ATP083 where the trigger hardly changes answers.
    """
    assert built.clean is not None and built.triggered is not None
    rows = built.triggered["clean_row"]
    clean, attacked = (
        {name: one[name] for name in subject.inputs if name in one} for one in (built.clean, built.triggered)
    )
    expected, values = subject.expected(clean, attacked, rows), subject.values(attacked)
    numbers = np.arange(len(rows))
    asr = float((expected.scores(numbers, values).argmax(1) == OTHER).mean())
    low, median = low_and_median(expected.likeness(numbers, values))
    if asr < LEAST:
        raise NOTHING_FOUND(
            f"the trigger changes the answers to few rows: at least {LEAST:.0%} were expected to be answered otherwise"
            f" than their clean twins, and {asr:.0%} are (likeness of the answers: median {median:.3f})",
            "check the trigger and --output-kind",
        )
    return replace(built, report={**built.report, "asr": asr, "likeness": {"median": median, "low": low}})


def class_number(text: str | None, names: Sequence[str]) -> int | None:
    """A class by its number or by its name.

    Raises:
        AtpatchError: ATP060 where there is no such class.
    """
    if text is None or text.isdecimal():
        return None if text is None else int(text)
    found = [number for number, name in enumerate(names) if name.casefold() == text.casefold()]
    if not found:
        known = f"one of {', '.join(names)}" if names else "a number, as nothing names the classes (--class-names)"
        raise BAD_OPTION(f"the target {text!r} is no class: expected {known}", "give its number or its name")
    return found[0]
