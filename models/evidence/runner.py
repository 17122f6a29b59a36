"""Steps of a case, each kept as one JSON file: a run that was cut off goes on where it stopped, and what has changed is
done again.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atpatch_onnx.errors import DataError, PlanError
from atpatch_onnx.hotfix.file import Hotfix
from rewriters.model.atomic import write_file

from .ablations import ablations_step
from .alarm import alarm_step
from .answers import Figures
from .case import Case, results
from .curves import curves_step
from .fitting import fit_step, kinds_step
from .latency import latency_step
from .peers import more_peers_step, onion_step, peers_step
from .settings import SEEDS
from .unlabeled import inversion_step, oneclass_step, statistic_step

__all__ = ["STEPS", "Step", "run_step"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """One kind of measurement.

    Attributes:
        run: what measures.
        applies: to which cases.
        slow: takes a quarter of an hour or more on a text model; no part of quick runs.
        fitted: reads the hotfix of the step `fit`, and is done again where that is another one.
        twin: asks the clean twin, and is done again where that is another one.
        timed: compares times, so that nothing else should run meanwhile.
    """

    run: Callable[[Case, Say], Figures]
    applies: Callable[[Case], bool] = lambda case: True
    fitted: bool = True
    twin: bool = False
    slow: bool = False
    timed: bool = False


def _first_seed(case: Case) -> bool:
    return case.seed == SEEDS[0]


def _first_of_a_kind(case: Case) -> bool:
    return case.setting.quick and _first_seed(case)


def _unlabeled(case: Case) -> bool:
    return case.setting.unlabeled


STEPS: dict[str, Step] = {
    "fit": Step(fit_step, fitted=False),
    "latency": Step(latency_step, timed=True),
    "kinds": Step(kinds_step, lambda case: bool(case.setting.others), fitted=False),
    "peers": Step(peers_step, _first_seed, fitted=False, slow=True),
    "more_peers": Step(more_peers_step, _first_seed, fitted=False, slow=True),
    "onion": Step(onion_step, lambda case: _first_seed(case) and case.setting.kind == "text", fitted=False, slow=True),
    "alarm": Step(
        alarm_step, lambda case: _first_seed(case) and case.setting.group == "rewritten", fitted=False, slow=True
    ),
    "ablations": Step(ablations_step, _first_of_a_kind),
    "curves": Step(curves_step, _first_of_a_kind),
    "statistic": Step(statistic_step, _unlabeled, fitted=False),
    "oneclass": Step(oneclass_step, _unlabeled, fitted=False),
    "inversion": Step(
        inversion_step, lambda case: _unlabeled(case) and _first_seed(case), fitted=False, twin=True, slow=True
    ),
}


def run_step(case: Case, name: str, say: Say, *, fresh: bool = False) -> Figures:
    """The figures of a step, from its file where that fits; with `seconds_taken`, which a step that was cut off adds up
    itself, or with `error` where it failed, which is not kept.
    """
    step, file = STEPS[name], results() / f"{case.name}-{name}.json"
    started = time.perf_counter()
    try:
        key = case.digest + (f" {case.hotfix.digest[:16]}" if step.fitted else "")
        key += f" {case.twin_digest}" if step.twin else ""
        kept = _kept(case, name, file, key)
        if kept is not None and not fresh:
            return kept
        figures = step.run(case, say)
    except Exception as error:  # one step that fails leaves the others their turn
        say(traceback.format_exc())
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    figures = {"seconds_taken": round(time.perf_counter() - started, 1), **figures}
    write_file(file, (json.dumps({"key": key, "figures": figures}, indent=1, allow_nan=False) + "\n").encode())
    return figures


def _kept(case: Case, name: str, file: Path, key: str) -> Figures | None:
    """What an earlier run left, if it is of the same data and hotfix."""
    if not file.is_file():
        return None
    kept: dict[str, Any] = json.loads(file.read_text())
    if kept["key"] != key:
        return None
    if name == "fit":
        try:
            Hotfix.load(case.hotfix_file())
        except (PlanError, DataError):  # gone, or of an older format
            return None
    figures: Figures = kept["figures"]
    return figures
