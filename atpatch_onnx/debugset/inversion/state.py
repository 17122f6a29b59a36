"""What a search has found so far, in a file next to the output, so that an interrupted search can go on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriters.model.regular_files import is_regular

from ...errors import DATA_MALFORMED, DataError
from ...inference.npz import read_arrays
from ..sets import write_raw

__all__ = ["State"]

_KEY = "search"


class State:
    """Arrays by name, written to a file whenever one is added.

    Args:
        path: of the file; None: nothing is saved.
        key: identifies the search; a file of another search is ignored and overwritten.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self._path = path
        self._arrays: dict[str, NDArray[Any]] = {_KEY: np.array(key)}
        self.resumed = False
        if path is None or not is_regular(path):
            return
        try:
            arrays = read_arrays(path, DATA_MALFORMED)
        except DataError:
            return  # with a damaged file the search only starts again
        if _KEY in arrays and str(arrays[_KEY]) == key:
            self._arrays, self.resumed = arrays, len(arrays) > 1

    def get(self, name: str) -> NDArray[Any] | None:
        """An array, None where it is not there yet."""
        return self._arrays.get(name)

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Add arrays."""
        self._arrays.update(arrays)
        if self._path is not None:
            write_raw(self._path, self._arrays)

    def discard(self) -> None:
        """Remove the file; the search is over."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
