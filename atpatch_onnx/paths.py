"""Files that a command was given: digests of them, and a check that none is written over; a place for its own."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from rewriters.model.atomic import workshop

from .errors import OUTPUT_IS_INPUT

__all__ = ["refuse_overwriting", "sha256_of", "temporary_folder"]


def refuse_overwriting(source: Path, destination: Path, fix: str | None = None) -> None:
    """Raises OUTPUT_IS_INPUT where both paths lead to one file; `fix` replaces its advice."""
    same = os.path.exists(destination) and os.path.exists(source) and os.path.samefile(destination, source)
    if same or os.path.abspath(source) == os.path.abspath(destination):
        raise OUTPUT_IS_INPUT(f"the output {destination} is the input", fix)


def sha256_of(path: Path) -> str:
    """Of a whole file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary_folder() -> AbstractContextManager[Path]:
    """A folder in the system's temporary one that only this user may read, removed at the end. Models are large: what a
    killed process left there goes when the next one asks for such a folder.

    Raises:
        AtpatchError: ATP019 where it cannot be made.
    """
    return workshop(Path(tempfile.gettempdir()))
