"""What a hotfix is on disk: a safetensors file (no pickle anywhere).

Arrays are tensors; everything else is JSON under one key of the header, with a digest over both. One key, because
safetensors writes several in no fixed order, and equal hotfixes are to be equal files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.numpy import save as to_bytes

from ..errors import HOTFIX_VERSION
from .codec import Arrays

__all__ = ["FORMAT", "KEY", "SUFFIX", "digest", "pack", "require_keys", "unpack"]

FORMAT = 3
"""Version of the file format written, and the one read."""

SUFFIX = ".hotfix"

KEY = "atpatch_hotfix"

_DTYPES = {"F32", "U8"}


def digest(body: Any, arrays: Arrays) -> str:
    """SHA-256 over both, hex."""
    hasher = hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode())
    for name in sorted(arrays):
        array = arrays[name]
        hasher.update(repr((name, array.dtype.str, array.shape)).encode())
        hasher.update(array.tobytes())
    return hasher.hexdigest()


def pack(body: Any, arrays: Arrays) -> bytes:
    """The bytes of a file."""
    head = {"format": FORMAT, "digest": digest(body, arrays), "body": body}
    return to_bytes(arrays, {KEY: json.dumps(head, sort_keys=True, allow_nan=False)})


def unpack(path: Path) -> tuple[Any, Arrays]:
    """Body and arrays of a file, which fit the digest.

    Raises:
        AtpatchError: ATP055 (another format). ValueError, OSError, RecursionError, SafetensorError: it is no hotfix, or
            not as it was written.
    """
    text, arrays = _read(path)
    head = json.loads(text, parse_constant=_no_constant, parse_int=_whole)
    if not isinstance(head, dict) or type(head.get("format")) is not int:
        raise ValueError("the header has no format version")
    if head["format"] != FORMAT:
        raise HOTFIX_VERSION(f"{path} has format {head['format']}, this version reads {FORMAT}")
    if head.keys() != {"format", "digest", "body"}:
        raise ValueError("the header has other keys than format, digest and body")
    if head["digest"] != digest(head["body"], arrays):
        raise ValueError("the content does not match its digest")
    return head["body"], arrays


def require_keys(what: str, data: Any, fields: Mapping[str, Any]) -> None:
    """Raises ValueError where `data` is no object with exactly these fields, each of its type."""
    if not isinstance(data, dict) or data.keys() != fields.keys():
        raise ValueError(f"{what} must have exactly the keys {', '.join(fields)}")
    for name, kind in fields.items():
        if not isinstance(data[name], kind) or (isinstance(data[name], bool) and kind is not bool):
            raise ValueError(f"{what}: {name} has the wrong type")


def _read(path: Path) -> tuple[str, Arrays]:
    with safe_open(path, "numpy") as file:
        text = (file.metadata() or {}).get(KEY)
        if text is None:
            raise ValueError("it is no hotfix: the header says nothing of one")
        arrays: Arrays = {}
        for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
            if file.get_slice(name).get_dtype() not in _DTYPES:
                raise ValueError(f"array {name} is of a type that hotfixes do not hold")
            arrays[name] = file.get_tensor(name)
        return text, arrays


def _whole(word: str) -> int:
    """Whole numbers go into graphs as 64-bit ones."""
    number = int(word)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"the number {word[:30]} is too large")
    return number


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")
