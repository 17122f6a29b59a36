"""Writes a file in one step: afterwards the complete new file is there, or the old one is unchanged.

1. Where the system allows it (Linux, most file systems), the content goes into a file without a name, so that a killed
   process leaves nothing behind. It gets its name when it is complete and on the disk.
2. Elsewhere, and while an old file is replaced, it has a temporary name in the same folder and is locked. A locked file
   has a writer. A file that a killed process left is not locked, and the next save into that folder removes it.
3. Only regular files are replaced (see `regular`); an old file's permissions are kept.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import NOT_WRITABLE
from .regular_files import check_destination

if sys.platform != "win32":
    import fcntl

__all__ = ["is_temporary", "staged", "workshop", "write_file"]

_PREFIX = ".atpatch-"
_SUFFIX = ".tmp"
_LOCK, _UNLOCKED = "lock", "unlocked"


def write_file(path: Path, data: bytes) -> None:
    """Put bytes at a path.

    Raises:
        AtpatchError: ATP019 where it cannot be written, ATP021 where the path is something other than a regular file;
            nothing is left behind.
    """
    check_destination(path)
    try:
        with staged(path, replace=True) as file:
            file.write(data)
    except OSError as error:
        raise NOT_WRITABLE(f"{path} cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def staged(path: Path, *, replace: bool) -> Iterator[BinaryIO]:
    """A file to write into, which gets its name when the block ends without an exception.

    Args:
        replace: whether a file of that name is replaced; else it raises FileExistsError.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    _remove_stale(path.parent)
    descriptor, temporary = _open(path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if replace and path.exists():
                os.chmod(file.fileno() if sys.platform != "win32" else temporary or path, path.stat().st_mode & 0o7777)
            os.fsync(file.fileno())
            if temporary is None:
                temporary = _name(file.fileno(), path)
            if temporary is not None and sys.platform != "win32":
                _publish(temporary, path, replace)
        if temporary is not None and sys.platform == "win32":
            _publish(temporary, path, replace)
        _sync(path.parent)
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def workshop(parent: Path) -> Iterator[Path]:
    """A hidden folder for unfinished files, on the file system of the finished ones; removed afterwards.

    Raises:
        AtpatchError: ATP019 where it cannot be made.
    """
    _remove_stale(parent)
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, suffix=_SUFFIX, dir=parent))
    except OSError as error:
        raise NOT_WRITABLE(f"the folder {parent} cannot be written: {error.strerror or error}") from error
    try:
        with (folder / _UNLOCKED).open("wb") as lock:
            _lock(lock.fileno())
            if sys.platform != "win32":  # which knows no locks, and lets no open file be renamed
                (folder / _UNLOCKED).rename(folder / _LOCK)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is, or was, an unfinished one."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def _open(folder: Path) -> tuple[int, Path | None]:
    """A new file to write into, and its temporary name; None: it has none yet."""
    if sys.platform == "linux" and hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
        # some file systems have no files without a name; they report several error numbers
        with contextlib.suppress(OSError):
            return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666), None
    while True:
        temporary = _temporary(folder)
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0), 0o666)
        _lock(descriptor)
        if not _is_gone(descriptor):
            return descriptor, temporary
        os.close(descriptor)


def _is_gone(descriptor: int) -> bool:
    """Whether another process removed the file as stale just before it was locked."""
    return sys.platform != "win32" and not os.fstat(descriptor).st_nlink


def _name(descriptor: int, path: Path) -> Path | None:
    """Give a file without a name its own name, or where that is taken a temporary one, which is returned."""
    _lock(descriptor)
    with contextlib.suppress(FileExistsError):
        _link(descriptor, path)
        return None
    temporary = _temporary(path.parent)
    _link(descriptor, temporary)
    return temporary


def _link(descriptor: int, path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # The folder descriptors make Python call linkat; only linkat can follow the link in /proc.
        os.link(f"/proc/self/fd/{descriptor}", path.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def _publish(temporary: Path, path: Path, replace: bool) -> None:
    if replace:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path)  # fails where the name is taken
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(f"{path} appeared while it was being made") from None
        temporary.rename(path)


def _temporary(folder: Path) -> Path:
    """A short temporary name, since the output's name may be as long as the file system allows."""
    return folder / f"{_PREFIX}{uuid.uuid4().hex[:16]}{_SUFFIX}"


def _lock(descriptor: int) -> None:
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_stale(folder: Path) -> None:
    """Remove what killed processes left in a folder: temporary files and folders without a lock."""
    with contextlib.suppress(OSError):
        for left in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                if not left.is_symlink():
                    _remove_unless_locked(left)


def _remove_unless_locked(left: Path) -> None:
    if sys.platform != "win32":
        held = os.open(left / _LOCK if left.is_dir() else left, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()
        finally:
            os.close(held)


def _sync(folder: Path) -> None:
    # Not every file system can sync a folder; the file has its name anyway.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
