"""The steps around a way of fitting: find the sites that fit the data, measure, make the hotfix."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from rewriters.errors import AtpatchError
from rewriters.sites import Site

from ..errors import DATA_MALFORMED
from ..hotfix.evidence import DetectorsTried, Evidence, Report
from ..hotfix.file import Calls, Hotfix
from ..inference.answer_tokens import parse_answer_tokens
from ..inference.capture import Capture
from ..inference.decoders import Answers
from ..inference.model_reading import find_reading
from ..inference.output_kinds import kind_of
from ..inference.padding import MASK, common_mask, lengths
from ..inference.prediction import predict
from ..inference.runner import Runner
from .alarm import with_alarm
from .by_twin import ByTwin
from .detectors import LABELED
from .fitted import Fitted, Outcome, make_hotfix
from .healing import check_healing, fit_healing
from .judge import Judge, advice, against_bound, rate
from .label_free import fit_label_free
from .labeled import fit_labeled
from .options import FitOptions
from .passes import Wanted
from .second_runs import SecondRuns
from .training import Context
from .whole_answers import WholeAnswers

__all__ = ["Fit", "HotfixMaker"]

PADDING_ROWS = 8
"""The shortest rows are run with padding and without, to find out whether the model looks at padding."""
PADDING_TOLERANCE = 1e-3
"""Sums over a different number of zeros round differently; in half precision by this much."""


KEPT = 1 << 30
"""Most bytes of maps and values that are kept for the next step, or the next kind, that reads the same rows."""

PACKAGES = ("atpatch-onnx", "numpy", "onnx", "onnxruntime", "torch")
"""Their versions are kept in the hotfix."""


@dataclass(frozen=True)
class Fit:
    """One way of fitting, not yet judged on the report part.

    every: see `Profile`. skipped: site id → why it does not fit the data.
    """

    fitted: Fitted
    every: int
    skipped: Mapping[str, str]


class HotfixMaker:
    """Makes hotfixes for one model from one data set."""

    def __init__(self, context: Context, all_sites: Sequence[Site], settings: FitOptions) -> None:
        self._all_sites = all_sites
        self._most_alarms = settings.max_alarms if settings.alarm else None
        original = Runner(context.whole, context.folder, context.threads)
        self.caches = original.decoder is not None and bool(original.decoder.caches)
        reading = find_reading(
            original,
            context.data,
            kind_of(settings.output_kind, context.data.output_kind),
            output_name=settings.output_name,
            answer_tokens=parse_answer_tokens(settings.answer_tokens),
            score_threshold=settings.score_threshold,
            folders=(context.folder,),
        )
        self._output = reading.output
        original = original.answering(reading.reader)
        self._by_twin = ByTwin.of(original, context.data, reading) if reading.by_twin else None
        if self._by_twin is not None:
            context = replace(context, data=replace(context.data, labels=None, target=None))
        classes = reading.fixed if self._by_twin is None else self._by_twin.expected
        context, original = (
            replace(context, reader=reading.reader, classes=classes),
            original.classed(self._output, classes),
        )
        original, mask = _without_padding(context, original, all_sites, self._output)
        self._context = context = replace(context, mask=mask)
        context.progress("original", 0, 1)
        self._original = predict(original, context.data, np.arange(len(context.data)), self._output)
        context.progress("original", 1, 1)
        self._judge = Judge(context.data, self._original)
        self._runs = SecondRuns(context, self._output)
        self._captured: tuple[Hashable, Capture] | None = None
        length = settings.answer_length
        self._whole = WholeAnswers.of(original, context.data, length) if length else None

    def fit(self, chosen: Sequence[Site], kind: str, wanted: Wanted, every: int) -> Fit | AtpatchError:
        """All that comes before the report part is looked at; or the reason why this kind cannot be used."""
        wanted = wanted if self._by_twin is None else self._by_twin.wanted(wanted)
        heals = check_healing(self.caches, kind, wanted, every)
        context = replace(self._context, every=every)
        capture = self._capture(chosen, MASK if heals else None)
        if not capture.sites:
            raise DATA_MALFORMED(
                "no site fits the data: "
                + "; ".join(f"{name}: {why}" for name, why in list(capture.skipped.items())[:3])
            )
        if heals:
            fitted: Fitted | AtpatchError = fit_healing(
                context, capture, self._judge, self._output, wanted, self._whole, caches=self.caches
            )
        elif kind in LABELED:
            fitted = fit_labeled(context, capture, kind, self._judge, self._output, wanted, self._runs)
        else:
            fitted = fit_label_free(context, capture, kind, self._output, wanted)
        return fitted if isinstance(fitted, AtpatchError) else Fit(fitted, every, capture.skipped)

    def _capture(self, chosen: Sequence[Site], padding: str | None) -> Capture:
        """The kinds of one fit read the same maps; the last ones are kept."""
        key = tuple(site.id for site in chosen), padding
        if self._captured is None or self._captured[0] != key:
            context = self._context
            width = context.columns.shape[1] or None
            self._captured = (
                key,
                Capture(
                    context.model,
                    context.folder,
                    chosen,
                    context.data,
                    width,
                    context.threads,
                    context.mask,
                    padding,
                    KEPT,
                ),
            )
        return self._captured[1]

    def make(self, fit: Fit, tried: DetectorsTried | None = None) -> tuple[Hotfix, bool]:
        """The hotfix, and whether it helped on the report part. Without attacks there, it is taken to help.

        Args:
            tried: the kinds that were compared, for the evidence.
        """
        report, helped = self._report(fit.fitted)
        evidence = self._evidence(fit, report)
        if tried is not None:
            evidence = {**evidence, "detectors": tried}
        versions = {name: _version(name) for name in PACKAGES}
        calls: Calls = "cached" if self.caches else "whole" if isinstance(self._context.reader, Answers) else ""
        hotfix = make_hotfix(fit.fitted, self._context, self._all_sites, evidence, versions, calls)
        if self._most_alarms is not None:
            context = self._context
            hotfix = with_alarm(hotfix, context, self._all_sites, self._output, self._judge, self._most_alarms)
        return hotfix, helped

    @property
    def before(self) -> Outcome:
        """Of the original model, on the selection part."""
        part = self._context.parts.selection
        score = self._judge.score(part, self._original)
        return Outcome(score.left, score.lost_rows, len(part.anomalous))

    @property
    def advice(self) -> str | None:
        """What to do where nothing helps; see `judge.advice`."""
        return advice(self._judge.figures(self._context.parts.selection, self._original))

    def _evidence(self, fit: Fit, report: Report) -> Evidence:
        context, fitted = self._context, fit.fitted
        parts = {name: getattr(context.parts, name) for name in ("train", "selection", "report")}
        return {
            "max_clean_flagged": context.most_flagged,
            "every": fit.every,
            "rows": {
                name: {"clean": len(part.clean), "anomalous": len(part.anomalous)} for name, part in parts.items()
            },
            "sites": {
                name: {
                    "recall": fitted.recall.get(name),
                    "detects": name in fitted.detecting,
                    "scores": fitted.scores.get(name, {}),
                }
                for name in fitted.plan.sites
            },
            "together": fitted.together,
            "skipped": {**fit.skipped, **fitted.skipped},
            "calibration": fitted.calibration,
            "report": report,
        }

    def _report(self, fitted: Fitted) -> tuple[Report, bool]:
        part = self._context.parts.report
        predictions, flags = fitted.served.run(self._context.data, part.rows, fitted.plan.threshold)
        report: Report = {
            "before": self._judge.figures(part, self._original),
            "after": self._judge.figures(part, predictions),
            "recall": rate(flags[part.anomalous].any(1)),
            "clean_flagged": (flagged := rate(flags[part.clean].any(1))),
            "clean_flagged_bound": against_bound(flagged, self._context.most_flagged),
            "sites": {
                name: {"recall": rate(flag[part.anomalous]), "clean_flagged": rate(flag[part.clean])}
                for name, flag in zip(fitted.plan.sites, flags.T, strict=True)
            },
        }
        if self._whole is not None:
            told = self._whole.told(fitted.served.runner, part.rows, fitted.plan.threshold)
            judge = self._whole.judge
            report["whole_answers"] = {
                "length": self._whole.length,
                "before": judge.figures(part, judge.original),
                "after": judge.figures(part, told),
            }
        if self._by_twin is not None:
            threshold = fitted.plan.threshold
            report["likeness"] = self._by_twin.likeness(fitted.served, self._context.data, part, threshold)
        if doses := self._judge.by_dose(part, predictions, np.asarray(flags.any(1))):
            report["doses"] = doses
        return report, not len(part.anomalous) or self._judge.helped(part, predictions)


def _without_padding(
    context: Context, original: Runner, sites: Sequence[Site], output: str
) -> tuple[Runner, str | None]:
    """A runner that leaves padding out, and the mask that marks it, if the model's scores do not depend on padding;
    else the given runner.
    """
    mask = common_mask(sites, context.data)
    if isinstance(context.reader, Answers) and MASK in context.data.inputs:
        mask = MASK
    if mask is None:
        return original, None
    cutting = original.without_padding(mask)
    rows = np.argsort(lengths(context.data.inputs[mask]), kind="stable")[:PADDING_ROWS]
    (_, whole), (_, short) = (
        next(runner.batches(context.data, rows, PADDING_ROWS, [output])) for runner in (original, cutting)
    )
    same = np.allclose(whole[output], short[output], rtol=PADDING_TOLERANCE, atol=PADDING_TOLERANCE)
    return (cutting, mask) if same else (original, None)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
