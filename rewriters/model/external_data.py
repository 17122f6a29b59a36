"""Weights outside the model file: finds them, checks whether they may be read, and copies them to another folder.

Nothing here loads a weight. onnxruntime resolves a location against the folder of the model file, so a location is
accepted only when the file it names, symbolic links followed, lies in that folder. A snapshot in a Hugging Face cache
may be read too, whose files are links into the `blobs` of its repository.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx import TensorProto

from ..errors import DATA_FILE_EXISTS, EXTERNAL_ESCAPES, EXTERNAL_MISSING, NOT_WRITABLE
from .atomic import staged
from .regular_files import cache_blobs, is_regular
from .tensors import elements_of, payload_bits, walk_tensors

__all__ = ["External", "bring_file", "check_external", "external_locations", "place_data", "walk_tensors"]


@dataclass(frozen=True)
class External:
    """Where an external tensor's bytes lie: [offset, offset + length) of `location`; length None: to the end."""

    location: str
    offset: int
    length: int | None

    @classmethod
    def of(cls, tensor: TensorProto) -> External:
        """Raises EXTERNAL_MISSING where the entry is malformed."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        try:
            offset, length = int(entries.get("offset") or 0), int(entries["length"]) if entries.get("length") else None
        except ValueError as error:
            raise EXTERNAL_MISSING(
                f"external data of {tensor.name!r} has an offset or length that is no number"
            ) from error
        if not entries.get("location") or offset < 0 or (length or 0) < 0:
            raise EXTERNAL_MISSING(f"external data of {tensor.name!r} has no location, or a negative offset or length")
        return cls(entries["location"], offset, length)


def _externals(model: onnx.ModelProto) -> Iterator[tuple[TensorProto, External]]:
    for tensor in walk_tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            yield tensor, External.of(tensor)


def external_locations(model: onnx.ModelProto) -> tuple[str, ...]:
    """The distinct data files that a model names, in order of first use."""
    return tuple(dict.fromkeys(external.location for _, external in _externals(model)))


def _payload_size(tensor: TensorProto) -> int:
    return -(-elements_of(tensor) * (payload_bits(tensor.data_type) or 8) // 8)


def _resolve(folder: Path, location: str, *, cached: bool = True) -> Path:
    """The data file, symbolic links followed. Raises EXTERNAL_ESCAPES unless it is inside the folder, or `cached` and
    in the Hugging Face cache that the folder belongs to.
    """
    absolute = (
        PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive or PureWindowsPath(location).root
    )
    parts = PurePosixPath(location).parts + PureWindowsPath(location).parts
    if absolute or ".." in parts or "\0" in location:
        raise EXTERNAL_ESCAPES(f"external data location {location!r} leaves the folder of the model")
    target = (folder / location).resolve()
    blobs = cache_blobs(folder) if cached else None
    if not target.is_relative_to(folder.resolve()) and not (blobs and target.is_relative_to(blobs)):
        raise EXTERNAL_ESCAPES(
            f"external data {location!r} is a symbolic link out of the model's folder",
            "replace the link by the file itself; onnxruntime refuses such links too",
        )
    return target


def check_external(model: onnx.ModelProto, folder: Path, *, cached: bool = True) -> None:
    """Every external tensor is inside `folder` and its bytes are there.

    Args:
        cached: they may be in the Hugging Face cache that the folder belongs to. onnxruntime reads them there if the
            model file itself is a link into the cache, so not for a file that is written.

    Raises:
        EXTERNAL_ESCAPES: absolute, or leads out of the folder by '..' or a link.
        EXTERNAL_MISSING: no such file, not a plain file, or too short for offset + length or for the tensor's shape.
    """
    sizes: dict[str, int] = {}
    for tensor, external in _externals(model):
        if external.location not in sizes:
            target = _resolve(folder, external.location, cached=cached)
            if not is_regular(target):
                raise EXTERNAL_MISSING(f"external data file {external.location!r} is not in the model's folder")
            sizes[external.location] = target.stat().st_size
        available = sizes[external.location] - external.offset
        needed = _payload_size(tensor)
        if available < max(needed, external.length or 0):
            raise EXTERNAL_MISSING(
                f"external data file {external.location!r} is too short: {tensor.name!r} needs"
                f" {max(needed, external.length or 0)} bytes from offset {external.offset}, the file has"
                f" {sizes[external.location]}"
            )
        if external.length is not None and external.length < needed:
            raise EXTERNAL_MISSING(
                f"external data of {tensor.name!r} has {external.length} bytes, its shape needs {needed}"
            )


def place_data(model: onnx.ModelProto, source: Path, destination: Path, *, link: bool = False) -> Callable[[], None]:
    """Make the data files of a model in `source` available in `destination`; existing files are never written to.

    An existing file with the same content is used unchanged. Copies share their blocks with the source
    where the file system can (reflink) and keep holes. Hard links are made only when asked for: they take no
    space, but onnx >= 1.21 and onnx-ir refuse to read data with more than one hard link, under either name.

    Args:
        link: hard-link instead of copying, where source and destination are on one file system.

    Returns: a function that removes the new files.

    Raises:
        DATA_FILE_EXISTS: another file is there.
        NOT_WRITABLE: the destination cannot be written.
    """
    made: list[Path] = []

    def undo() -> None:
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()

    try:
        for location in external_locations(model):
            origin, target = _resolve(source, location), destination / location
            _resolve(destination, location)
            if target.exists() or target.is_symlink():
                if not _same_content(origin, target):
                    raise DATA_FILE_EXISTS(f"{target} exists and differs from the model's external data {origin}")
                continue
            for folder in reversed([p for p in target.parents if p != destination and p.is_relative_to(destination)]):
                if not folder.exists():
                    folder.mkdir()
                    made.append(folder)
            bring_file(origin, target, link)
            made.append(target)
    except OSError as error:
        undo()
        raise NOT_WRITABLE(f"external data cannot be placed in {destination}: {error.strerror or error}") from error
    except BaseException:
        undo()
        raise
    return undo


def _same_content(a: Path, b: Path) -> bool:
    if not is_regular(b):
        return False
    if a.samefile(b):
        return True
    if a.stat().st_size != b.stat().st_size:
        return False
    with a.open("rb") as left, b.open("rb") as right:
        while chunk := left.read(1 << 22):
            if chunk != right.read(1 << 22):
                return False
    return True


def bring_file(origin: Path, target: Path, link: bool) -> bool:
    """Hard-link, or copy and then name the copy in one step, which fails if the name is taken; whether it is linked."""
    if link:
        with contextlib.suppress(OSError):
            os.link(origin, target)
            return True
    with origin.open("rb") as source, staged(target, replace=False) as sink:
        if not _clone(source.fileno(), sink.fileno()):
            _copy(source.fileno(), sink.fileno())
    shutil.copymode(origin, target)
    return False


def _clone(source: int, sink: int) -> bool:
    """Share the blocks of one file with another (Linux FICLONE: btrfs, xfs, overlay on those)."""
    if sys.platform == "linux":
        import fcntl

        ficlone = 0x40049409  # linux/fs.h; the Python constant exists from 3.14 on
        with contextlib.suppress(OSError):
            fcntl.ioctl(sink, ficlone, source)
            return True
    return False


def _copy(source: int, sink: int) -> None:
    """Copy data and keep holes, so that a sparse file stays sparse."""
    size = os.fstat(source).st_size
    os.ftruncate(sink, size)
    position = 0
    while position < size:
        start, end = _next_data(source, position, size)
        os.lseek(source, start, os.SEEK_SET)
        os.lseek(sink, start, os.SEEK_SET)
        while start < end:
            chunk = os.read(source, min(1 << 22, end - start))
            if not chunk:
                raise OSError(errno.EIO, "the file shrank while it was being copied")
            start += len(chunk)
            while chunk:
                chunk = chunk[os.write(sink, chunk) :]
        position = end


def _next_data(file: int, position: int, size: int) -> tuple[int, int]:
    if sys.platform == "win32" or not hasattr(os, "SEEK_DATA"):
        return position, size
    else:
        try:
            start = os.lseek(file, position, os.SEEK_DATA)
        except OSError as error:
            # ENXIO: only a hole is left. Anything else: a file system without hole support.
            return (size, size) if error.errno == errno.ENXIO else (position, size)
        return start, os.lseek(file, start, os.SEEK_HOLE)
