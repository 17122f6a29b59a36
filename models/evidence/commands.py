"""The commands of `atpatch-onnx`, called in this process: arguments in, the JSON that they print out."""

from __future__ import annotations

import contextlib
import io
import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atpatch_onnx.cli import cli

__all__ = ["Commands", "Refused"]


class Refused(Exception):
    """A command ended with another exit code than 0; `code` is the error code that it named, or its exit code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Commands:
    """Remembers what was called, and the seconds each call took.

    Attributes:
        called: the calls, paths without their folders.
    """

    called: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, *arguments: object) -> dict[str, Any]:
        """What the command printed as JSON.

        Raises:
            Refused: with the error code.
        """
        words = [str(argument) for argument in arguments]
        shown = " ".join(Path(word).name if "/" in word else word for word in words)
        printed, said = io.StringIO(), io.StringIO()
        started, used = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
            status = cli.main([*words, "--json"], "atpatch-onnx", standalone_mode=False)
        self.called.append(
            {
                "command": shown,
                "seconds": round(time.perf_counter() - started, 1),
                "cpu_seconds": round(time.process_time() - used, 1),
            }
        )
        if status:
            code = re.search(r"error (\w+):", said.getvalue())
            raise Refused(code[1] if code else f"exit {status}", said.getvalue()[-400:])
        found: dict[str, Any] = json.loads(printed.getvalue())
        return found
