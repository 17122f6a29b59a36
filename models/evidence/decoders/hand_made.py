"""A plan whose detectors were trained in torch (`layers`): for the price by the number of layers that detect.

The detector of layer i goes to the i-th site of the graph, whichever exporter wrote it; the logits are added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rewriters.plan import Dense, PatchPlan, Profile, SitePlan, ValueNorms

__all__ = ["HandMade", "plan"]


@dataclass(frozen=True)
class HandMade:
    """Small networks of `depth` layers, see `layers.Scores`.

    Attributes:
        mean, spread: (depth, F) of the features.
        first, bias, second, offset: (depth, F, U), (depth, U), (depth, U, 1), (depth, 1).
        threshold: of the sum of the logits.
    """

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]
    first: NDArray[np.float32]
    bias: NDArray[np.float32]
    second: NDArray[np.float32]
    offset: NDArray[np.float32]
    threshold: float

    @property
    def depth(self) -> int:
        return len(self.mean)

    def save(self, path: Path) -> None:
        """As `.npz`."""
        np.savez_compressed(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> HandMade:
        """What `save` wrote."""
        with np.load(path) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        return cls(**{**found, "threshold": float(found["threshold"])})


def plan(detector: HandMade, sites: Sequence[str]) -> PatchPlan:
    """Heals what the first `depth` of the sites flag together."""
    detecting = sites[: detector.depth]
    return PatchPlan(
        {
            name: SitePlan(
                Profile(
                    (
                        Dense(detector.first[at], detector.bias[at]),
                        Dense(detector.second[at], detector.offset[at]),
                    ),
                    detector.mean[at],
                    detector.spread[at],
                    probes=(),
                    norms=ValueNorms(),
                    answer_row=True,
                )
            )
            for at, name in enumerate(detecting)
        },
        threshold=float(1 / (1 + np.exp(-detector.threshold))),
        telemetry=True,
        passes="two",
        groups=(tuple(detecting),),
        joint="sum",
        mend="heal",
    )
