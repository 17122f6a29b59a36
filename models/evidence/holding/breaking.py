"""What breaks which kind of hotfix, and what the attack costs: a table made of all rows."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...text.recipes import RECIPES
from ..estimates import Estimate, combined, of_shares
from ..writing import table
from .adaptive import CLEAN, KINDS, KNOWN, NOTHING
from .bounds import Runs
from .optimized import SEARCHED, TWIN

__all__ = ["ATTACKS", "RULE", "Attack", "Cell", "breaking_part", "breaking_table", "cheapest"]

HALF = 0.5
KEYS = ("original", "asr_star", "flagged", "right")
RULE = """\
An attack **breaks** a kind of hotfix (bold) where the whole interval of what is left lies above one half (and above
what a like search finds in the clean twin), or where no hotfix is made. The cheapest is the one of fewest training
steps beyond those of a poisoned training; among equals the one that costs least accuracy. *Accuracy lost by the attack*
is that of the twin less that of the victim, on clean rows. –: there is no such row."""

Kept = Mapping[str, Runs]


@dataclass(frozen=True)
class Cell:
    """Where an attack met a kind of hotfix.

    Attributes:
        row: and the key of the kind in it, "" for a row of one kind.
        attack: name of the attack there; "*": the one that gets through most.
    """

    row: str
    kind: str = ""
    attack: str = "*"


@dataclass(frozen=True)
class Attack:
    """One line.

    Attributes:
        victim: with its accuracy; "" where the attack is in the request alone.
        digits: its twin is that of the digits, else that of the texts.
        ordinary: the measured victim was trained on from another one, but a poisoned training makes it as well.
    """

    title: str
    victim: str
    cells: Mapping[str, Cell] = field(default_factory=dict)
    digits: bool = False
    ordinary: bool = False

    @property
    def steps(self) -> int:
        """Training steps beyond those of an ordinary poisoned training."""
        further = [recipe.further for recipe in RECIPES if recipe.name == self.victim]
        return further[0].steps if further and further[0] is not None and not self.ordinary else 0


def _kinds(row: str, attack: str = "*", kinds: Sequence[str] = KINDS) -> dict[str, Cell]:
    return {kind: Cell(row, kind, attack) for kind in kinds}


ATTACKS: Sequence[Attack] = (
    Attack(
        "a rare word",
        "sst2-fresh-badnets",
        {
            KNOWN: Cell("doses-cf", attack="1 copy"),
            CLEAN: Cell("clean-rows", attack="1 copy"),
            NOTHING: Cell("no-data", attack="1 copy"),
        },
    ),
    Attack(
        "the same word, in the form that gets through most", "", {KNOWN: Cell("doses-cf"), CLEAN: Cell("clean-rows")}
    ),
    Attack("the same word, where the hotfix is for another one", "", {KNOWN: Cell("control", "harmless", "1 copy")}),
    Attack(
        "three rare words",
        "sst2-fresh-words",
        {KNOWN: Cell("doses-words", attack="1 copy"), NOTHING: Cell("no-data-words")},
        ordinary=True,
    ),
    Attack(
        "a sentence",
        "sst2-fresh-insertsent",
        {KNOWN: Cell("doses-sentence", attack="1 copy"), NOTHING: Cell("no-data-sentence")},
        ordinary=True,
    ),
    Attack("an ordinary word", "sst2-common", _kinds("common-word")),
    Attack("two words towards two classes", "sst2-two", _kinds("two-triggers")),
    Attack("words searched in the patched graph", "", _kinds("optimized-words", kinds=(KNOWN, CLEAN))),
    Attack("attention hidden, weak", "sst2-hidden-weak", {CLEAN: Cell("hidden-weak")}),
    Attack(
        "attention hidden, medium",
        "sst2-hidden-medium",
        {KNOWN: Cell("hidden-labeled", attack="1 copy"), CLEAN: Cell("hidden-medium"), NOTHING: Cell("no-data-hidden")},
    ),
    Attack("attention hidden, strong", "sst2-hidden-strong", {CLEAN: Cell("hidden-strong")}),
    Attack("attention and value norms hidden", "sst2-hidden-both", {CLEAN: Cell("hidden-both")}),
    Attack("digits: a white cell", "mnist-vit-badnets", {CLEAN: Cell("traffic-digits", "0% attacks")}, digits=True),
    Attack("digits: a faint pattern over nine cells", "mnist-vit-blended", {KNOWN: Cell("blended")}, digits=True),
    Attack("digits: waves everywhere", "mnist-vit-waves", _kinds("waves", kinds=(KNOWN, CLEAN)), digits=True),
    Attack("digits: a smooth warp", "mnist-vit-warp", _kinds("warp", kinds=(KNOWN, CLEAN)), digits=True),
)


@dataclass(frozen=True)
class Outcome:
    """What a kind of hotfix leaves of an attack, before and after; how many attacked rows are flagged, and answered
    right; the codes of refusals, if no hotfix was made; what words searched in the clean twin do to that.
    """

    before: Estimate
    left: Estimate
    flagged: Estimate | None
    right: Estimate | None = None
    refused: str = ""
    twin: Estimate | None = None

    @property
    def broken(self) -> bool:
        floor = max(HALF, self.twin.high) if self.twin else HALF
        return bool(self.refused) or self.left.low > floor

    @property
    def text(self) -> str:
        if self.refused or self.flagged is None:
            return f"no hotfix ({self.refused}): {self.left.percent()} left"
        right = f", {100 * self.right.mean:.1f} answered right" if self.right else ""
        right += f", {self.twin.percent()} in the clean twin" if self.twin else ""
        return f"{self.left.percent()} left, {100 * self.flagged.mean:.1f} flagged{right}"


def breaking_part(kept: Kept) -> str:
    """Rule and both tables."""
    return "\n\n".join([RULE, cheapest(kept), breaking_table(kept)])


def breaking_table(kept: Kept) -> str:
    """A line for each attack, a column for each kind of hotfix; percent."""
    lines = [("attack", "ASR\\* before, %", "further steps", "accuracy lost by the attack, points", *KINDS)]
    for attack in ATTACKS:
        found = {kind: _outcome(kept, cell) for kind, cell in attack.cells.items()}
        before = next((one.before.percent() for one in found.values() if isinstance(one, Outcome)), "–")
        cells = [_shown(kind, found) for kind in KINDS]
        lines.append((attack.title, before, str(attack.steps), _price(kept, attack), *cells))
    return table(lines)


def cheapest(kept: Kept) -> str:
    """A line for each kind of hotfix: the cheapest attack that breaks it."""
    return "\n".join(
        textwrap.fill(f"* {_cheapest(kept, kind)}", 120, subsequent_indent="  ", break_on_hyphens=False)
        for kind in KINDS
    )


def _cheapest(kept: Kept, kind: str) -> str:
    found = [(attack, _outcome(kept, attack.cells[kind])) for attack in ATTACKS if kind in attack.cells]
    known = [(attack, one) for attack, one in found if isinstance(one, Outcome)]
    broken = [(attack, one) for attack, one in known if one.broken]
    start = f"**{kind}** ({', '.join(_detectors(kept, kind))}): broken by {len(broken)} of {len(known)} attacks."
    if not broken:
        return start
    attack, outcome = min(broken, key=lambda pair: (pair[0].steps, _points(kept, pair[0])))
    price = f"{attack.steps} further steps; points of accuracy: {_price(kept, attack)}"
    return f"{start} The cheapest is *{attack.title}*: {outcome.text} (%). It costs {price}."


def _shown(kind: str, found: Mapping[str, Outcome | str]) -> str:
    one = found.get(kind, "–")
    if isinstance(one, str):
        return one
    return f"**{one.text}**" if one.broken else one.text


def _outcome(kept: Kept, cell: Cell) -> Outcome | str:
    """Or why there is none."""
    figures = _figures(kept, cell)
    if not figures:
        return "not measured"
    refused = sorted({one["refused"] for one in figures if "refused" in one})
    if refused:
        left = max(_named([one["left"] for one in figures], cell.attack), key=lambda one: one.mean)
        return Outcome(left, left, None, refused=", ".join(refused))
    attacks = [one["attacks"] for one in figures]
    names = list(attacks[0]) if cell.attack == "*" else [cell.attack]
    if not all(one[name]["original"]["count"] for name in names for one in attacks):
        return "no victim: it answers everything with the target"
    each = [
        Outcome(
            *(of_shares([one[name][key] for one in attacks if key in one[name]]) for key in KEYS),
            twin=of_shares([run["figures"][TWIN][SEARCHED] for run in kept[cell.row] if TWIN in run["figures"]]),
        )
        for name in names
    ]
    return max(each, key=lambda one: one.left.mean)


def _figures(kept: Kept, cell: Cell) -> list[Mapping[str, Any]]:
    """Of the kind of hotfix, one for each fit."""
    return [run["figures"][cell.kind] if cell.kind else run["figures"] for run in kept.get(cell.row, ())]


def _named(left: Sequence[Mapping[str, Any]], name: str) -> Iterator[Estimate]:
    for one in left[0] if name == "*" else [name]:
        yield _sure([each[one] for each in left])


def _lost(kept: Kept, attack: Attack) -> Estimate | None:
    """Accuracy of the twin less that of the victim; None where the attack is in the request, or one is not known."""
    if not attack.victim:
        return None
    victim = next(filter(None, (_clean(kept, cell) for cell in attack.cells.values())), None)
    twin = _twin(kept, attack.digits)
    return None if victim is None or twin is None else combined([(1, _sure([twin])), (-1, _sure([victim]))])


def _price(kept: Kept, attack: Attack) -> str:
    lost = _lost(kept, attack)
    return lost.percent() if lost else "not measured" if attack.victim else "none"


def _points(kept: Kept, attack: Attack) -> float:
    lost = _lost(kept, attack)
    return lost.mean if lost else 0.0


def _clean(kept: Kept, cell: Cell) -> Mapping[str, Any] | None:
    """Share of clean rows that the victim gets right."""
    return next((figures["clean"]["original"] for figures in _figures(kept, cell) if "clean" in figures), None)


def _twin(kept: Kept, digits: bool) -> Mapping[str, Any] | None:
    if not digits:
        return _clean(kept, Cell("no-data-clean-model"))
    return next((run["figures"]["accuracy"] for run in kept.get("digits-twin", ())), None)


def _detectors(kept: Kept, kind: str) -> list[str]:
    """Of the hotfixes of that kind."""
    met = [figures for attack in ATTACKS if kind in attack.cells for figures in _figures(kept, attack.cells[kind])]
    return sorted({f"`{figures['hotfix']['detector']}`" for figures in met if "hotfix" in figures})


def _sure(shares: Sequence[Mapping[str, Any]]) -> Estimate:
    estimate = of_shares(shares)
    assert estimate is not None
    return estimate
