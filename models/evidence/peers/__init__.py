"""Other defenses on the same graphs and data, one a file: STRIP, DAN, Fine-Pruning, a static head mask."""

from __future__ import annotations

from collections.abc import Callable

from ..answers import Figures
from ..case import Case
from . import dan, fine_pruning, head_mask, strip

__all__ = ["PEERS", "peers_step"]

Peer = Callable[[Case, Callable[[str], None]], Figures]

PEERS: dict[str, dict[str, Peer]] = {
    "backdoor": {"strip": strip.run, "dan": dan.run, "fine_pruning": fine_pruning.run, "head_mask": head_mask.run},
    # An unfair model answers every request of some people wrongly: there is no odd request to refuse.
    "bias": {"fine_pruning": fine_pruning.run, "head_mask": head_mask.run},
}


def peers_step(case: Case, say: Callable[[str], None]) -> Figures:
    """All peers that fit the fault."""
    figures: Figures = {}
    for name, run in PEERS[case.setting.fault].items():
        say(name)
        figures[name] = run(case, say)
    return figures
