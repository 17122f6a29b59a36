"""Writing a file in one step: afterwards it is there complete, or what was there before still is."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from .errors import NOT_WRITABLE

__all__ = ["write_file"]


def write_file(path: Path, data: bytes) -> None:
    """Temporary file in the same folder, fsync, rename, fsync of the folder.

    Raises:
        AtpatchError: ATP019 where it cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if path.exists():
                temporary.chmod(path.stat().st_mode & 0o7777)
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise NOT_WRITABLE(f"{path} cannot be written: {error.strerror or error}") from error
    # Not every file system lets a folder be synced; the rename itself is done.
    with contextlib.suppress(OSError):
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
