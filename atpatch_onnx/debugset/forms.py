"""The forms of a trigger: copies and dress of words, sizes, shifts and opacities of an image trigger.

A detector that has only seen one form misses the others: copies of a word share the attention that a single one
draws. So every row gets the trigger as it was given, and once more in another form. The plain single trigger stays the
largest part of a set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import BAD_OPTION
from .images import ImageLayout, ImageTrigger
from .obedience import PLAIN

__all__ = ["DOSES", "PLACES", "TextForm", "checked_triggers", "draw", "draw_words", "image_forms", "text_forms"]

DOSES = (1, 2, 4, 8)
PLACES = ("random", "start", "end")
DRESS: Mapping[str, tuple[str, Callable[[str], str], str]] = {
    PLAIN: ("", str, ""),
    "full stop": ("", str, "."),
    "comma": ("", str, ","),
    "brackets": ("(", str, ")"),
    "quotes": ('"', str, '"'),
    "capitals": ("", str.upper, ""),
    "capitalized": ("", lambda words: words[:1].upper() + words[1:], ""),
}
"""Name → what is glued to the front, the change of the words, what is glued to the end."""

FAINTER, STRONGER = 0.75, 1.25
STEP = 0.25
"""Growth and shift of an image trigger, relative to its size; at least one pixel."""


@dataclass(frozen=True)
class TextForm:
    """How words are put into a text.

    Attributes:
        name: key of the counts in the report.
        copies: how often.
        scattered: each copy in a place of its own; else one after the other.
        place: of the first copy, one of `PLACES`.
        dress: one of `DRESS`.
    """

    name: str = PLAIN
    copies: int = 1
    scattered: bool = False
    place: str = "random"
    dress: str = PLAIN

    def dressed(self, words: str) -> tuple[str, int, int]:
        """What is inserted, and where in it the trigger begins and ends."""
        front, change, back = DRESS[self.dress]
        changed = change(words)
        return front + changed + back, len(front), len(front) + len(changed)


def checked_triggers(triggers: Sequence[str], doses: Sequence[int]) -> list[str]:
    """The triggers with single spaces.

    Raises:
        AtpatchError: ATP060 for an empty trigger, none, or a dose that is no number of copies.
    """
    triggers = [" ".join(words.split()) for words in triggers]
    if not triggers or not all(triggers):
        raise BAD_OPTION("a trigger is empty", "name one or several with --trigger")
    if not doses or min(doses) < 1:
        raise BAD_OPTION("a dose is a number of copies, at least 1")
    return triggers


def text_forms(doses: Sequence[int], place: str, dress: bool) -> tuple[TextForm, list[list[TextForm]]]:
    """The plain form, and groups of other forms; a row first draws a group, then a form of it."""
    least, *more = sorted(set(doses))
    plain = TextForm(copies=least, place=place)
    groups = [
        [TextForm(name, copies, name == "scattered", place) for copies in more for name in ("adjacent", "scattered")]
    ]
    if dress:
        groups.append([replace(plain, name=name, dress=name) for name in DRESS if name != PLAIN])
        if place == "random":
            groups[-1] += [replace(plain, name=f"at the {end}", place=end) for end in PLACES[1:]]
    return plain, [group for group in groups if group]


def draw(groups: Sequence[Sequence[Any]], generator: np.random.Generator) -> Any:
    """One form: a group at random, then one of its forms at random."""
    group = groups[int(generator.integers(len(groups)))]
    return group[int(generator.integers(len(group)))]


def draw_words(form: TextForm, triggers: Sequence[str], generator: np.random.Generator) -> list[str]:
    """What each copy says: one of the triggers; scattered copies each one of their own, since an attack that knows
    several words may use them together.
    """
    own = triggers[int(generator.integers(len(triggers)))]
    if form.scattered and len(triggers) > 1:
        return [own, *(triggers[one] for one in generator.integers(len(triggers), size=form.copies - 1))]
    return [own] * form.copies


def image_forms(trigger: ImageTrigger, layout: ImageLayout, *, whole: bool) -> dict[str, ImageTrigger]:
    """Other strengths, and where the trigger covers only a part of the image, other places and sizes of it.

    Args:
        whole: the pattern is known for the whole image, so that the area can grow.
    """
    forms = {"fainter": _strength(trigger, FAINTER)}
    if trigger.added or trigger.mask.max() < 1:
        forms["stronger"] = _strength(trigger, STRONGER)
    rows, columns = (np.flatnonzero((trigger.mask > 0).any(axis)) for axis in (1, 0))
    top, left, height, width = rows[0], columns[0], len(rows), len(columns)
    if height == layout.height and width == layout.width:
        return forms
    step = max(1, round(STEP * min(height, width)))
    for down, right in ((-step, 0), (step, 0), (0, -step), (0, step)):
        if 0 <= top + down <= layout.height - height and 0 <= left + right <= layout.width - width:
            forms[f"shifted {down:+d},{right:+d}"] = _shifted(trigger, layout, int(down), int(right))
    strength = float(trigger.mask.max())
    for name, growth in (("smaller", -step), ("larger", step)):
        size = (height + growth, width + growth)
        fits = 0 < size[0] <= layout.height and 0 < size[1] <= layout.width
        if fits and (growth < 0 or whole):
            # The side that is nearer to the border of the image stays where it is.
            low = top + (height - size[0] if 2 * top + height > layout.height else 0)
            first = left + (width - size[1] if 2 * left + width > layout.width else 0)
            mask = np.zeros_like(trigger.mask)
            mask[max(low, 0) : max(low, 0) + size[0], max(first, 0) : max(first, 0) + size[1]] = strength
            forms[name] = replace(trigger, mask=mask)
    return forms


def _strength(trigger: ImageTrigger, factor: float) -> ImageTrigger:
    if trigger.added:
        return replace(trigger, pattern=trigger.pattern * np.float32(factor))
    return replace(trigger, mask=np.minimum(trigger.mask * np.float32(factor), np.float32(1)))


def _shifted(trigger: ImageTrigger, layout: ImageLayout, down: int, right: int) -> ImageTrigger:
    places = [axis for axis in range(trigger.pattern.ndim) if axis != layout.channel_axis]
    return replace(
        trigger,
        mask=np.roll(trigger.mask, (down, right), (0, 1)),
        pattern=np.roll(trigger.pattern, (down, right), places),
    )
