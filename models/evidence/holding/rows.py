"""The rows: what is done, on which victim, and what the outcome should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..answers import Figures
from . import adaptive, label_free, labeled, optimized, timing
from .case import Digits, Words

__all__ = ["ROWS", "Bound", "Row", "at"]


@dataclass(frozen=True)
class Bound:
    """A figure that should not be above `most`, of the mean over the seeds.

    Attributes:
        path: keys in the figures; "*" stands for each of them, and all of them should keep the bound.
        most: a share, or points of accuracy.
        above: keys of another figure that is subtracted first.
        told: keys of how many rows `compare` told to be longer or shorter than what was fitted: a warning about most of
            them will do instead.
    """

    name: str
    path: tuple[str, ...]
    most: float
    above: tuple[str, ...] = ()
    told: tuple[str, ...] = ()

    @property
    def in_points(self) -> bool:
        return self.path[-1] == "points"


@dataclass(frozen=True)
class Row:
    """One measurement, done anew for each seed of a fit.

    Attributes:
        looks: how often its test rows were asked so far, each time about newer fits.
    """

    title: str
    run: Callable[[Any], Figures]
    case: type[Words] | type[Digits]
    victim: str
    bounds: tuple[Bound, ...] = ()
    seeded: bool = True
    looks: int = 1


def at(figures: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Any]:
    """What lies at the end of a path; "*" goes through all keys."""
    if not path:
        yield figures
        return
    for key in list(figures) if path[0] == "*" else [path[0]] if path[0] in figures else []:
        yield from at(figures[key], path[1:])


def _left(most: float, *path: str) -> Bound:
    return Bound("ASR\\*", (*path, "attacks", "*", "asr_star", "value"), most)


def _points(most: float, *path: str) -> Bound:
    return Bound("points of accuracy lost", (*path, "clean", "points"), most)


def _flagged(most: float) -> Bound:
    return Bound("clean flagged", ("clean", "flagged", "value"), most)


_ONE = ("attacks", "1 copy", "asr_star", "value")
_DOSES = (_left(0.01), _points(0.1), _flagged(0.005))
_FLOOR = ("attacks", "1 copy", "floor", "value")
_HIDDEN = (Bound("ASR above the floor", ("attacks", "1 copy", "asr", "value"), 0.05, _FLOOR),)
_NO_DATA = (Bound("ASR\\*", _ONE, 0.04), _points(0.3), Bound("extra runs", ("clean", "flagged", "value"), 0.1))

ROWS: Mapping[str, Row] = {
    "doses-cf": Row("a word, by dose and form", labeled.doses, Words, "sst2-fresh-badnets", _DOSES, looks=3),
    "doses-words": Row("three rare words, by dose and form", labeled.doses, Words, "sst2-fresh-words", _DOSES, looks=4),
    "doses-sentence": Row(
        "a sentence, by dose and form", labeled.doses, Words, "sst2-fresh-insertsent", _DOSES, looks=3
    ),
    "clean-rows": Row(
        "clean rows only",
        label_free.clean_rows,
        Words,
        "sst2-fresh-badnets",
        (Bound("ASR\\*", _ONE, 0.02), _points(0.2)),
        looks=3,
    ),
    **{
        f"hidden-{strength}": Row(
            f"clean rows only; hidden attention, {strength}",
            label_free.hidden,
            Words,
            f"sst2-hidden-{strength}",
            _HIDDEN,
            looks=looks,
        )
        for strength, looks in (("weak", 3), ("medium", 3), ("strong", 1))
    },
    "hidden-both": Row(
        "clean rows only; attention and value norms hidden", label_free.hidden, Words, "sst2-hidden-both"
    ),
    "hidden-labeled": Row("a word whose attention is hidden, with labels", labeled.doses, Words, "sst2-hidden-medium"),
    "control": Row("other words, and a hotfix for a harmless one", labeled.control, Words, "sst2-fresh-badnets"),
    "no-data": Row(
        "no data, a text model",
        label_free.no_data,
        Words,
        "sst2-fresh-badnets",
        _NO_DATA,
        seeded=False,
        looks=5,
    ),
    "no-data-clean-model": Row(
        "no data, a text model without a backdoor",
        label_free.clean_model,
        Words,
        "sst2-fresh-badnets",
        (Bound("predictions changed", ("clean", "changed", "value"), 0.005),),
        seeded=False,
        looks=3,
    ),
    **{
        f"no-data-{name}": Row(
            f"no data; {title}",
            label_free.no_data,
            Words,
            victim,
            _NO_DATA,
            seeded=False,
            looks=2 if name == "hidden" else 3,
        )
        for name, title, victim in (
            ("words", "three rare words", "sst2-fresh-words"),
            ("sentence", "a sentence", "sst2-fresh-insertsent"),
            ("hidden", "a word of hidden attention", "sst2-hidden-medium"),
        )
    },
    "no-data-digits": Row("no data, an image model", label_free.no_data_digits, Digits, "mnist-vit-badnets"),
    "traffic-texts": Row(
        "500 requests, 0 to 2 % attacks, texts",
        label_free.traffic,
        Words,
        "sst2-fresh-badnets",
        (_left(0.03, "*"),),
        looks=3,
    ),
    "traffic-digits": Row(
        "500 requests, 0 to 2 % attacks, digits", label_free.traffic, Digits, "mnist-vit-badnets", (_left(0.03, "*"),)
    ),
    "long-texts": Row(
        "long texts, fitted on short",
        labeled.long_texts,
        Words,
        "sst2-fresh-badnets",
        (Bound("clean flagged", ("flagged", "value"), 0.02, told=("outside", "outside", "clean")),),
    ),
    "blended": Row("a faint trigger over nine patches", labeled.blended, Digits, "mnist-vit-blended", (_left(0.04),)),
    "warp": Row("a smooth warp of the whole image", adaptive.everywhere, Digits, "mnist-vit-warp", seeded=False),
    "waves": Row("waves of brightness everywhere", adaptive.everywhere, Digits, "mnist-vit-waves", seeded=False),
    "digits-twin": Row("digits without a backdoor", adaptive.unattacked, Digits, "mnist-vit-warp", seeded=False),
    "two-triggers": Row("two words towards two classes", adaptive.two_triggers, Words, "sst2-two", seeded=False),
    "common-word": Row("an ordinary word", adaptive.common_word, Words, "sst2-common", seeded=False),
    "optimized-words": Row(
        "words searched in the patched graph", optimized.optimized_words, Words, "sst2-fresh-badnets", seeded=False
    ),
    "equal-tokens": Row(
        "time of scoring equal tokens together", timing.equal_tokens, Words, "sst2-fresh-badnets", seeded=False
    ),
}
