"""Arrays from untrusted `.npz` and `.npy` files: no pickled objects, and no more memory than the file's size.

numpy allocates memory for the shape in the header before it reads the content, so a file of a hundred bytes could ask
for terabytes. Here the header is first compared with the size of the content, and the content with the memory of the
machine.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from rewriters.errors import Fault
from rewriters.model.boundary import call
from rewriters.model.regular_files import check_source

__all__ = ["read_array", "read_arrays"]

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_arrays(path: str | os.PathLike[str], fault: Fault, advice: str | None = None) -> dict[str, NDArray[Any]]:
    """All arrays of an `.npz` by name.

    Args:
        fault: the error to raise for wrong content.
        advice: how to fix it if the file is missing.

    Raises:
        AtpatchError: ATP002 and ATP021 where there is no regular file, else of `fault`.
    """
    path = check_source(path, advice)
    with call(fault, f"{path} is no .npz archive", zipfile.ZipFile, path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if (size := sum(member.file_size for member in members)) > _memory():
            raise fault(f"{path} holds {size} bytes of arrays, which is more than this machine's memory")
        return {
            member.filename.removesuffix(".npy"): call(
                fault, f"{path}: {member.filename!r} cannot be read", _member, archive, member
            )
            for member in members
        }


def read_array(path: str | os.PathLike[str], fault: Fault, advice: str | None = None) -> NDArray[Any]:
    """The array of an `.npy`; arguments and errors as in `read_arrays`."""
    path = check_source(path, advice)
    return call(fault, f"{path} cannot be read", _file, path)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(member) as file:
        _check_header(file, member.file_size)
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _file(path: Path) -> NDArray[Any]:
    with path.open("rb") as file:
        _check_header(file, path.stat().st_size)
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_header(file: IO[bytes], size: int) -> None:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"arrays of format {version} are not read")
    shape, _, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    content = size - file.tell()
    if not dtype.itemsize or any(dim < 0 for dim in shape) or math.prod(shape) * dtype.itemsize != content:
        raise ValueError(f"shape {shape} and type {dtype} do not fit {content} bytes of content")


def _memory() -> int:
    """This machine's memory in bytes."""
    if sys.platform != "win32":
        with contextlib.suppress(ValueError, OSError):
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 1 << 40
