"""The folder that is written to. Nothing outside it is touched, a folder with other files is refused, and a second run
replaces what the first one wrote.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rewriters.model.atomic import write_file
from rewriters.model.external_data import place_data
from rewriters.model.regular_files import check_source

from ..errors import FOLDER_FOREIGN, NOT_WRITABLE, AtpatchError
from ..inspection.folders import is_folder
from .models import Source

__all__ = ["MARKER", "Deployed", "Folder"]

MARKER = ".atpatch-deploy.json"
"""Says which command wrote which files here."""


@dataclass(frozen=True)
class Deployed:
    """What was written.

    Attributes:
        folder: where.
        files: relative to it.
        notes: what to know before going on.
        commands: how to go on, one shell line each.
    """

    folder: Path
    files: tuple[str, ...]
    notes: tuple[str, ...]
    commands: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "files": list(self.files),
            "notes": list(self.notes),
            "commands": list(self.commands),
        }


class Folder:
    """Open a folder for one kind of deployment.

    The list of files is written before the first of them, so that a run that was cut off can be repeated.

    Args:
        path: made if need be.
        kind: command that writes here.
        texts: relative path → content.
        models: relative path of the model file → model; its external data goes next to it.
        link: hard-link external data instead of copying it.
        used: names that the running server makes in the folder later; they are not removed.

    Raises:
        AtpatchError: ATP090 where the folder holds something else, ATP019 where it cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        kind: str,
        texts: dict[str, str],
        models: dict[str, Source],
        *,
        link: bool = False,
        used: Sequence[str] = (),
    ) -> None:
        self.path = Path(path)
        self._link = link
        self._used = used
        data = [str(PurePosixPath(name).parent / location) for name, model in models.items() for location in model.data]
        self.files = tuple(sorted({*texts, *models, *data}))
        earlier = self._open(kind)
        marker = {"written by": f"atpatch-onnx deploy {kind}", "files": sorted({*earlier, *self.files})}
        write_file(self.path / MARKER, (json.dumps(marker, indent=2) + "\n").encode())
        # Weights are never written over in place: an engine may have the old ones mapped.
        for name in {*earlier, *data} - {*texts, *models}:
            self._remove(name)
        for name, model in models.items():
            self._bring(name, model)
        for name, text in texts.items():
            write_file(self._place(name), text.encode())
        self._remove_empty(earlier)
        write_file(self.path / MARKER, (json.dumps(marker | {"files": list(self.files)}, indent=2) + "\n").encode())

    def _open(self, kind: str) -> Sequence[str]:
        """Files of an earlier run."""
        if os.path.islink(self.path) or (os.path.exists(self.path) and not is_folder(self.path)):
            raise FOLDER_FOREIGN(f"{self.path} is not a folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            present = set(os.listdir(self.path))
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            words = getattr(error, "strerror", None) or str(error)
            raise NOT_WRITABLE(f"{str(self.path)[:200]} cannot be written: {words}") from error
        if not present:
            return ()
        earlier: list[str] = []
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AtpatchError):
            marker = json.loads(check_source(self.path / MARKER).read_text("utf-8"))
            if marker["written by"] == f"atpatch-onnx deploy {kind}":
                earlier = [str(name) for name in marker["files"]]
        known = {PurePosixPath(name).parts[0] for name in earlier if name} | {MARKER, *self._used}
        if not earlier or present - known:
            strange = sorted(present - known) or sorted(present)
            raise FOLDER_FOREIGN(f"{self.path} holds {strange[0]!r}, which 'deploy {kind}' did not write")
        return earlier

    def _place(self, name: str) -> Path:
        """Where a file goes, its folder made. Raises ATP090 where a link would lead out of the folder."""
        path = self.path / name
        if not self._inside(name) or not path.parent.resolve().is_relative_to(self.path.resolve()):
            raise FOLDER_FOREIGN(f"{name!r} would be written outside {self.path}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NOT_WRITABLE(f"{path.parent} cannot be made: {error.strerror or error}") from error
        return path

    @staticmethod
    def _inside(name: str) -> bool:
        parts = PurePosixPath(name).parts
        return bool(parts) and ".." not in parts and not PurePosixPath(name).is_absolute()

    def _remove(self, name: str) -> None:
        # Somebody may have changed the list: only files inside are removed, and no link is followed.
        path = self.path / name
        if self._inside(name) and path.parent.resolve().is_relative_to(self.path.resolve()):
            with contextlib.suppress(OSError):
                path.unlink()

    def _remove_empty(self, names: Sequence[str]) -> None:
        folders = {self.path.joinpath(*PurePosixPath(name).parts[:depth]) for name in names for depth in range(1, 9)}
        for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
            if folder != self.path and folder.resolve().is_relative_to(self.path.resolve()) and not folder.is_symlink():
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def _bring(self, name: str, model: Source) -> None:
        target = self._place(name)
        try:
            if target.is_dir():
                shutil.rmtree(target)
            data = model.path.read_bytes()
        except OSError as error:
            raise NOT_WRITABLE(f"{target} cannot be written: {error.strerror or error}") from error
        place_data(model.proto, model.path.parent, target.parent, link=self._link)
        write_file(target, data)
