"""Signs a hotfix, a model file with its external data, or a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from rewriters.model.atomic import write_file
from rewriters.model.forms import PathLike
from rewriters.model.regular_files import check_destination

from ..errors import BAD_OPTION, OUTPUT_IS_INPUT, AtpatchError
from ..inspection.environment import require
from ..inspection.folders import is_folder
from .contents import contents_of, name_in
from .options import SignKeywords, SignOptions
from .statement import SINGLE, read_statement

__all__ = ["FOLDER_SIGNATURE", "PACKAGES", "SUFFIX", "Signed", "sign", "signature_of"]

SUFFIX = ".sig"
FOLDER_SIGNATURE = "model.sig"
PACKAGES = ("model-signing", "pyopenssl")


@dataclass(frozen=True)
class Signed:
    """A signature that was made.

    Attributes:
        path: what was signed.
        signature: the signature file.
        files: names of the files that it covers; relative to the folder where there are several, else the file's own.
    """

    path: str
    signature: str
    files: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The keys that `sign --json` promises."""
        return {"path": self.path, "signature": self.signature, "files": list(self.files)}


def sign(path: PathLike, signature: PathLike | None = None, **options: Unpack[SignKeywords]) -> Signed:
    """Sign a hotfix, a model file with its external data, or a folder. Needs the extra 'sign'.

    Args:
        path: a file or a folder.
        signature: the signature file to write. None: `<file>.sig` next to the file, `model.sig` inside of a folder.
        options: fields of `SignOptions`.

    Returns:
        where the signature is, and which files it covers.

    Raises:
        AtpatchError: ATP002, ATP021 and ATP027 (unreadable, special files, links), ATP003 and ATP004 (external data),
            ATP016 and ATP019 (output), ATP051 (extra 'sign'), ATP060 (options), ATP096 (key), ATP097 (not signable).
    """
    wanted = SignOptions(**options)
    require("signing", *PACKAGES)
    from .library import Signer

    source = Path(path)
    contents = contents_of(source)
    destination = _destination(signature_of(source) if signature is None else Path(signature))
    whole = is_folder(source)
    if whole and wanted.key is not None and name_in(source, Path(os.path.realpath(wanted.key))):
        raise BAD_OPTION(
            f"the private key {wanted.key} lies in the folder that is signed, and would be handed on with it",
            "move the key out of the folder; if others have had the folder, make a new key",
        )
    own = name_in(source, destination) if whole else ""
    data, names = Signer(wanted).sign(contents, [own] if own else [])
    write_file(destination, data)
    files = tuple(source.name if name == SINGLE else name for name in names)
    return Signed(str(source), str(destination), files)


def signature_of(path: Path) -> Path:
    """Where the signature of a file or a folder is by default."""
    return path / FOLDER_SIGNATURE if is_folder(path) else path.with_name(path.name + SUFFIX)


def _destination(path: Path) -> Path:
    """The path, unless a file is there that is no signature."""
    check_destination(path)
    if path.exists():
        try:
            read_statement(path)
        except AtpatchError as error:
            raise OUTPUT_IS_INPUT(f"{path} is there, and is no signature", "give another name with -o") from error
    return path
