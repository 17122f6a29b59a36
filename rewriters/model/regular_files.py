"""Only regular files are read, and only regular files are replaced.

This is checked before a file is opened: opening a FIFO may wait forever, and renaming onto a device or a link replaces
it in the file system.

1. A source is a regular file, or a symbolic link to one.
2. A log, to which lines are appended, is free, or a regular file or a link to one.
3. A destination is free, or a regular file. A symbolic link is refused: writing through it would change a file
   that the user did not name (caches are full of such links), replacing it would remove others' way to that file.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import NO_SUCH_FILE, NOT_REGULAR, NOT_WRITABLE

__all__ = ["cache_blobs", "check_destination", "check_log", "check_source", "is_regular"]

_KINDS = (
    (stat.S_ISLNK, "symbolic link"),
    (stat.S_ISFIFO, "FIFO"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "character device"),
    (stat.S_ISBLK, "block device"),
)


def check_source(path: str | os.PathLike[str], advice: str | None = None) -> Path:
    """The path, if it can be opened and read to its end.

    Args:
        advice: how to fix it if the path is missing or a folder.

    Raises:
        AtpatchError: ATP002 where it is missing, a folder, or no name a file can have; ATP021 for a FIFO, a socket or a
            device.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise NO_SUCH_FILE(f"{_short(path)} cannot be read: {_words(error)}", advice) from error
    if stat.S_ISDIR(mode):
        raise NO_SUCH_FILE(f"{path} is a directory", advice)
    if not stat.S_ISREG(mode):
        raise NOT_REGULAR(
            f"{path} is a {_kind(mode)}, not a regular file", "save its content to a regular file, and give that"
        )
    return path


def check_log(path: str | os.PathLike[str]) -> Path:
    """The path, if lines can be appended to a file there.

    Raises:
        AtpatchError: ATP019 where the folder is missing, the path is a folder, or no name a file can have; ATP021 for a
            FIFO, a socket or a device.
    """
    if not os.path.islink(path):
        return check_destination(path)
    check_destination(os.path.realpath(path))
    return Path(path)


def check_destination(path: str | os.PathLike[str], *, make_folder: bool = False) -> Path:
    """The path, if a file may be written there. Commands check it before the work, `atomic.write_file` checks again.

    Args:
        make_folder: the folder may be missing, since it is made later.

    Raises:
        AtpatchError: ATP019 where the folder is missing, the path is a folder, or no name a file can have; ATP021 where
            it is anything but a regular file, even a symbolic link.
    """
    path = Path(path)
    if not path.name:
        raise NOT_WRITABLE(f"{path} is a directory", "give a file name")
    if str(path) == "-":
        raise NOT_WRITABLE("'-' is not a file: only --json writes to the standard output", "give a file name")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if not make_folder and not path.parent.is_dir():
            raise NOT_WRITABLE(f"the folder {path.parent} does not exist", "make the folder first") from None
        return path
    except (OSError, ValueError) as error:
        raise NOT_WRITABLE(
            f"{_short(path)} cannot be written: {_words(error)}", "give another name for the output"
        ) from error
    if stat.S_ISDIR(mode):
        raise NOT_WRITABLE(f"{path} is a directory", "give a file name")
    if stat.S_ISLNK(mode):
        raise NOT_REGULAR(
            f"{path} is a symbolic link to {os.readlink(path)}", "give the file that the link leads to, or another name"
        )
    if not stat.S_ISREG(mode):
        raise NOT_REGULAR(
            f"{path} is a {_kind(mode)}, and would be replaced by a file", "give the name of a regular file"
        )
    return path


def is_regular(path: Path) -> bool:
    """Whether a path leads to a regular file; False too where no file can have the name."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def cache_blobs(folder: Path) -> Path | None:
    """The folder with the bytes, symbolic links followed, if `folder` is a snapshot in a Hugging Face cache, or lies in
    one. The snapshot `<repository>/snapshots/<revision>` consists of links into `<repository>/blobs`.
    """
    path = Path(os.path.abspath(folder))
    for part in (path, *path.parents):
        repository = part.parent.parent
        # not where `blobs` is a link itself, which could lead anywhere
        if part.parent.name == "snapshots" and (blobs := repository / "blobs").is_dir() and not blobs.is_symlink():
            return blobs.resolve()
    return None


def _kind(mode: int) -> str:
    return next((name for holds, name in _KINDS if holds(mode)), "special file")


def _words(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 200 else f"{text[:80]}…{text[-40:]} ({len(os.fsencode(path))} bytes)"
