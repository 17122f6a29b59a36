"""What a signature covers.

1. A file is covered by itself.
2. A model file with external data is covered together with that data: names are relative to its folder, and other files
   there do not matter.
3. A folder is covered with everything in it, but for the signature and git's own files (`.git`, `.gitattributes`,
   `.github`, `.gitignore`), which model-signing leaves out.
4. Symbolic links to files count as the files. Links to folders are refused, since model-signing does not look behind
   them; so are links out of the folder, FIFOs and devices, and names that are not UTF-8.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from rewriters.model import io as model_io
from rewriters.model.external_data import check_external, external_locations
from rewriters.model.folders import members
from rewriters.model.forms import PathLike
from rewriters.model.regular_files import check_source

from ..errors import NOT_ONNX, NOT_SIGNABLE, TOO_LARGE, AtpatchError
from ..hotfix.container import SUFFIX
from ..inspection.folders import is_folder

__all__ = ["Contents", "contents_of", "data_of", "name_in"]

_GIT = (".git", ".gitattributes", ".github", ".gitignore")


@dataclass(frozen=True)
class Contents:
    """Files to sign.

    Attributes:
        root: the file, or the folder to which names are relative.
        files: those of a folder; None: all.
        links: whether symbolic links are among them.
    """

    root: Path
    files: tuple[Path, ...] | None = None
    links: bool = False


def contents_of(path: PathLike) -> Contents:
    """What a signature of a file or a folder covers.

    Raises:
        AtpatchError: ATP002, ATP021 and ATP027 (unreadable, special files, links that lead out), ATP003 and ATP004
            (external data that is not there or leads out), ATP097 (nothing in it, or something that a signature cannot
            name).
    """
    path = Path(path)
    if is_folder(path):
        return _folder(path)
    source = check_source(path, "give a hotfix, a model file, or a folder")
    _check_name(source.name)
    model = _model_in(source)
    if not (data := external_locations(model)):
        return Contents(source, links=source.is_symlink())
    check_external(model, source.parent)
    files = tuple(dict.fromkeys((source, *(source.parent / name for name in data))))
    for name in data:
        _check_name(name)
    return Contents(source.parent, files, any(_through_link(source.parent, file) for file in files))


def data_of(path: Path) -> tuple[str, ...]:
    """The external data of a model file, as it names it; () for any other file. The model may be one that does not run.

    Raises:
        AtpatchError: ATP003 where a name is missing.
    """
    return external_locations(_model_in(path))


def name_in(folder: Path, path: Path) -> str:
    """The name of a file in a folder, the file itself not followed; "" where it lies elsewhere."""
    place, root = Path(os.path.realpath(path.parent), path.name), folder.resolve()
    return place.relative_to(root).as_posix() if place.is_relative_to(root) else ""


def _model_in(path: Path) -> onnx.ModelProto:
    """The model in a file; an empty one where there is none."""
    if path.suffix == SUFFIX:
        return onnx.ModelProto()
    try:
        return model_io.parse_file(path)
    except AtpatchError as error:
        if error.fault in (NOT_ONNX, TOO_LARGE):
            return onnx.ModelProto()
        raise


def _folder(path: Path) -> Contents:
    links = path.is_symlink()
    signed = 0
    for one in members(path):
        if one.path.split("/")[0] in _GIT:
            continue
        _check_name(one.path)
        place = path / one.path
        links |= place.is_symlink()
        if one.link and not place.is_file():
            raise NOT_SIGNABLE(f"{place} is a symbolic link to a folder", "replace the link by the folder itself")
        signed += place.is_file()
    if not signed:
        raise NOT_SIGNABLE(f"{path} holds no file", "give the folder of a model")
    return Contents(path, links=links)


def _check_name(name: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise NOT_SIGNABLE(f"the file name {os.fsencode(name)!r} is not UTF-8", "rename the file") from None


def _through_link(root: Path, file: Path) -> bool:
    return any(part.is_symlink() for part in _parts(root, file))


def _parts(root: Path, file: Path) -> Iterator[Path]:
    yield file
    yield from (part for part in file.parents if part != root and part.is_relative_to(root))
