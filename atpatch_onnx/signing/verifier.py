"""Verifies signatures of hotfixes, model files and folders.

1. A file is good where its signature is, all files that the signature names are as they were signed, and the file and
   its external data are among them. Other files in the folder do not matter, since nothing reads them.
2. A folder is good where, besides, it holds no file that was not signed.
3. Without a signature of its own (`<file>.sig`), a file may be covered by that of its folder (`model.sig`).

Whoever can write to the files while they are verified can change them afterwards: verify where only you can write.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from rewriters.model.forms import PathLike
from rewriters.model.regular_files import check_source

from ..errors import SIGNATURE_INVALID, SIGNATURE_MISSING, AtpatchError
from ..inspection.environment import require
from ..inspection.folders import is_folder
from .contents import contents_of, data_of, name_in
from .options import VerifyKeywords, VerifyOptions
from .signer import FOLDER_SIGNATURE, PACKAGES, signature_of
from .statement import SINGLE, Statement, read_statement

if TYPE_CHECKING:
    from .library import Hashed

__all__ = ["Verified", "verify"]

_SHOWN = 3


@dataclass(frozen=True)
class Verified:
    """A signature that is good.

    Attributes:
        path: what was verified.
        signature: the signature file.
        trusted: the key, the certificates or the identity that it was verified against.
        files: names of the files that it covers; relative to the folder where there are several, else the file's own.
        signed_as: name of the file or folder when it was signed.
    """

    path: str
    signature: str
    trusted: str
    files: tuple[str, ...]
    signed_as: str

    def to_json(self) -> dict[str, Any]:
        """The keys that `verify --json` promises."""
        names = ("path", "signature", "trusted", "signed_as")
        return {**{name: getattr(self, name) for name in names}, "files": list(self.files)}


def verify(path: PathLike, signature: PathLike | None = None, **options: Unpack[VerifyKeywords]) -> Verified:
    """Verify the signature of a hotfix, a model file with its external data, or a folder. Needs the extra 'sign'.

    Args:
        path: a file or a folder.
        signature: the signature file. None: `<file>.sig` next to the file, else `model.sig` in its folder.
        options: fields of `VerifyOptions`.

    Returns:
        what the signature covers.

    Raises:
        AtpatchError: ATP094 (the signature or a file is not good), ATP095 (no signature), ATP096 (key), ATP002, ATP021
            and ATP027 (unreadable, special files, links), ATP003 (external data), ATP051 (extra 'sign'), ATP060
            (options), ATP097 (what no signature covers).
    """
    wanted = VerifyOptions(**options)
    require("verifying a signature", *PACKAGES)
    from .library import Verifier

    source = Path(path)
    if not is_folder(source):
        check_source(source, "give a hotfix, a model file, or a folder")
    place = _signature(source) if signature is None else Path(signature)
    statement = read_statement(place)
    verifier = Verifier(wanted)
    case = _Case(source, place, statement)
    case.verify(verifier)
    return Verified(str(source), str(place), verifier.trusted, case.names, statement.subject)


def _signature(source: Path) -> Path:
    """The signature of a file or a folder. Hugging Face puts files into `onnx/`, and signs the folder above."""
    wanted = signature_of(source)
    above = [source.parent, *([source.parent.parent] if source.parent.name == "onnx" else [])]
    others = [] if is_folder(source) else [folder / FOLDER_SIGNATURE for folder in above]
    for place in (wanted, *others):
        if os.path.lexists(place):
            return place
    raise SIGNATURE_MISSING(f"{source} has no signature: there is no {wanted}")


class _Case:
    """One file or folder, and what a signature says of it."""

    def __init__(self, source: Path, place: Path, statement: Statement) -> None:
        self.source, self.place, self.statement = source, place, statement
        self.whole = is_folder(source)
        # Names in a signature over several files are relative to the model's folder, or the one where the signature is.
        of_folder = place.name == FOLDER_SIGNATURE and source.resolve().is_relative_to(place.parent.resolve())
        self.root = source if self.whole or statement.single else place.parent if of_folder else source.parent

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.source.name if name == SINGLE else name for name in self.statement.digests))

    def verify(self, verifier: Any) -> None:
        from .library import Hashed

        ignored: list[str] = []
        if self.whole and self.statement.single:
            raise SIGNATURE_INVALID(
                f"{self.place} is a signature over one file, {self.statement.subject!r}, and no folder"
            )
        if self.whole:
            contents_of(self.root)  # refuses what the library does not look at
            own = name_in(self.root, Path(os.path.realpath(self.place)))
            ignored = [own] if own else []
        # Of a file, all that is named is hashed, so nothing is left out.
        hashed = Hashed(None, ignored, links=True, git=self.whole)
        try:
            verifier.verify(self.root, self.statement.data, hashed, whole=self.whole or self.statement.single)
        except Exception as error:  # the library raises anything, from ValueError to those of pydantic
            raise self._refusal(hashed, verifier.trusted, error) from error
        self._require_covered()

    def _refusal(self, hashed: Hashed, trusted: str, error: Exception) -> AtpatchError:
        from .library import first_words

        if not hashed.reached:
            return SIGNATURE_INVALID(f"{self.place} is no good signature under {trusted} ({first_words(error)})")
        found = hashed.found
        if found is None:  # the library stopped at a file that it could not read
            found = {name: "" for name in self.statement.digests if (self.root / name).is_file()}
        faults = [*_faults(self.statement.digests, found, self.source.name)]
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        what = ", ".join(faults[:_SHOWN]) + more if faults else str(error)
        named = self.whole or self.statement.single  # else the subject is a folder that need not be signed as a whole
        other = named and self.statement.subject != self.root.resolve().name
        of = f"; the signature was made for {self.statement.subject!r}" if other else ""
        return SIGNATURE_INVALID(f"{what}{of}")

    def _require_covered(self) -> None:
        """The models, and their external data, are among what is signed.

        By name, not by where a link leads: else a link to a signed file would pass for any file that is not signed.
        """
        names = set(self.statement.digests)
        if self.whole:
            models = {name: self.root / name for name in names if name.lower().endswith(".onnx")}
        else:
            models = {SINGLE if self.statement.single else name_in(self.root, self.source): self.source}
        for name, path in models.items():
            if name not in names:
                raise SIGNATURE_INVALID(f"the signature {self.place} does not cover {self.source}")
            data = (os.path.normpath(os.path.join(os.path.dirname(name), one)) for one in data_of(path))
            left = [one for one in data if self.statement.single or Path(one).as_posix() not in names]
            if left:
                raise SIGNATURE_INVALID(
                    f"the signature does not cover {left[0]}, which holds weights of {path.name}",
                    "let the signer sign the model with 'atpatch-onnx sign', which covers its external data",
                )


def _faults(signed: Mapping[str, str], found: Mapping[str, str], single: str) -> Iterator[str]:
    """What differs, in words."""
    for name in sorted(signed.keys() | found.keys()):
        shown = single if name == SINGLE else name
        if name not in found:
            yield f"{shown} is signed and missing"
        elif name not in signed:
            yield f"{shown} is there and not signed"
        elif found[name] and signed[name] != found[name]:
            yield f"{shown} is not as it was signed"
