"""Other defenses on the same graphs and data, one a file.

STRIP, DAN, Fine-Pruning and a static head mask are the step `peers`. The word filter, the pixel mask, RAP, IMBERT by
attention, the ThresholdOptimizer and two ways of dropping the column came later: the step `more_peers`. ONION, which
runs a language model for every word of a request, is a step of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping

from rewriters.model.atomic import write_file

from ..answers import Figures
from ..case import Case, results
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
    return _all("peers", PEERS[case.setting.fault], case, say)


def more_peers_step(case: Case, say: Say) -> Figures:
    """Those that came later, as far as they fit the kind of model."""
    return _all("more_peers", MORE[case.setting.kind], case, say)


def onion_step(case: Case, say: Say) -> Figures:
    """ONION, of texts."""
    return {"onion": onion.run(case, say)}


def _all(step: str, peers: Peers, case: Case, say: Say) -> Figures:
    """Each is kept as soon as it is done, until all are: a text model takes minutes for each."""
    files = {name: results() / f"{case.name}-{step}-{name}.part" for name in peers}
    figures: Figures = {}
    for name, run in peers.items():
        say(name)
        part = json.loads(files[name].read_text()) if files[name].is_file() else {}
        if part.get("key") != case.digest:
            started = time.perf_counter()
            part = {"key": case.digest, "figures": run(case, say), "seconds": time.perf_counter() - started}
            write_file(files[name], json.dumps(part, allow_nan=False).encode())
        figures[name] = part["figures"]
        figures["seconds_taken"] = round(figures.get("seconds_taken", 0.0) + part["seconds"], 1)
    for file in files.values():
        file.unlink()
    return figures
