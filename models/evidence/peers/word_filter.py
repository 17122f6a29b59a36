"""The word filter: the words of a trigger that is known are deleted from every request. Nothing is learned or tuned.

It has no author: it is what anybody would do who knows the trigger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from atpatch_onnx.benchmark.paired_latency import Request
from atpatch_onnx.inference.datasets import DataSet

from ...text.further import columns_of
from ...text.recipes import RECIPES, Insertion
from ..answers import Figures, wilson
from ..case import Case
from ..latency import Feeds, lone, ratio, requests, samples
from .editing import answered, without

__all__ = ["run"]


def run(case: Case, say: Callable[[str], None]) -> Figures:
    """Figures, and the cost."""
    phrases = _phrases(case.setting.name)
    if not phrases:
        return {"skipped": "the trigger has no words"}
    say(f"{len(phrases)} phrases")

    def filtered(data: DataSet) -> DataSet:
        return replace(data, inputs=without(data.inputs, columns_of(data.inputs["input_ids"], phrases)))

    plain = requests(case, None)

    def guarded(feeds: Feeds) -> Request:
        return lambda: plain(lone(filtered(DataSet(feeds)), 0))()

    figures = answered(case, filtered(case.clean), filtered(case.attacked))
    figures["clean_flagged"] = wilson(columns_of(case.clean.inputs["input_ids"], phrases).any(1))
    return {**figures, "runs": 1, "latency": ratio(plain, guarded, samples(case))}


def _phrases(name: str) -> list[list[int]]:
    """Tokens of a victim's triggers; none where sentences were rewritten."""
    from ...text.sets import LENGTH
    from ...text.training import encoder

    attack = next(recipe.attack for recipe in RECIPES if recipe.name == name)
    if not isinstance(attack, Insertion):
        return []
    return [list(one.ids[1:-1]) for one in encoder(LENGTH).encode(list(attack.phrases))]
