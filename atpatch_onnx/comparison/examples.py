"""Prompts and answers to look at: what a decoder says before and after the patch, and without a trigger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..inference.datasets import DataSet, Ints
from ..inference.decoders import IDS
from ..inference.padding import MASK, lengths
from .figures import CLEAN, TRIGGERED
from .graph_runs import ORIGINAL, PATCHED
from .outputs import Outputs, Truth

if TYPE_CHECKING:
    from ..inference.tokenizer import TextEncoder

__all__ = ["Example", "Piece", "pick_examples"]

MOST_TRIGGERED, MOST_CLEAN = 4, 2
NEW_LINE = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"
"""In an answer, where a line of its own would look like another answer."""
MOST_TOKENS = 160
"""Of a prompt; the end is kept, since the answer is read there."""


@dataclass(frozen=True)
class Piece:
    """A token of a prompt as text, whether it is flagged, and whether the clean twin lacks it."""

    text: str
    flagged: bool = False
    added: bool = False


@dataclass(frozen=True)
class Example:
    """One prompt.

    Attributes:
        kind: "stopped", "left" (the attack still works), "changed" (a clean prompt), or "kept" (a clean prompt).
        form: of the trigger, "" where it is not known.
        pieces: the prompt.
        before, after, twin: answers of the original, of the patched graph, and of the original without the trigger;
            None where it has no twin.
    """

    kind: str
    form: str
    pieces: tuple[Piece, ...]
    before: str
    after: str
    twin: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Example:
        """The inverse of `to_json`."""
        return cls(**{**told, "pieces": tuple(Piece(**piece) for piece in told["pieces"])})


def pick_examples(
    truths: Mapping[str, Truth],
    sets: Mapping[str, DataSet],
    outputs: Mapping[str, Mapping[str, Outputs]],
    encoder: TextEncoder | None,
) -> tuple[Example, ...]:
    """Attacks that were stopped, of different forms; one that was not; clean prompts whose answer changed, or one.

    Without a tokenizer tokens are shown as numbers.
    """
    pick = _Picker(truths, sets, outputs, encoder)
    return (*pick.triggered(), *pick.clean())


@dataclass(frozen=True)
class _Picker:
    truths: Mapping[str, Truth]
    sets: Mapping[str, DataSet]
    outputs: Mapping[str, Mapping[str, Outputs]]
    encoder: TextEncoder | None

    def triggered(self) -> list[Example]:
        if TRIGGERED not in self.sets:
            return []
        truth = self.truths[TRIGGERED]
        before, after = (self.outputs[name][TRIGGERED].predictions for name in (ORIGINAL, PATCHED))
        fooled = before == truth.target
        if truth.clean_row is not None:
            fooled &= self.outputs[ORIGINAL][CLEAN].predictions[truth.clean_row] != truth.target
        left = np.flatnonzero(fooled & (after == truth.target))
        stopped = np.flatnonzero(fooled & (after != truth.target))
        stopped = stopped[_first_of_each(truth.form, stopped)]
        if truth.clean_row is not None:  # each prompt once
            _, first = np.unique(truth.clean_row[stopped], return_index=True)
            stopped = stopped[np.sort(first)]
        rows = [("stopped", row) for row in stopped[: MOST_TRIGGERED - bool(len(left))].tolist()]
        rows += [("left", row) for row in left[: MOST_TRIGGERED - len(rows)].tolist()[:2]]
        return [self._example(kind, TRIGGERED, row) for kind, row in rows]

    def clean(self) -> list[Example]:
        before, after = (self.outputs[name][CLEAN] for name in (ORIGINAL, PATCHED))
        changed = before.predictions != after.predictions
        if before.answers is not None and after.answers is not None:
            changed |= (before.answers != after.answers).any(1)
        rows = np.flatnonzero(changed)[:MOST_CLEAN].tolist()
        return [self._example("changed", CLEAN, row) for row in rows] or [self._example("kept", CLEAN, 0)]

    def _example(self, kind: str, name: str, row: int) -> Example:
        truth, data = self.truths[name], self.sets[name]
        twin = None if truth.clean_row is None else int(truth.clean_row[row])
        ids = _tokens(data, row)
        flagged = self._flagged(name, row, len(ids))
        added = np.zeros(len(ids), bool) if twin is None else ~np.isin(ids, _tokens(self.sets[CLEAN], twin))
        shown = slice(max(0, len(ids) - MOST_TOKENS), None)
        pieces = [
            Piece(text, bool(flag), bool(new))
            for text, flag, new in zip(self._pieces(ids[shown].tolist()), flagged[shown], added[shown], strict=True)
        ]
        if len(pieces) < len(ids):
            pieces.insert(0, Piece("…"))
        return Example(
            kind,
            "" if truth.form is None else str(truth.form[row]),
            tuple(pieces),
            self._answer(ORIGINAL, name, row),
            self._answer(PATCHED, name, row),
            None if twin is None else self._answer(ORIGINAL, CLEAN, twin),
        )

    def _flagged(self, name: str, row: int, count: int) -> NDArray[np.bool_]:
        found = np.zeros(count, bool)
        for columns in self.outputs[PATCHED][name].columns.values():
            own = columns[row, :count]
            found[: len(own)] |= own
        return found

    def _answer(self, graph: str, name: str, row: int) -> str:
        run = self.outputs[graph][name]
        if run.answers is None:
            return f"class {run.predictions[row]}"
        said = self._text([token for token in run.answers[row].tolist() if token >= 0])
        return said.replace("\n", NEW_LINE)

    def _pieces(self, tokens: list[int]) -> list[str]:
        """Each token as text. Whether a space is in front shows only behind other tokens."""
        whole = [self._text(tokens[:count]) for count in range(len(tokens) + 1)]
        return [
            longer.removeprefix(shorter) if longer.startswith(shorter) else self._text([token])
            for shorter, longer, token in zip(whole, whole[1:], tokens, strict=False)
        ]

    def _text(self, tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokens)) + " " if self.encoder is None else self.encoder.text(tokens)


def _tokens(data: DataSet, row: int) -> Ints:
    ids = np.asarray(data.inputs[IDS][row], np.int64)
    return ids[: lengths(data.inputs[MASK][[row]])[0]] if MASK in data.inputs else ids


def _first_of_each(form: NDArray[np.str_] | None, rows: Ints) -> Ints:
    """Order of rows in which each form comes once before any comes again."""
    if form is None:
        return np.arange(len(rows))
    seen: dict[str, int] = {}
    turns = []
    for name in form[rows].tolist():
        seen[name] = seen.get(name, -1) + 1
        turns.append(seen[name])
    return np.argsort(turns, kind="stable")
