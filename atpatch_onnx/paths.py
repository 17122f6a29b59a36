"""Files that a command was given: digests of them, and a check that none is written over."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .errors import OUTPUT_IS_INPUT

__all__ = ["refuse_overwriting", "sha256_of"]


def refuse_overwriting(source: Path, destination: Path, fix: str | None = None) -> None:
    """Raises OUTPUT_IS_INPUT where both paths lead to one file; `fix` replaces its advice."""
    same = os.path.exists(destination) and os.path.exists(source) and os.path.samefile(destination, source)
    if same or os.path.abspath(source) == os.path.abspath(destination):
        raise OUTPUT_IS_INPUT(f"the output {destination} is the input", fix)


def sha256_of(path: Path) -> str:
    """Of a whole file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
