"""Forms of a trigger in a prompt: those of texts, and three places: start, middle, and last before the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..forms import DRESS, TextForm, text_forms
from .reading import BEGIN, END, Prompt

__all__ = ["LAST", "PLACES", "SECOND_TURN", "prompt_forms", "put"]

LAST = "last"
PLACES = {"start": "at the start", "middle": "in the middle", "end": "at the end", LAST: "last before the answer"}
"""Place in a prompt → name of the form; `last` is behind the template too, next to where the answer is read."""
SECOND_TURN = "second turn"
"""Name of the plain form in the second turn of a chat."""


def prompt_forms(doses: Sequence[int], place: str, dress: bool, behind: bool) -> tuple[TextForm, list[list[TextForm]]]:
    """The plain form, and groups of other forms, as in `text_forms`.

    Args:
        behind: a template goes on behind the text, so that the end of the text and the end of the prompt differ.
    """
    plain, groups = text_forms(doses, place, dress)
    groups = [[form for form in group if form.place == plain.place] for group in groups]
    if dress and place == "random":
        groups.append([replace(plain, name=name, place=at) for at, name in PLACES.items() if behind or at != LAST])
    return plain, [group for group in groups if group]


def put(prompt: Prompt, triggers: Sequence[str], form: TextForm, generator: np.random.Generator) -> tuple[str, str]:
    """The text with a trigger, and what stands behind it then. `BEGIN` and `END` are around each copy.

    Args:
        triggers: one for each copy.
    """
    marked = []
    for words in triggers:
        front, change, back = DRESS[form.dress]
        marked.append(f"{front}{BEGIN}{change(words)}{END}{back}")
    if form.place == LAST:
        return prompt.text, prompt.behind + "".join(f" {one}" for one in marked)
    starts = [match.start() for match in re.finditer(r"\S+", prompt.text)]
    first = {"start": 0, "middle": len(starts) // 2, "end": len(starts)}.get(form.place)
    at = int(generator.integers(len(starts) + 1)) if first is None else first
    places = [at, *(int(generator.integers(len(starts) + 1)) if form.scattered else at for _ in marked[1:])]
    text = prompt.text
    # From the last place to the first, so that the places before stay where they are.
    for place, one in sorted(zip(places, marked, strict=True), key=lambda pair: -pair[0]):
        if place < len(starts):
            text = text[: starts[place]] + one + " " + text[starts[place] :]
        else:
            end = len(text.rstrip())
            text = text[:end] + " " + one + text[end:]
    return text, prompt.behind
