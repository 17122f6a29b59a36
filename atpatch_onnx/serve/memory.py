"""Gives memory back after large requests, since glibc keeps freed blocks between others until it is asked."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

__all__ = ["Trimmer"]

_DELAY = 1.0
"""Seconds to wait until requests that came together have ended; also the shortest time between two trims."""


class Trimmer:
    """Asks glibc from time to time to give free memory back; does nothing with another C library."""

    def __init__(self) -> None:
        self._due = False
        self._trim = _malloc_trim()

    def soon(self) -> None:
        """Note that a large request has ended. Call it on the event loop."""
        if self._due or self._trim is None:
            return
        self._due = True
        asyncio.get_running_loop().call_later(_DELAY, self._start, self._trim)

    def _start(self, trim: Callable[[int], int]) -> None:
        self._due = False
        asyncio.get_running_loop().run_in_executor(None, trim, 0)


def _malloc_trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    return trim
