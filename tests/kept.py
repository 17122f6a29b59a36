"""Files that tests make once: other workers and later runs find them in a cache."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["cache_folder", "kept"]


def cache_folder() -> Path:
    """The folder of all that is kept."""
    return Path(os.environ.get("ATPATCH_TEST_CACHE") or Path(__file__).parent / ".cache")


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """The file of this name in the cache; where it is not there yet, `make` writes it. Do not write to it.

    The name has to tell all that the content depends on.
    """
    path = cache_folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (cache_folder() / ".gitignore").write_text("*\n")
    if not path.exists():
        # One worker makes it, the others wait: it costs seconds of processor time.
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                partial = path.with_suffix(".partial")
                make(partial)
                partial.replace(path)
    return path
