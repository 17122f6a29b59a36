"""Other defenses on the same graphs and data, one a file.

STRIP, DAN, Fine-Pruning and a static head mask are the step `peers`. The word filter, the pixel mask, RAP, IMBERT by
attention, the ThresholdOptimizer and two ways of dropping the column came later: the step `more_peers`. ONION, which
runs a language model for every word of a request, is a step of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..answers import Figures
from ..case import Case
from . import (
    dan,
    fine_pruning,
    head_mask,
    imbert,
    onion,
    pixel_mask,
    rap,
    strip,
    threshold_optimizer,
    without_column,
    word_filter,
)

__all__ = ["more_peers_step", "onion_step", "peers_step"]

Say = Callable[[str], None]
Peers = Mapping[str, Callable[[Case, Say], Figures]]

PEERS: dict[str, Peers] = {
    "backdoor": {"strip": strip.run, "dan": dan.run, "fine_pruning": fine_pruning.run, "head_mask": head_mask.run},
    # An unfair model answers every request of some people wrongly: there is no odd request to refuse.
    "bias": {"fine_pruning": fine_pruning.run, "head_mask": head_mask.run},
}
MORE: dict[str, Peers] = {
    "image": {"pixel_mask": pixel_mask.run},
    "text": {"word_filter": word_filter.run, "imbert": imbert.run, "rap": rap.run},
    "table": {
        "averaged": without_column.averaged,
        "constant": without_column.constant,
        "threshold_optimizer": threshold_optimizer.run,
    },
}


def peers_step(case: Case, say: Say) -> Figures:
    """The first four, as far as they fit the fault."""
    return _all(PEERS[case.setting.fault], case, say)


def more_peers_step(case: Case, say: Say) -> Figures:
    """Those that came later, as far as they fit the kind of model."""
    return _all(MORE[case.setting.kind], case, say)


def onion_step(case: Case, say: Say) -> Figures:
    """ONION, of texts."""
    return {"onion": onion.run(case, say)}


def _all(peers: Peers, case: Case, say: Say) -> Figures:
    figures: Figures = {}
    for name, run in peers.items():
        say(name)
        figures[name] = run(case, say)
    return figures
