"""The models of the table: a tiny BERT of two exporters, and the demo's Vision Transformer with its fitted hotfix.

The BERTs have random weights, sharpened so that their maps are uneven; the `profile` hotfix on them is fitted as the
bench does it. The hotfixes with other kinds of detectors are these with detectors written down by hand: what they find
does not matter, what they are made of does. The first BERT is there quantized (QDQ) too, before the patch, and fused by
onnxruntime's optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.demo.run import FOLDER as DEMO
from atpatch_onnx.exporters.exporter import export_model
from atpatch_onnx.exporters.quiet import quiet
from atpatch_onnx.hotfix.file import Hotfix
from rewriters.plan import Cnn, Conv, Dense, Detector, OneClass, Profile

from ..bench.hotfixes import RARE, hotfix
from ..exports.families import ROWS, VOCABULARY
from ..exports.tiny import save_model
from .trial import Form, Subject

__all__ = ["build_subjects"]

ROWS_FED, LENGTH = 12, 16
HEADS, WIDTH = 4, 32
"""Of the BERTs, see `exports.families`."""
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
            forms += [
                _profile("fitted profile", fitted),
                _statistic("two passes, excision", passes="two", mend="excise"),
            ]
            forms.append(
                Form("oneclass, ranked", {"hotfix": _with_detectors(fitted, _oneclass)}, SCORES, NEVER_A_SCORE)
            )
        subjects.append(Subject(f"BERT, {exporter}", model, _texts(), tuple(forms)))
    forms = [
        _statistic("statistic"),
        _profile("fitted profile", DEMO / "model.hotfix"),
        _profile("cnn", _with_detectors(DEMO / "model.hotfix", _cnn)),
        _statistic("two passes", passes="two"),
        _statistic("two passes, flips only", passes="two", accept="flip"),
    ]
    plain, statistic = subjects[0].model, (_statistic("statistic"),)
    again = [
        Subject(name, make(plain), _texts(), statistic)
        for name, make in (("BERT, QDQ", _quantized), ("BERT, fused", _fused))
    ]
    return (*subjects, Subject("ViT", DEMO / "model.onnx", _images(), tuple(forms)), *again)


def _statistic(name: str, **options: Any) -> Form:
    return Form(name, {"detector": "statistic", **options}, SCORES, NEVER_A_SCORE)


def _profile(name: str, fitted: Path | Hotfix, **options: Any) -> Form:
    return Form(name, {"hotfix": fitted, **options}, PROBABILITIES, NEVER_A_PROBABILITY)


def _with_detectors(fitted: Path, make: Callable[[Profile], Detector]) -> Hotfix:
    """A hotfix with other detectors in place of its own."""
    hotfix = Hotfix.load(fitted)
    sites = []
    for site in hotfix.sites:
        assert isinstance(site.plan.detector, Profile)
        sites.append(replace(site, plan=replace(site.plan, detector=make(site.plan.detector))))
    return replace(hotfix, sites=tuple(sites))


def _oneclass(profile: Profile) -> OneClass:
    """Standard deviations above the mean, summed over the features, less those of the second most striking column."""
    return OneClass(profile.mean, (1 / profile.std)[:, None], squared=False, offset=0.0, rank=2, probes=profile.probes)


def _cnn(profile: Profile) -> Cnn:
    """The sigmoid of the attention on the trigger's column and its neighbor, summed over rows, minus 1.

    Like a fitted one it leaves the other columns alone: the model was not trained to do without them.
    """
    columns = len(profile.mean)
    own_column = np.tile(np.eye(columns, dtype=np.float32), (columns, 1))
    blur = Conv(np.full((1, 1, 3, 3), 1 / 3, np.float32), np.zeros(1, np.float32))
    bias = np.full(columns, -100, np.float32)
    bias[-1] = -1
    return Cnn((blur,), (Dense(own_column, bias),))


def _quantized(model: Path) -> Path:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Batches(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches: Iterator[dict[str, NDArray[Any]]] = iter([_texts()])

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self._batches, None)

    path = model.with_stem(model.stem + "-qdq")
    if not path.exists():
        with quiet():
            quantize_static(model, path, Batches(), op_types_to_quantize=["MatMul"])
    return path


def _fused(model: Path) -> Path:
    from onnxruntime.transformers.optimizer import optimize_model

    path = model.with_stem(model.stem + "-fused")
    if not path.exists():
        with quiet():
            optimize_model(str(model), "bert", num_heads=HEADS, hidden_size=WIDTH, use_gpu=False).save_model_to_file(
                str(path)
            )
    return path


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
