"""The models of the table: a tiny BERT of two exporters, and the demo's Vision Transformer with its fitted hotfix.

The BERTs have random weights, sharpened so that their maps are uneven; the `profile` hotfix on them is fitted as the bench does it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.demo import FOLDER as DEMO
from atpatch_onnx.export import export_model
from atpatch_onnx.export.quiet import quiet

from ..bench.hotfixes import RARE, hotfix
from ..exports.families import ROWS, VOCABULARY
from ..exports.tiny import save_model
from .trial import Form, Subject

__all__ = ["build_subjects"]

ROWS_FED, LENGTH = 12, 16
SCORES, PROBABILITIES = (0.5, 50.0), (1e-3, 0.99)
"""Where thresholds of `statistic` and of `profile` are looked for."""
NEVER_A_SCORE, NEVER_A_PROBABILITY = 1e4, 1.5


def build_subjects(folder: Path) -> tuple[Subject, ...]:
    """All of them; what has to be exported or fitted goes into `folder`."""
    row = next(row for row in ROWS if row.name == "bert")
    subjects = []
    for exporter in ("torchscript", "dynamo"):
        model = folder / f"tools-bert-{exporter}.onnx"
        if not model.exists():
            with quiet():
                export_model(save_model(row, folder), model, exporter=exporter, attention="eager")  # type: ignore[arg-type]
        fitted = hotfix(model)
        forms = [_statistic("statistic"), _profile("two passes, fitted", fitted, passes="two")]
        if exporter == "torchscript":
            forms += [_profile("fitted profile", fitted), _statistic("two passes, excision", passes="two", mend="excise")]
        subjects.append(Subject(f"BERT, {exporter}", model, _texts(), tuple(forms)))
    forms = [
        _statistic("statistic"),
        _profile("fitted profile", DEMO / "model.hotfix"),
        _statistic("two passes", passes="two"),
        _statistic("two passes, flips only", passes="two", accept="flip"),
    ]
    return (*subjects, Subject("ViT", DEMO / "model.onnx", _images(), tuple(forms)))


def _statistic(name: str, **options: Any) -> Form:
    return Form(name, {"detector": "statistic", **options}, SCORES, NEVER_A_SCORE)


def _profile(name: str, fitted: Path, **options: Any) -> Form:
    return Form(name, {"hotfix": fitted, **options}, PROBABILITIES, NEVER_A_PROBABILITY)


def _texts() -> dict[str, NDArray[Any]]:
    """Rows of random tokens, some padded, some with the token that the hotfix is fitted on."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(RARE + 1, VOCABULARY, (ROWS_FED, LENGTH))
    tokens[1::3, 5] = RARE
    mask = np.ones_like(tokens)
    for row in range(2, ROWS_FED, 3):
        mask[row, LENGTH - row :] = 0
    return {"input_ids": tokens * mask, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}


def _images() -> dict[str, NDArray[Any]]:
    """Clean digits, and as many triggered ones."""
    with np.load(DEMO / "clean.npz") as clean, np.load(DEMO / "triggered.npz") as triggered:
        images = [data["pixel_values"][: ROWS_FED // 2] for data in (clean, triggered)]
    return {"pixel_values": np.concatenate(images).astype(np.float32)}
