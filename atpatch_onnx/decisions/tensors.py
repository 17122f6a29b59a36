"""Logged inputs: arrays as nested lists of strict JSON, and back.

1. The floats that JSON does not have are written as strings; in a text tensor the same strings are ordinary texts.
2. The element type is written next to the values, so that every array comes back as it was.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["from_nested", "to_nested", "type_name"]

_TEXT = "str"
_TYPES = frozenset(
    {
        _TEXT,
        "bool",
        "float16",
        "float32",
        "float64",
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    }
)
_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""As JavaScript and protobuf spell them."""


def type_name(array: NDArray[Any]) -> str:
    """Name of the element type: numpy's, or "str" for text, whose dtype is object."""
    return _TEXT if array.dtype.kind == "O" else array.dtype.name


def to_nested(array: NDArray[Any]) -> Any:
    """Nested lists that JSON can hold."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return array.tolist()
    written = array.astype(object)
    for word, value in _WORDS.items():
        written[np.isnan(array) if math.isnan(value) else array == value] = word
    return written.tolist()


def from_nested(value: Any, name: str | None) -> NDArray[Any]:
    """An array of the type `name`; None: the type is guessed from the values, as older servers did not write it.

    Raises:
        ValueError: what is wrong, as the end of a sentence about the input.
    """
    try:
        array = np.array(value, object)
    except ValueError as error:
        raise ValueError("is ragged") from error
    cells = array.ravel()  # `flat` ends at 32 dimensions
    found = set(map(type, cells))
    kind = _guessed(cells, found) if name is None else name
    if kind not in _TYPES:
        raise ValueError("has elements of an unknown type")
    numbers: set[type] = {int, float, str} if kind.startswith("float") else {int}
    allowed = {str} if kind == _TEXT else {bool} if kind == "bool" else numbers
    if not found <= allowed:
        raise ValueError(f"holds something that is no {kind}")
    return array if kind == _TEXT else _numbers(cells, kind).reshape(array.shape)


def _guessed(cells: NDArray[Any], found: set[type]) -> str:
    if found == {int}:
        return "uint64" if max(cells) > np.iinfo(np.int64).max else "int64"
    return "bool" if found == {bool} else _TEXT if found == {str} else "float64"


def _numbers(cells: NDArray[Any], kind: str) -> NDArray[Any]:
    """(N,) objects as numbers of a type."""
    words = np.array([type(cell) is str for cell in cells], bool)
    if not set(cells[words]) <= set(_WORDS):
        raise ValueError(f"holds text where {kind} was expected")
    plain = cells.copy()
    plain[words] = [_WORDS[word] for word in cells[words]]
    try:
        with np.errstate(over="ignore"):
            array: NDArray[Any] = plain.astype(kind)
    except OverflowError as error:
        raise ValueError(f"holds a number that {kind} cannot") from error
    if array.dtype.kind == "f" and (~np.isfinite(array) & ~words).any():
        raise ValueError(f"holds a number that {kind} cannot")
    return array
