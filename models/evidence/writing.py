"""How evidence is written: figures as JSON, tables as Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewriters.model.atomic import write_file

__all__ = ["save_json", "table"]


def save_json(file: Path, whole: Any) -> None:
    """All or nothing; one value a line, so that differences can be read."""
    write_file(file, (json.dumps(whole, indent=1) + "\n").encode())


def table(lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first line is its head."""
    head, *rest = lines
    return "\n".join(
        ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(line) + " |" for line in rest)]
    )
