"""What the outputs of a graph look like: one row is run, since shapes in a graph may be missing or wrong."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BAD_OPTION
from .datasets import DataSet
from .runner import Runner

__all__ = ["float_outputs"]


def float_outputs(
    runner: Runner, data: DataSet, name: str | None, without: Collection[str] = ()
) -> dict[str, NDArray[Any]]:
    """Output → its values (1, ...) for the first row, of all float outputs or of the one that is named.

    Args:
        without: outputs that are left out unless one is named.

    Raises:
        AtpatchError: ATP060 for a name that no output has.
    """
    if name is not None and name not in runner.outputs:
        raise BAD_OPTION(f"the graph has no output {name!r}, only {', '.join(runner.outputs)}")
    asked = [one for one in runner.outputs if one not in without] if name is None else [name]
    if not asked:
        return {}
    _, found = next(runner.batches(data, np.zeros(1, np.int64), 1, asked))
    return {
        output: array for output, array in found.items() if isinstance(array, np.ndarray) and array.dtype.kind == "f"
    }
