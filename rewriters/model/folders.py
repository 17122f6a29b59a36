"""Makes a folder like another one, with some files replaced, in one step.

1. Files are hard-linked or copied. Small files are always copied: people edit configurations, and an edit of a linked
   file would change both folders. No file of the source is ever written to.
2. A symbolic link that stays inside the folder becomes the same link in the new folder, so that a link to a replaced
   file leads to the new one.
3. A snapshot in a Hugging Face cache consists of links into the folder `blobs` of its repository. They become files.
4. Any other link out of the folder is refused: it could bring a file along that was never meant to be there.
5. FIFOs, sockets and devices are refused.
6. The new folder gets its name when it is complete. A folder that exists is never touched, except an empty one.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import (
    FOLDER_EXISTS,
    LINK_ESCAPES,
    NO_SUCH_FILE,
    NOT_REGULAR,
    NOT_WRITABLE,
    OUTPUT_INSIDE,
    OUTPUT_IS_INPUT,
)
from .atomic import is_temporary, workshop
from .external_data import bring_file
from .regular_files import cache_blobs, is_regular

__all__ = ["Member", "Mirrored", "check_new_folder", "members", "mirror", "new_folder"]

_LINKED_FROM = 1 << 20
"""Bytes from which on a file is linked. Weights are larger, configurations are smaller."""


@dataclass(frozen=True)
class Member:
    """A file, a folder or a symbolic link in a folder.

    Attributes:
        path: relative to the folder, with slashes.
        origin: the file with the bytes. None for a folder or a link.
        link: of a symbolic link, where it leads, seen from its own folder; "" for a file or a folder.
    """

    path: str
    origin: Path | None
    link: str = ""


@dataclass(frozen=True)
class Mirrored:
    """How many files `mirror` linked and copied."""

    linked: int
    copied: int


def members(folder: Path) -> tuple[Member, ...]:
    """Everything in a folder, sorted by path; folders come before what is in them.

    Raises:
        AtpatchError: ATP002 (unreadable folder), ATP021 (FIFO, socket, device), ATP027 (a link leads out).
    """
    root = folder.resolve()
    blobs = cache_blobs(folder)
    try:
        return tuple(_walk(root, root, blobs))
    except OSError as error:
        raise NO_SUCH_FILE(f"{folder} cannot be read: {error.strerror or error}") from error


def _walk(root: Path, folder: Path, blobs: Path | None) -> Iterator[Member]:
    for entry in sorted(os.scandir(folder), key=lambda one: one.name):
        if is_temporary(entry.name):
            continue
        path = Path(entry.path)
        name = path.relative_to(root).as_posix()
        if entry.is_symlink():
            yield _link(root, path, name, blobs)
        elif entry.is_dir():
            yield Member(name, None)
            yield from _walk(root, path, blobs)
        elif entry.is_file():
            yield Member(name, path)
        else:
            raise NOT_REGULAR(f"{path} is not a regular file", "take it out of the folder")


def _link(root: Path, path: Path, name: str, blobs: Path | None) -> Member:
    try:
        target = path.resolve()
    except (OSError, RuntimeError) as error:  # a circle of links
        raise LINK_ESCAPES(f"the symbolic link {path} leads nowhere") from error
    if target.is_relative_to(root):
        return Member(name, None, Path(os.path.relpath(target, path.parent)).as_posix())
    if blobs is not None and target.is_relative_to(blobs) and is_regular(target):
        return Member(name, target)
    raise LINK_ESCAPES(f"the symbolic link {path} leads out of the folder, to {os.readlink(path)}")


def mirror(parts: Sequence[Member], destination: Path, *, but: Collection[str] = (), link: bool = True) -> Mirrored:
    """Put members of a folder into another one, which is new.

    Args:
        but: paths of files that are left out.
        link: hard-link files of 1 MiB and more where the file system allows it.

    Raises:
        AtpatchError: ATP019 where something cannot be written.
    """
    linked = copied = 0
    try:
        for part in parts:
            target = destination / part.path
            if part.link:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(part.link)
            elif part.origin is None:
                target.mkdir(parents=True, exist_ok=True)
            elif part.path not in but:
                target.parent.mkdir(parents=True, exist_ok=True)
                was_linked = bring_file(part.origin, target, link and part.origin.stat().st_size >= _LINKED_FROM)
                linked, copied = linked + was_linked, copied + (not was_linked)
    except OSError as error:
        raise NOT_WRITABLE(f"{destination} cannot be written: {error.strerror or error}") from error
    return Mirrored(linked, copied)


def check_new_folder(destination: str | os.PathLike[str], source: Path | None = None) -> Path:
    """The path, if a folder can be made there. Commands check it before the work, `new_folder` does again.

    Args:
        source: a folder that the new one must not lie in.

    Raises:
        AtpatchError: ATP016 (the source itself), ATP019 (the parent folder is missing, or no name a folder can have),
            ATP025 (it exists and is not an empty folder), ATP026 (inside the source).
    """
    path = Path(destination)
    try:
        real = Path(os.path.realpath(path))
        if source is not None and real == source.resolve():
            raise OUTPUT_IS_INPUT(f"the output {path} is the input", "give another folder with -o")
        if source is not None and real.is_relative_to(source.resolve()):
            raise OUTPUT_INSIDE(f"the output {path} lies in the input {source}")
        if not stat.S_ISDIR(path.lstat().st_mode) or any(path.iterdir()):
            raise FOLDER_EXISTS(f"the output {path} exists")
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise NOT_WRITABLE(f"the folder {path.parent} does not exist", "make the folder first") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        words = getattr(error, "strerror", None) or str(error)
        raise NOT_WRITABLE(f"{str(path)[:200]} cannot be written: {words}", "give another name") from error
    return path


@contextlib.contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """A folder to write into, which gets its name when the block ends without an exception; else it is removed.

    Raises:
        AtpatchError: ATP019 where it cannot be made, ATP025 where something with its name appeared meanwhile.
    """
    check_new_folder(destination)
    with workshop(destination.absolute().parent) as shop:
        unfinished = shop / "unfinished"
        unfinished.mkdir()
        yield unfinished
        try:
            if sys.platform == "win32" and destination.is_dir():
                destination.rmdir()  # there a folder cannot take the place of an empty one
            unfinished.rename(destination)
        except OSError as error:
            check_new_folder(destination)
            raise NOT_WRITABLE(f"{destination} cannot be written: {error.strerror or error}") from error
