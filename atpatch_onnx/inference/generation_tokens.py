"""Tokens that begin and end an answer, from the files next to a model: plain JSON, perhaps a stranger's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .special_tokens import json_object

__all__ = ["start_token", "stop_tokens"]

FILES = ("generation_config.json", "genai_config.json", "config.json")
STOP, START = "eos_token_id", "decoder_start_token_id"

Folders = Sequence[str | os.PathLike[str]]


def stop_tokens(folders: Folders) -> tuple[int, ...]:
    """Those of the first file that names any."""
    for told in _files(folders):
        found = told.get(STOP)
        tokens = found if isinstance(found, list) else [found]
        if tokens and all(map(_is_token, tokens)):
            return tuple(tokens)
    return ()


def start_token(folders: Folders) -> int | None:
    """The token that begins each answer of an encoder-decoder; None where no file says it."""
    return next((found for told in _files(folders) if _is_token(found := told.get(START))), None)


def _files(folders: Folders) -> Iterator[dict[str, Any]]:
    for folder in folders:
        for name in FILES:
            told = json_object(Path(folder) / name)
            inner = told.get("model") if name.startswith("genai") else told
            yield inner if isinstance(inner, dict) else told


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
