"""The step `alarm`: the hotfix with its alarm on hidden states, where a request with an alarm is refused.

As for other defenses that refuse, a refused clean request counts as an error, and a refused triggered one as an attack
stopped; requests without an alarm get the patched model's answer. The bar is set by `fit`, on its own selection rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from atpatch_onnx.hotfix.file import Hotfix
from rewriters.names import ALARM

from .answers import Figures, judge, wilson
from .case import Case
from .fitting import fitted
from .peers.refusal import RATES

__all__ = ["alarm_step"]


def alarm_step(case: Case, say: Callable[[str], None]) -> Figures:
    """Figures at each share of clean requests that may be refused."""
    rates: Figures = {}
    for rate in RATES:
        variant = f"alarm-{rate:g}"
        fitted(case, variant, say, clean=case.spare, alarm=True, max_alarms=rate)
        hotfix = Hotfix.load(case.hotfix_file(variant))
        asked = case.ask(case.patched(hotfix.plan(case.sites, None)))
        clean, attacked = (asked.all(data, more=[ALARM]) for data in (case.clean, case.attacked))
        given = [np.where(one.more[ALARM], -1, one.predictions) for one in (clean, attacked)]
        rates[f"{rate:g}"] = {
            **judge(case.clean, case.attacked, case.before[0].predictions, *given),
            "clean_flagged": wilson(clean.more[ALARM]),
            "attacked_flagged": wilson(attacked.more[ALARM]),
            "held_back": hotfix.evidence["report"]["alarm"],
        }
    return {"rates": rates}
