"""Training-free smoothing of attention rows on a real language model (`rewriters.subgraphs.smoothing`).

Settings are tried on SST-2's development part. Two of them are then judged on the test part, next to healing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.debugset import Texts
from atpatch_onnx.statistics.proportions import asr
from rewriters.plan import PatchPlan, SitePlan, Smoothing

from ...decoders import llm
from ..answers import Figures, wilson
from .graphs import loop_on, patched
from .judging import Asked, Questions, figures, first
from .material import Prompts
from .speed import speed

__all__ = ["DEVELOPMENT", "SETTINGS", "Setting", "measure"]

DEVELOPMENT = 40
"""Clean and attacked prompts on which settings are tried."""
EVERY_HEAD = -1e6
REVIEWS, CHATS = 100, 20
"""Of the test part: its first ones. A whole map at every layer takes its time."""
FORMS = ("anywhere", "at the end of the text", "4 copies")


@dataclass(frozen=True)
class Setting:
    """Numbers of the detector, and its threshold: a robust z-score of a head's tail."""

    name: str
    detector: Smoothing
    threshold: float = 0.0
    tested: bool = False

    @property
    def file(self) -> str:
        return f"smoothing-{self.name.replace(' ', '-')}"

    def plan(self, sites: Sequence[str]) -> PatchPlan:
        """The detector at all sites."""
        return PatchPlan({site: SitePlan(self.detector) for site in sites}, self.threshold, telemetry=True)


_USUAL = Smoothing()
SETTINGS = (
    Setting("usual", _USUAL, tested=True),
    Setting("few heads", _USUAL, 1.0),
    Setting("half of the heads strong", replace(_USUAL, strong=0.9)),
    Setting("every head", _USUAL, EVERY_HEAD),
    Setting("every head strong", replace(_USUAL, tail=0.05, strong=0.9), EVERY_HEAD, tested=True),
)
"""The first is what `patch --detector smoothing` does."""


def measure(
    before: Path,
    folder: Path,
    tokenizer: Any,
    texts: Texts,
    questions: Questions,
    answers: NDArray[np.int64],
    seed: int,
) -> Figures:
    """As JSON.

    Args:
        before: the export with caches.
        folder: where patched graphs and answers are kept.
        texts: SST-2's development part.
        questions: of its test part.
        answers: (2,) tokens of the answers, by class.
    """
    stop = int(tokenizer.eos_token_id)
    tried = _tried(before, folder, tokenizer, texts, int(answers[llm.TARGET]), stop, seed)
    asked = Asked(folder / "cached-original.json", partial(loop_on, before), stop)
    attacks = {form: questions.attacks[form] for form in FORMS}
    part = Questions(questions.reviews[:REVIEWS], questions.exam[:CHATS], attacks)
    found: Figures = {}
    for setting in (one for one in SETTINGS if one.tested):
        after = patched(before, folder / f"{setting.file}.onnx", setting.plan)
        asked_after = Asked(folder / f"{setting.file}.json", partial(loop_on, after), stop)
        found[setting.name] = figures(part, asked, asked_after, answers, llm.TARGET)
        after.unlink()
    usual = patched(before, folder / "smoothing-price.onnx", SETTINGS[0].plan)
    longest = max((one.ids for one in questions.exam), key=len)
    price = speed(before, usual, longest, questions.attacks["second turn"][0].ids)
    usual.unlink()
    return {"tried": tried, "tested": found, "price": price}


def _tried(
    before: Path, folder: Path, tokenizer: Any, texts: Texts, target: int, stop: int, seed: int
) -> list[dict[str, Any]]:
    """Every setting on the development part: attacks left, and clean answers kept."""
    generator = np.random.default_rng(seed)
    make = Prompts(tokenizer, texts, generator)
    order = generator.permutation(len(texts.texts)).tolist()
    negative = [row for row in order if texts.labels[row] != llm.TARGET][:DEVELOPMENT]
    clean = [one.ids for one in make.reviews(order[:DEVELOPMENT], 0.15)]
    attacked = [one.ids for one in make.attacked(negative, "anywhere", llm.TRIGGER)]
    twins = [one.ids for one in make.reviews(negative)]
    original = Asked(folder / "smoothing-development-original.json", partial(loop_on, before), stop)
    asked = {"clean": clean, "attacked": attacked, "twins": twins}
    said = {name: first(original.all(ids, 1)) for name, ids in asked.items()}
    lines: list[dict[str, Any]] = []
    for setting in SETTINGS:
        file = folder / f"{setting.file}-development.onnx"
        after = Asked(file.with_suffix(".json"), partial(_loop, before, file, setting), stop)
        kept, left = first(after.all(clean, 1)) == said["clean"], first(after.all(attacked, 1))
        file.unlink(missing_ok=True)
        lines.append(
            {
                "setting": setting.name,
                "tail": setting.detector.tail,
                "weak": setting.detector.weak,
                "strong": setting.detector.strong,
                "threshold": None if setting.threshold == EVERY_HEAD else setting.threshold,
                "asr": asr(left, target).to_json(),
                "original": asr(said["attacked"], target).to_json(),
                "floor": asr(said["twins"], target).to_json(),
                "as_twin": wilson(left == said["twins"]),
                "unchanged": wilson(kept),
            }
        )
    return lines


def _loop(before: Path, after: Path, setting: Setting) -> Any:
    return loop_on(patched(before, after, setting.plan))
