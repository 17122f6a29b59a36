"""What `analyze_log` concludes of arms that shared the traffic (mode "ab")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..statistics.sequential import Evidence, Srm
from ..statistics.units import Difference

__all__ = ["Live", "Tested"]


@dataclass(frozen=True)
class Tested:
    """One quantity of a live A/B: the interval for one look, and the evidence for any number of them.

    Attributes:
        path: ln e after each event, for the picture.
    """

    name: str
    difference: Difference
    evidence: Evidence
    path: NDArray[np.float64]

    def to_json(self) -> dict[str, Any]:
        return self.difference.to_json() | {"evidence": self.evidence.to_json()}


@dataclass(frozen=True)
class Live:
    """The unpaired comparison of arms, of a revision in mode "ab".

    Attributes:
        classes: class → how much more often units of the patched arm got it as their first answer.
    """

    srm: Srm
    crossed: int
    tested: tuple[Tested, ...]
    classes: Mapping[int, Difference]

    def to_json(self) -> dict[str, Any]:
        return {
            "srm": self.srm.to_json(),
            "crossed_units": self.crossed,
            "differences": {tested.name: tested.to_json() for tested in self.tested},
            "classes": {str(name): found.to_json() for name, found in self.classes.items()},
        }
