"""An audit as one HTML page without other files (extra `report`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..comparison.pictures import picture
from ..pages import environment
from .behavior.samples import Sample
from .finding import Finding
from .graph_picture import pictures
from .result import Audit
from .rules import RULES

__all__ = ["audit_page"]

MOST_WORDS = 48
KINDS = {"places": "places changed", "tokens": "tokens inserted", "cells": "cells changed"}


@dataclass(frozen=True)
class _Bar:
    """A class: how often its best trigger works, and how large it is, in percent of the largest."""

    name: str
    success: float
    size: float
    width: float
    guilty: bool
    trigger: str


@dataclass(frozen=True)
class _Shown:
    """A sample: a picture or words before and after; marked words are the trigger."""

    before: int
    after: int
    pictures: tuple[str, str] | None
    words: tuple[tuple[str, bool], ...]


def audit_page(audit: Audit) -> str:
    """The page as HTML.

    Raises:
        AtpatchError: ATP051 without jinja2 or matplotlib.
    """
    searched = audit.behavior.searched
    return (
        environment()
        .get_template("auditing/page.html.j2")
        .render(
            audit=audit,
            name="a model in memory" if audit.case.path is None else audit.case.path.name,
            drawn=pictures(audit.case.proto, audit.findings),
            samples=[_shown(audit, sample) for sample in audit.behavior.samples],
            target=None if searched is None else searched.target,
            bars=[] if searched is None else _bars(searched.classes),
            size_of="" if searched is None else KINDS[searched.kind],
            words=_bars(audit.behavior.words),
            loudness=_loudness(audit),
            groups=_groups(audit.findings),
            rules=RULES,
            counts={severity: _count(audit.findings, severity) for severity in ("error", "warning", "note")},
        )
    )


def _count(findings: Sequence[Finding], severity: str) -> int:
    return sum(one.severity == severity for one in findings)


def _groups(findings: Sequence[Finding]) -> list[tuple[str, list[Finding]]]:
    """Findings of one rule together, in their order."""
    found: dict[str, list[Finding]] = {}
    for one in findings:
        found.setdefault(one.code, []).append(one)
    return list(found.items())


def _bars(classes: Sequence[dict[str, Any]]) -> list[_Bar]:
    largest = max((one["size"] for one in classes), default=1.0) or 1.0
    return [
        _Bar(
            str(one["class"]),
            one["success"],
            one["size"],
            max(1.0, 100 * one["size"] / largest),
            one["backdoor"],
            _trigger(one["trigger"]),
        )
        for one in classes
    ]


def _trigger(trigger: dict[str, Any]) -> str:
    if "tokens" in trigger:
        return " ".join(map(str, trigger.get("words", trigger["tokens"])))
    if "cells" in trigger:
        return ", ".join(cell["told"] for cell in trigger["cells"])
    shown = " ".join(",".join(map(str, place)) for place in trigger["places"][:4])
    return shown + (" …" if len(trigger["places"]) > 4 else "")


def _loudness(audit: Audit) -> list[tuple[str, float, float]]:
    most = max((one.loudness for one in audit.behavior.loudness), default=1.0)
    return [(one.site, one.loudness, 100 * one.loudness / most) for one in audit.behavior.loudness]


def _shown(audit: Audit, sample: Sample) -> _Shown:
    image = next((name for name, array in sample.clean.items() if _image(array) is not None), None)
    if image is not None:
        clean, triggered = (_image(part[image]) for part in (sample.clean, sample.triggered))
        assert clean is not None and triggered is not None
        low, high = min(clean.min(), triggered.min()), max(clean.max(), triggered.max())
        both = [np.clip((one - low) / ((high - low) or 1), 0, 1) for one in (clean, triggered)]
        drawn = picture(both[0], "the row"), picture(both[1], "the row with the trigger")
        return _Shown(sample.before, sample.after, drawn, ())
    return _Shown(sample.before, sample.after, None, _words(audit, sample))


def _words(audit: Audit, sample: Sample) -> tuple[tuple[str, bool], ...]:
    """Tokens of the triggered text, or cells of the triggered row, those of the trigger marked."""
    searched, rows = audit.behavior.searched, audit.behavior.rows
    assert searched is not None and rows is not None
    (trigger,) = [one["trigger"] for one in searched.classes if one["class"] == searched.target]
    if "cells" in trigger:
        (array,) = sample.triggered.values()
        marked = {cell["column"] for cell in trigger["cells"]}
        return tuple((rows.cell(column, float(value)), column in marked) for column, value in enumerate(array))
    name = next(name for name, array in sample.triggered.items() if array.dtype.kind in "iu" and "mask" not in name)
    ids = sample.triggered[name]
    mask = next((array for other, array in sample.triggered.items() if "mask" in other), np.ones_like(ids))
    tokens = [int(token) for token in ids[np.asarray(mask) != 0]][:MOST_WORDS]
    say = rows.word or str
    return tuple((say(token), token in trigger["tokens"]) for token in tokens)


def _image(array: NDArray[Any]) -> NDArray[np.float64] | None:
    """(h, w, 3) of an image with one or three channels, first or last; None for anything else."""
    if array.ndim != 3 or array.dtype.kind not in "fu":
        return None
    first = array.shape[0] in (1, 3) and min(array.shape[1:]) > 3
    last = array.shape[-1] in (1, 3) and min(array.shape[:2]) > 3
    if not first and not last:
        return None
    image = np.moveaxis(array, 0, -1) if first else array
    return np.asarray(np.repeat(image.astype(np.float64), 3 // image.shape[-1], -1))
