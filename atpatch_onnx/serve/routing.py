"""Who answers whom: a sticky split of units, by hash.

`bucket = blake2b(experiment, salt, unit)` read as a number in [0, 1); below the weight it is the patched arm's. The
weight is no part of the hash, so raising it moves units to the patched arm and none back, and a restart changes
nothing. Another salt, or another name of the experiment, gives a new split.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from .arms import ORIGINAL, PATCHED, ArmName

__all__ = ["Split"]

_DIGEST = 8


@dataclass(frozen=True)
class Split:
    """The split of one experiment.

    Attributes:
        experiment: its name.
        salt: secret of the split and of the log's pseudonyms.
        weight: share of units for the patched arm, in [0, 1].
    """

    experiment: str
    salt: str
    weight: float
    _key: bytes = field(init=False, repr=False, compare=False, default=b"")

    def __post_init__(self) -> None:
        object.__setattr__(self, "_key", hashlib.blake2b(_pair(self.experiment, self.salt), digest_size=32).digest())

    def bucket(self, unit: str) -> float:
        """In [0, 1), uniform over units."""
        # 53 bits: what a float holds, so that the largest bucket stays below 1.
        return (int.from_bytes(self._hash(unit, b"bucket"), "big") >> 11) / 2**53

    def arm(self, unit: str) -> ArmName:
        return PATCHED if self.bucket(unit) < self.weight else ORIGINAL

    def pseudonym(self, unit: str) -> str:
        """16 hex digits that replace the unit in the log; without the salt nobody can get the unit back."""
        return self._hash(unit, b"unit").hex()

    @property
    def salt_digest(self) -> str:
        return hashlib.blake2b(
            self.salt.encode("utf-8", "surrogatepass"), digest_size=_DIGEST, person=b"salt"
        ).hexdigest()

    def _hash(self, unit: str, person: bytes) -> bytes:
        return hashlib.blake2b(
            unit.encode("utf-8", "surrogatepass"), digest_size=_DIGEST, key=self._key, person=person
        ).digest()


def _pair(one: str, two: str) -> bytes:
    """Both, so that no other pair gives the same bytes."""
    first = one.encode("utf-8", "surrogatepass")
    return len(first).to_bytes(8, "big") + first + two.encode("utf-8", "surrogatepass")
