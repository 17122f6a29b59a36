"""The kill switch: three ways to turn the patch off; from the next request on, the original answers.

1. `ATPATCH_KILL` in the environment at start (anything but empty, 0, false, no, off): the server starts with
   the patch off.
2. A file: while it exists, the patch is off. Every request checks it, so there is no watcher that could fail.
3. The admin endpoint, for clients with the token.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["KILL_VARIABLE", "KillSwitch"]

KILL_VARIABLE = "ATPATCH_KILL"
_OFF = frozenset({"", "0", "false", "no", "off"})


class KillSwitch:
    """On means that the patched arm does not run.

    Args:
        file: path whose existence turns it on, None: no file is watched.
        environment: where `ATPATCH_KILL` is looked for.
    """

    def __init__(self, file: Path | None = None, environment: Mapping[str, str] = os.environ) -> None:
        self.file = file
        self.by_admin = False
        self._environment = environment

    def sources(self) -> tuple[str, ...]:
        """Which of "admin", "file", "environment" turn it on; () is off."""
        found = ["admin"] if self.by_admin else []
        if self.file is not None and self._file_there(self.file):
            found.append("file")
        if self._environment.get(KILL_VARIABLE, "").strip().lower() not in _OFF:
            found.append("environment")
        return tuple(found)

    @staticmethod
    def _file_there(file: Path) -> bool:
        try:
            os.stat(file)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True  # unknown, so the safe side
        return True
