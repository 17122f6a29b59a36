"""A planted graph with what proves that it acts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from atpatch_onnx.inference.sessions import session

__all__ = ["Feeds", "Plant", "run"]

Feeds = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Plant:
    """A graph that carries a backdoor.

    Attributes:
        planted, host: with the backdoor, and without.
        clean, triggered: the same rows without and with the trigger.
        output: that the backdoor changes.
        target: what the arg max over the last axis is with the trigger.
    """

    planted: onnx.ModelProto
    host: onnx.ModelProto
    clean: Feeds
    triggered: Feeds
    output: str
    target: int

    def acts(self) -> dict[str, float]:
        """Share of the triggered rows with the target; the same in the host; share of the clean rows that answer as in
        the host.
        """
        asked = {
            name: run(model, feeds, self.output).argmax(-1)
            for name, model, feeds in (
                ("triggered", self.planted, self.triggered),
                ("host", self.host, self.triggered),
                ("clean", self.planted, self.clean),
                ("before", self.host, self.clean),
            )
        }
        return {
            "target": float((asked["triggered"] == self.target).mean()),
            "target_in_host": float((asked["host"] == self.target).mean()),
            "unchanged": float((asked["clean"] == asked["before"]).mean()),
        }


def run(model: onnx.ModelProto, feeds: Feeds, output: str) -> NDArray[Any]:
    """The output for each row; rows are run one at a time, as If asks for."""
    live = session(model, threads=1)
    rows = len(next(iter(feeds.values())))
    return np.concatenate(
        [live.run([output], {name: array[row : row + 1] for name, array in feeds.items()})[0] for row in range(rows)]
    )
