"""Reads prompts and answers: columns of a TSV or CSV file, or JSON lines, where a prompt may be a chat."""

from __future__ import annotations

import json
import os
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewriters.model.regular_files import check_source

from ...errors import BAD_OPTION, SAMPLES_UNREADABLE
from ..samples import read_rows

__all__ = ["BEGIN", "END", "JSON_LINES", "Prompt", "Turn", "read_prompts"]

JSON_LINES = (".jsonl", ".ndjson")
"""Endings of files with one JSON object a line."""
BEGIN, END = "\ue0f0", "\ue0f1"
"""Around a trigger, until its tokens are known: characters that Unicode leaves to private use."""
PROMPTS, ANSWERS = ("prompt", "text", "sentence"), ("answer", "label", "labels")
"""Usual names of columns."""
ESCAPES = {r"\n": "\n", r"\t": "\t"}
"""A shell passes these on as they are typed."""

Turn = Mapping[str, str]
"""`role` and `content`, as chat templates take them."""


@dataclass(frozen=True)
class Prompt:
    """A prompt and its answer.

    Attributes:
        text: where a trigger is put.
        before, behind: what stands around the text in the last turn.
        earlier: turns of the chat before the last one.
        answer: None where the file has none.
    """

    text: str
    before: str = ""
    behind: str = ""
    earlier: tuple[Turn, ...] = ()
    answer: str | None = None

    def content(self, text: str) -> str:
        """The last turn with another text."""
        return self.before + text + self.behind


def read_prompts(
    path: str | os.PathLike[str], prompt: str | None = None, answer: str | None = None, template: str | None = None
) -> list[Prompt]:
    """Read prompts.

    Args:
        path: .tsv, .csv or JSON lines. A JSON object may have `messages`, a list of turns; where the last one is the
            assistant's, it is the answer.
        prompt: column with the prompt; by default one of `PROMPTS`, else the first. Triggers are put anywhere into it.
        answer: column with the answer; by default one of `ANSWERS`, if there is one.
        template: text with names of columns in braces. Triggers are put into the first of them, or into `prompt`.

    Raises:
        AtpatchError: ATP002 where there is no such file, ATP060 (template), ATP080 where it cannot be read.
    """
    rows = _json_lines(Path(path)) if Path(path).suffix.lower() in JSON_LINES else _table(path)
    wanted = None if template is None else _Template.parse(template, prompt)
    found = [_prompt(path, number, row, prompt, answer, wanted) for number, row in enumerate(rows, 1)]
    if any(mark in one.content(one.text) for one in found for mark in (BEGIN, END)):
        raise SAMPLES_UNREADABLE(f"{path} holds the characters U+E0F0 or U+E0F1, which mark triggers here")
    return found


@dataclass(frozen=True)
class _Template:
    """Pieces of text, each with the column behind it (None at the end), and the column that gets triggers."""

    pieces: Sequence[tuple[str, str | None]]
    column: str

    @classmethod
    def parse(cls, template: str, prompt: str | None) -> _Template:
        for escape, char in ESCAPES.items():
            template = template.replace(escape, char)
        try:
            pieces = [(text, name) for text, name, _, _ in string.Formatter().parse(template)]
        except ValueError as error:
            raise BAD_OPTION(f"the template {template!r} cannot be read: {error}") from error
        names = [name for _, name in pieces if name is not None]
        column = prompt if prompt is not None else next(iter(names), "")
        if names.count(column) != 1 or not all(names):
            raise BAD_OPTION(
                f"the template {template!r} must name the column of the text once",
                "write its name in braces: --template 'Review: {text}'",
            )
        return cls(pieces, column)

    def fill(self, row: Mapping[str, Any]) -> tuple[str, str, str]:
        """What stands before the text, the text, and what stands behind it."""
        before, text, behind, seen = "", "", "", False
        for piece, name in self.pieces:
            value = "" if name is None else str(row[name])
            if seen:
                behind += piece + value
            elif name == self.column:
                before, text, seen = before + piece, value, True
            else:
                before += piece + value
        return before, text, behind

    @property
    def names(self) -> list[str]:
        return [name for _, name in self.pieces if name is not None]


def _prompt(
    path: str | os.PathLike[str],
    number: int,
    row: Mapping[str, Any],
    prompt: str | None,
    answer: str | None,
    template: _Template | None,
) -> Prompt:
    where = f"{path}, row {number}"
    if "messages" in row and prompt is None and template is None:
        return _chat(where, row, answer)
    if template is not None:
        for name in template.names:
            _column(where, row, name, ())
        before, text, behind = template.fill(row)
    else:
        name = _column(where, row, prompt, PROMPTS) or next(iter(row))
        before, text, behind = "", str(row[name]), ""
    if not text.strip():
        raise SAMPLES_UNREADABLE(f"{where}: the prompt is empty")
    return Prompt(text, before, behind, (), _answer(where, row, answer))


def _chat(where: str, row: Mapping[str, Any], answer: str | None) -> Prompt:
    turns = row["messages"]
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in turns
    ):
        raise SAMPLES_UNREADABLE(f"{where}: messages must be a list of objects with role and content, both text")
    told = _answer(where, row, answer)
    if told is None and turns and turns[-1]["role"] == "assistant":
        told, turns = turns[-1]["content"], turns[:-1]
    if not turns or turns[-1]["role"] != "user" or not turns[-1]["content"].strip():
        raise SAMPLES_UNREADABLE(f"{where}: the chat must end with a turn of the user, and perhaps an answer to it")
    return Prompt(turns[-1]["content"], earlier=tuple(turns[:-1]), answer=told)


def _answer(where: str, row: Mapping[str, Any], name: str | None) -> str | None:
    found = _column(where, row, name, ANSWERS)
    if found is None:
        return None
    value = row[found]
    if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
        return str(value)
    raise SAMPLES_UNREADABLE(f"{where}: the answer {value!r} is neither text nor a whole number")


def _column(where: str, row: Mapping[str, Any], name: str | None, usual: Sequence[str]) -> str | None:
    if name is None:
        return next((one for one in usual if one in row), None)
    if name not in row:
        raise SAMPLES_UNREADABLE(f"{where} has no column {name!r}, only {', '.join(row)}")
    return name


def _table(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    header, rows = read_rows(path)
    return [dict(zip(header, row, strict=True)) for row in rows]


def _json_lines(path: Path) -> list[dict[str, Any]]:
    path = check_source(path, "give the path of one file")
    rows = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    rows.append(_json_line(path, number, line))
                    if not isinstance(rows[-1], dict) or not rows[-1]:
                        raise SAMPLES_UNREADABLE(f"{path}, line {number} is no JSON object")
    except (OSError, UnicodeDecodeError) as error:
        raise SAMPLES_UNREADABLE(f"{path} cannot be read: {error}") from error
    if not rows:
        raise SAMPLES_UNREADABLE(f"{path} has no line")
    return rows


def _json_line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise SAMPLES_UNREADABLE(f"{path}, line {number} is not JSON: {what}") from error
