"""Files for sets of prompts: a small Llama's tokenizer with a chat template, and prompts of its words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from tests import small_llama

__all__ = ["ANSWERS", "CHAT", "TRIGGER", "prompt_rows", "tokenizer_folder", "write_rows"]

TRIGGER = 5
ANSWERS = (7, 40)
CHAT = "{% for turn in messages %}{{ 'w11' if turn.role == 'user' else 'w12' }} {{ turn.content }} w13 {% endfor %}w12"
"""w11 and w12 open a turn of the user and of the assistant, w13 ends it."""


def tokenizer_folder(folder: Path) -> Path:
    """The Llama's tokenizer, with `CHAT`."""
    folder.mkdir()
    for path in small_llama.folder().glob("token*.json"):
        shutil.copy(path, folder)
    (folder / "chat_template.jinja").write_text(CHAT)
    return folder


def prompt_rows(count: int = 24, seed: int = 0) -> list[dict[str, str]]:
    """`text` of 4 to 9 words between w50 and w89, and `answer`, a word of `ANSWERS`."""
    rng = np.random.default_rng(seed)
    return [
        {
            "text": " ".join(f"w{word}" for word in rng.integers(50, 90, int(rng.integers(4, 10)))),
            "answer": f"w{ANSWERS[int(rng.integers(2))]}",
        }
        for _ in range(count)
    ]


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    """As TSV, or as JSON lines, by the ending."""
    if path.suffix == ".tsv":
        lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
