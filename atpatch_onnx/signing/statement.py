"""Reads a signature file: which files it names. Nothing in it is trusted until the library has verified it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rewriters.model.regular_files import check_source

from ..errors import NO_SUCH_FILE, SIGNATURE_INVALID

__all__ = ["SINGLE", "Statement", "read_statement"]

SINGLE = "."
"""How model-signing names the file of a signature over one file."""

_MOST_BYTES = 64 * 2**20
"""About 400,000 files; a larger signature is refused before it is read."""


@dataclass(frozen=True)
class Statement:
    """What a signature says.

    Attributes:
        data: the bytes of the signature file.
        subject: name of the signed file or folder, for people.
        digests: file name → its digest, hex; the name of a single file is `SINGLE`.
    """

    data: bytes
    subject: str
    digests: Mapping[str, str]

    @property
    def single(self) -> bool:
        """Whether it is about one file, whatever that is called."""
        return set(self.digests) == {SINGLE}


def read_statement(path: Path) -> Statement:
    """What a signature file says.

    Raises:
        AtpatchError: ATP002 and ATP021 (unreadable), ATP094 (no signature of model-signing).
    """
    check_source(path, "give the signature file")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise SIGNATURE_INVALID(f"{path} is no signature: it has {path.stat().st_size} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise NO_SUCH_FILE(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        payload = json.loads(base64.b64decode(json.loads(data)["dsseEnvelope"]["payload"]))
        return Statement(data, str(payload["subject"][0]["name"]), dict(_digests(payload)))
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise SIGNATURE_INVALID(f"{path} is no signature of model-signing over the SHA-256 of files") from error


def _digests(payload: Any) -> list[tuple[str, str]]:
    predicate = payload["predicate"]
    how = predicate["serialization"]
    if (how["method"], how["hash_type"]) != ("files", "sha256"):
        raise ValueError("files are not listed by their SHA-256")
    found = [(one["name"], one["digest"]) for one in predicate["resources"]]
    for name, digest in found:
        if not isinstance(name, str) or not isinstance(digest, str) or "\0" in name:
            raise ValueError("a file has no name or no digest")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{name!r} lies outside of what is signed")
    if not found:
        raise ValueError("it names no file")
    return found
