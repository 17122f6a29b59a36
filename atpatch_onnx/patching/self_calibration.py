"""A hotfix for a model from clean rows without labels, or from no rows at all: what `patch` does without a hotfix.

A text encoder is calibrated on random tokens (see `random_texts`), any other model on the rows that are given. Needs
onnxruntime and numpy only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from rewriters.editing.samples import prediction_output, sample_outputs
from rewriters.finding.token_inputs import TokenInputs, token_inputs
from rewriters.names import FLAGGED
from rewriters.sites import Site

from ..errors import DATA_MALFORMED, NOT_CALIBRATED, RUNTIME_REFUSES
from ..fitting.fitted import make_hotfix
from ..fitting.label_free import fit_label_free
from ..fitting.options import MOST_EXTRA_RUNS, SignalsOption
from ..fitting.passes import Wanted
from ..fitting.splits import Part, Split, deal, join
from ..fitting.training import Context
from ..hotfix.file import Hotfix
from ..hotfix.options import PatchOptions
from ..inference.capture import Capture
from ..inference.datasets import DataSet, as_dataset
from ..inference.padding import common_mask
from ..inference.runner import why_not_run
from ..inference.special_tokens import SpecialTokens, read_special_tokens
from ..version import __version__
from .random_texts import LENGTHS, draw_texts, rows_of
from .results import Calibration
from .text_ends import find_ends

__all__ = ["Progress", "Subject", "calibrate_on_noise", "calibrate_on_rows", "in_words", "not_on_noise", "random_rows"]

Progress = Callable[[str, int, int], None]

SEED = 0
ALLOWED_ON_NOISE = 0.003
"""Share of the random texts whose scores may be above the threshold: 2 of 720, as the highest of all hangs on single
texts. Where no second answer is compared it is none (see `Wanted`): every flag changes the answer. What a flag costs
cannot be measured on noise; on rows it is, and bounds the threshold (see `fitting.costs`).
"""
SIGNALS: SignalsOption = "attention"
"""With norms too, 22 % of the clean sentences ran twice, where 5 % do, and two points of accuracy were lost; of the
attacks with hidden attention 74 % were left all the same (SST-2, development rows).
"""
SURE_ON_NOISE = 0.99
"""Share of the random texts that are not sure enough to be flagged. Every attack with a rare word was above them, a
third of the clean sentences (SST-2 BadNets, debugging rows). So more columns may be flagged: words that decide a clean
sentence are seldom taken out of one that the model is that sure of.
"""
SHARES = (0.3, 0.6)
"""Of the rows that detectors and the threshold are fitted on; the rest is only counted."""
NOISE_WORTH = (
    "On backdoored models that were measured, 0.5 % of the attacks with one rare word are left and no accuracy is lost,"
    " but 97 % of those with three words and 63 % of those with a sentence; "
)
"""What such a calibration was seen to do, for people who use it; the figures are those of models/results/HOLDING.md."""
FIXED_LENGTH = 24
"""Tokens of every random text where the model takes no padding mask."""


@dataclass(frozen=True)
class Subject:
    """The model to calibrate.

    Attributes:
        model: without a patch.
        folder: of its external data, and of a tokenizer.
        sites: all sites, in graph order.
        chosen: those to patch.
    """

    model: onnx.ModelProto
    folder: Path
    sites: tuple[Site, ...]
    chosen: tuple[Site, ...]


def calibrate_on_noise(subject: Subject, options: PatchOptions, progress: Progress) -> tuple[Hotfix, Calibration]:
    """A hotfix for a text encoder, from random tokens.

    Raises:
        AtpatchError: ATP063 where the inputs of the model are not understood, ATP050 and ATP052 where it does not run.
    """
    started = time.perf_counter()
    data, special, width = random_rows(subject, options.calibration_rows)
    wanted = replace(
        _wanted(subject, options, width),
        max_clean_flagged=ALLOWED_ON_NOISE,
        signals=SIGNALS,
        by_length=True,
        sure=SURE_ON_NOISE,
    )
    hotfix, flagged = _fit(subject, data, wanted, progress)
    seconds = round(time.perf_counter() - started, 3)
    return hotfix, Calibration("noise", len(data), flagged, seconds, special.origin)


def calibrate_on_rows(
    subject: Subject, rows: str | os.PathLike[str] | Mapping[str, Any], options: PatchOptions, progress: Progress
) -> tuple[Hotfix, Calibration]:
    """A hotfix for any model, from clean rows.

    Raises:
        AtpatchError: ATP056 where the rows do not fit or are too few, ATP050 and ATP052 where the model does not run.
    """
    started = time.perf_counter()
    data = as_dataset(rows)
    if data.columns is not None and data.columns.any():
        raise DATA_MALFORMED(
            "the rows to calibrate on have columns labeled anomalous",
            "give clean rows only, or fit a hotfix: 'atpatch-onnx fit MODEL --debug SET.npz'",
        )
    hotfix, flagged = _fit(subject, data, _wanted(subject, options, None), progress)
    source = "rows" if isinstance(rows, Mapping) else os.fspath(rows)
    return hotfix, Calibration(source, len(data), flagged, round(time.perf_counter() - started, 3))


def random_rows(subject: Subject, count: int) -> tuple[DataSet, SpecialTokens, int | None]:
    """Rows of random tokens for a text encoder, the special tokens around them, and the width of an embedding.

    Raises:
        AtpatchError: as `calibrate_on_noise`.
    """
    generator = np.random.default_rng(SEED)
    inputs = token_inputs(subject.model, subject.sites)
    if inputs is None or inputs.unknown:
        raise NOT_CALIBRATED(_not_understood(inputs))
    special = _special_tokens(subject, inputs, generator)
    return _random_data(subject, inputs, special, count, generator), special, inputs.width


def not_on_noise(subject: Subject) -> str | None:
    """Why a text encoder cannot be calibrated on random tokens here; None where it can."""
    inputs = token_inputs(subject.model, subject.sites)
    if inputs is None or inputs.unknown:
        return _not_understood(inputs)
    text = draw_texts(1, inputs.vocabulary, SpecialTokens(), LENGTHS[0], np.random.default_rng(SEED), varied=False)
    return why_not_run(subject.model, subject.folder, DataSet.from_arrays(rows_of(text, inputs, subject.model, 0)))


def in_words(calibration: Calibration, hotfix: Hotfix) -> str:
    """One line for people: what was done, what it is worth, and what does better."""
    if calibration.source == "noise":
        done = f"calibrated on {calibration.rows} texts of random tokens"
        ends = f"special tokens from {calibration.ends}" if calibration.ends else "without special tokens"
        better = "--calibrate ROWS.npz (clean rows) and 'atpatch-onnx fit' (with a trigger) do better"
        worth = NOISE_WORTH
    else:
        done, ends = f"calibrated on {calibration.rows} clean rows", "nothing is known of a trigger"
        better = "'atpatch-onnx fit' with a trigger does better"
        worth = ""
    flags = f"{calibration.clean_flagged:.1%} of the rows held back are flagged"
    passes = "flagged requests run twice" if hotfix.passes == "two" else "one pass"
    return f"{done} in {calibration.seconds:.0f} s ({ends}): {flags}, {passes}. {worth}{better}"


def _not_understood(inputs: TokenInputs | None) -> str:
    unknown = "" if inputs is None else f": what to feed to {', '.join(inputs.unknown)} is not known"
    return f"random texts cannot be made for this model{unknown}"


def _special_tokens(subject: Subject, inputs: TokenInputs, generator: np.random.Generator) -> SpecialTokens:
    found = read_special_tokens(subject.folder)
    if found is not None and found.fits(inputs.vocabulary):
        return found
    main = [site for site in subject.chosen if not site.where]
    return find_ends(subject.model, subject.folder, main, inputs, None, generator) or SpecialTokens()


def _random_data(
    subject: Subject, inputs: TokenInputs, special: SpecialTokens, count: int, generator: np.random.Generator
) -> DataSet:
    """Texts up to the longest that the model takes: half the length is tried where a run fails."""
    masked = "mask" in inputs.meanings.values()
    ends = len(special.first) + len(special.last)
    longest = min((LENGTHS[1] if masked else FIXED_LENGTH) + ends, inputs.longest or LENGTHS[1] + ends)
    while True:
        texts = draw_texts(count, inputs.vocabulary, special, longest, generator, varied=masked)
        data = DataSet.from_arrays(rows_of(texts, inputs, subject.model, special.pad))
        widest = max(range(count), key=lambda row: len(texts[row]))
        reason = why_not_run(subject.model, subject.folder, data, widest)
        if reason is None:
            return data
        if longest // 2 < LENGTHS[0] + ends:
            raise RUNTIME_REFUSES(reason)
        longest //= 2


def _fit(subject: Subject, data: DataSet, wanted: Wanted, progress: Progress) -> tuple[Hotfix, float]:
    """The hotfix, and the share of the rows held back that it flags."""
    joined = join(None, data)
    parts = _split(len(joined))
    mask = common_mask(subject.chosen, joined)
    flagged = MOST_EXTRA_RUNS if wanted.max_clean_flagged is None else wanted.max_clean_flagged
    context = Context(subject.model, subject.folder, joined, parts, SEED, flagged, None, progress, mask=mask)
    capture = Capture(subject.model, subject.folder, subject.chosen, joined, None, None, mask)
    if not capture.sites:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(capture.skipped.items())[:3])
        raise NOT_CALIBRATED(f"no site fits the rows: {reasons}")
    output = prediction_output(subject.model, sample_outputs(subject.model)) or FLAGGED
    fitted = fit_label_free(context, capture, "oneclass", output, wanted)
    _, flags = fitted.served.scores(joined, parts.report.clean, fitted.plan.threshold)
    hotfix = make_hotfix(fitted, context, subject.sites, {}, {"atpatch-onnx": __version__})
    return hotfix, float(flags[parts.report.clean].any(1).mean())


def _split(count: int) -> Split:
    dealt = deal(np.arange(count), np.random.default_rng(SEED), SHARES)
    if not all(map(len, dealt)):
        raise DATA_MALFORMED(f"{count} clean rows are too few to calibrate on", "give a hundred or more")
    return Split(*(Part(np.sort(rows), rows[:0]) for rows in dealt))


def _wanted(subject: Subject, options: PatchOptions, width: int | None) -> Wanted:
    """Two passes where a second run is behind a branch; outputs are replaced only where a prediction flips, if the
    model makes predictions.

    Args:
        width: size of an embedding. An output as wide as that is an embedding of the text, not class scores.
    """
    passes = options.passes or ("one" if options.portable or options.gating == "none" else "auto")
    model = subject.model
    name = prediction_output(model, sample_outputs(model))
    sizes = [value.type.tensor_type.shape.dim[1].dim_value for value in model.graph.output if value.name == name]
    embeds = width is not None and width in sizes
    return Wanted(passes, options.mend or "auto", options.accept or ("always" if embeds else "auto"))
