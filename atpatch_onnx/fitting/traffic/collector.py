"""Chooses rows of live requests for a fit, in memory only.

1. A row is one sample of a request. Rows with NaN or infinity are left out.
2. One request gives at most 2 % of the wanted rows, chosen at random among its own.
3. One unit (a user, a session) gives at most 10 %. Requests without a unit are not limited by this rule.
4. Equal rows, such as those of a health check, are taken until they are 1 % of the wanted rows.
5. The rows take at most `MOST_BYTES` of memory. When they do, the collector is full with fewer rows.

The rules keep one careless client from being all of the data. They do not stop a client that wants to be: units are
what clients say they are. Whoever controls the requests of this time controls the calibration.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_BYTES", "Collector", "Row"]

Row = dict[str, NDArray[Any]]
"""One array (1, ...) for each graph input."""

MOST_BYTES = 512 * 2**20
SHARE_OF_REQUEST, SHARE_OF_UNIT, SHARE_ALIKE = 0.02, 0.1, 0.01
_COMPARED = 4096
"""Most values of each input by which equal rows are recognized, at even distances."""


class Collector:
    """Collects rows until there are enough.

    Args:
        wanted: number of rows.
        per_client: whether rules 2 and 3 hold; False for a log, which its owner has chosen.
        most_bytes: most memory for the rows.

    Attributes:
        rows: what was taken, in the order of the requests.
        left_out: reason → rows: "request", "unit" and "alike" by the rules 2 to 4, "not finite", "no row" for a request
            whose inputs do not have the same number of samples.
    """

    def __init__(self, wanted: int, *, per_client: bool = True, most_bytes: int = MOST_BYTES) -> None:
        self.wanted = wanted
        self.rows: list[Row] = []
        self.left_out: Counter[str] = Counter()
        self._most_bytes = most_bytes
        self._per_client = per_client
        self._bytes = 0
        self._units: Counter[str] = Counter()
        self._alike: Counter[int] = Counter()
        self._generator = random.Random(0)

    @property
    def full(self) -> bool:
        return len(self.rows) >= self.wanted or self._bytes >= self._most_bytes

    @property
    def largest_share(self) -> float:
        """Share of the rows that the most frequent unit has given."""
        return max(self._units.values(), default=0) / max(len(self.rows), 1)

    def offer(self, feeds: Mapping[str, NDArray[Any]], unit: str | None = None) -> int:
        """Take rows of one request, as copies.

        Args:
            feeds: one array (B, ...) for each graph input.
            unit: whose request it is; None where that is not known.

        Returns:
            the number of rows that were taken.
        """
        counts = {array.shape[0] if array.ndim else 0 for array in feeds.values()}
        samples = counts.pop() if len(counts) == 1 else 0
        if not samples:
            self.left_out["no row"] += 1
            return 0
        chosen = min(samples, self._most(SHARE_OF_REQUEST)) if self._per_client else samples
        if samples > chosen:
            self.left_out["request"] += samples - chosen
        taken = 0
        for sample in sorted(self._generator.sample(range(samples), chosen)):
            reason = self._objection(row := {name: array[sample : sample + 1] for name, array in feeds.items()}, unit)
            if self.full:
                break
            if reason is not None:
                self.left_out[reason] += 1
                continue
            self._take(row, unit)
            taken += 1
        return taken

    def _most(self, share: float) -> int:
        return max(1, round(share * self.wanted))

    def _objection(self, row: Row, unit: str | None) -> str | None:
        if unit is not None and self._per_client and self._units[unit] >= self._most(SHARE_OF_UNIT):
            return "unit"
        if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in row.values()):
            return "not finite"
        return "alike" if self._alike[_fingerprint(row)] >= self._most(SHARE_ALIKE) else None

    def _take(self, row: Row, unit: str | None) -> None:
        copied = {name: array.copy() for name, array in row.items()}
        self.rows.append(copied)
        self._bytes += sum(_size(array) for array in copied.values())
        self._alike[_fingerprint(row)] += 1
        if unit is not None:
            self._units[unit] += 1


def _fingerprint(row: Row) -> int:
    """The same for equal rows."""
    parts = []
    for name in sorted(row):
        values = row[name].ravel()
        some = values[:: max(1, len(values) // _COMPARED)]
        parts.append((name, row[name].shape, tuple(some) if some.dtype.kind == "O" else some.tobytes()))
    return hash(tuple(parts))


def _size(array: NDArray[Any]) -> int:
    """Bytes, those of texts included."""
    return array.nbytes + sum(len(text) for text in array.ravel()) if array.dtype.kind == "O" else array.nbytes
