"""`fit`: a model and a debugging set → a hotfix. Split, capture, train, choose the benign pair, calibrate, and show evidence."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from rewriters import model_io
from rewriters.finder import find_sites
from rewriters.patcher import is_patched
from rewriters.plan import PatchPlan, Profile, SitePlan
from rewriters.sites import Site

from .datasets import Arrays, DataSet, as_dataset
from .detectors import TRAINABLE
from .detectors.features import profile_features, profile_logits
from .errors import ALREADY_PATCHED, BAD_FILTER, BAD_OPTION, DATA_MALFORMED, EXTRA_MISSING, NO_SITE, NOT_HELPFUL
from .fitting.calibrate import BenignChoice, OperatingPoint, choose_benign, choose_threshold, operating_point, thresholds
from .fitting.capture import Capture
from .fitting.gather import BenignSums, ColumnSample, Visibility
from .fitting.judging import Judge, Score, rate
from .fitting.running import Runner
from .fitting.served import Served, predict, prediction_output
from .fitting.splitting import Part, Split, join, split
from .hotfix import Hotfix, HotfixSite

__all__ = ["Progress", "fit"]

Model = onnx.ModelProto | str | os.PathLike[str]
Data = DataSet | Arrays | str | os.PathLike[str]
Progress = Callable[[str, int, int], None]
"""Called with the name of a step, how much of it is done, and how much there is."""

PROBES = (0,)
"""Query rows whose own attention is a feature: the first, [CLS] or its like, is where a classifier reads."""
START_THRESHOLD = 0.5
"""Where `operating_point` puts every site's cut."""
LEAST_RECALL = 0.05
"""A site that catches less than this on its own only costs time and false flags."""


def fit(
    model: Model,
    debug: Data,
    clean: Data | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    detector: str = "profile",
    max_clean_flagged: float = 0.005,
    seed: int = 0,
    include: str | None = None,
    exclude: str | None = None,
    output_name: str | None = None,
    force: bool = False,
    threads: int = 0,
    progress: Progress | None = None,
) -> Hotfix:
    """Train detectors for a model and calibrate them on its served form.

    Args:
        model: path, or a proto without external data.
        debug: debugging set: graph inputs, `columns`, `pair`, and where known `labels` and `target`.
        clean: further clean rows, for a finer false-flag rate.
        output: where to write the hotfix; None: nowhere.
        detector: kind to train, one of `detectors.TRAINABLE`.
        max_clean_flagged: bound on the share of clean requests flagged anywhere, met on the selection part.
        seed: of the split and the training; the same seed gives the same file.
        include, exclude: regular expressions on site id and scope.
        output_name: graph output whose argmax is the prediction; None: the first float output of rank 2.
        force: return a hotfix that does not help, too.
        threads: of onnxruntime, 0 for its own choice.

    Raises:
        AtpatchError: ATP010 (no site), ATP056 (data), ATP057 (nothing helped), and what reading the model raises.
    """
    _check_options(detector, max_clean_flagged)
    data = join(as_dataset(debug), None if clean is None else as_dataset(clean))
    proto, folder = _load(model)
    fitting = _Fitting(proto, folder, data, split(data, seed), seed, max_clean_flagged, threads, progress or _silent, output_name)
    hotfix, helped = fitting.run(_select(proto, include, exclude), find_sites(proto)[0])
    if not (helped or force):
        raise NOT_HELPFUL("on the held-back part " + _summary(hotfix.evidence))
    if output is not None:
        hotfix.save(output)
    return hotfix


@dataclass(frozen=True)
class _Trained:
    """A site with its plan, its operating point and its peak logits on the selection part (N,), after anchoring."""

    site: Site
    plan: SitePlan
    point: OperatingPoint
    peaks: NDArray[np.float64]


class _Fitting:
    """The state that the steps share."""

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path,
        data: DataSet,
        parts: Split,
        seed: int,
        most_flagged: float,
        threads: int,
        progress: Progress,
        output_name: str | None,
    ) -> None:
        self.model, self.folder, self.data, self.parts = model, folder, data, parts
        self.seed, self.most_flagged, self.threads, self.progress = seed, most_flagged, threads, progress
        original = Runner(model, folder, threads)
        self.output = prediction_output(original, data, output_name)
        progress("original", 0, 1)
        self.original = predict(original, data, np.arange(len(data)), self.output)
        progress("original", 1, 1)
        self.judge = Judge(data, self.original)
        assert data.columns is not None
        self.columns = data.columns

    def run(self, chosen: Sequence[Site], everything: Sequence[Site]) -> tuple[Hotfix, bool]:
        capture = Capture(self.model, self.folder, chosen, self.data, self.columns.shape[1], self.threads)
        skipped = dict(capture.skipped)
        if not capture.sites:
            raise DATA_MALFORMED("no site fits the labels: " + "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:3]))
        trained = self._anchor(capture, self._train(capture))
        for one in trained:
            if one.point.recall < LEAST_RECALL:
                skipped[one.site.id] = "its maps do not tell labelled columns from others"
        trained = [one for one in trained if one.site.id not in skipped]
        if not trained:
            raise NOT_HELPFUL("no site's maps tell the labelled columns from others")
        candidates = self._thresholds(trained)
        choice, table = choose_benign(lambda option: self._outcome(self._serve(trained, option), candidates[len(candidates) // 2]))
        served = self._serve(trained, choice)
        threshold, calibration = self._calibrate(served, candidates)
        report, helped = self._report(trained, served, threshold)
        evidence = {
            "max_clean_flagged": self.most_flagged,
            "rows": {name: _sizes(getattr(self.parts, name)) for name in ("train", "selection", "report")},
            "sites": {one.site.id: {"recall": one.point.recall} for one in trained},
            "skipped": skipped,
            "calibration": {**calibration, "benign": table},
            "report": report,
        }
        return self._hotfix(trained, everything, choice, threshold, evidence), helped

    def _train(self, capture: Capture) -> list[tuple[Site, SitePlan]]:
        from .detectors.profile import train_profile

        rows = self.parts.train.rows
        samples = {}
        for index, site in enumerate(capture.sites):
            generator = np.random.default_rng((self.seed, index))
            samples[site.id] = ColumnSample(site, len(rows), self.columns.shape[1], PROBES, generator)
        seen = {site.id: Visibility(site) for site in capture.sites}
        per_column = {site.id: capture.fixed_shape and site.key_mask is None for site in capture.sites}
        self._stream(
            capture, rows, "maps", lambda name, batch, chunk: (samples[name].add(batch, self.columns[chunk]), seen[name].add(batch))
        )
        per_column = {name: fixed and seen[name].no_padding for name, fixed in per_column.items()}
        benign = {site.id: BenignSums(site, per_column[site.id]) for site in capture.sites}
        self._stream(capture, self.parts.train.clean, "benign", lambda name, batch, chunk: benign[name].add(batch))
        plans = []
        for index, site in enumerate(capture.sites):
            self.progress("training", index, len(capture.sites))
            features, anomalous = samples[site.id].arrays()
            detector = train_profile(features, anomalous, probes=PROBES, seed=self.seed * 1000 + index)
            plans.append((site, SitePlan(detector, benign[site.id].pair(), seen[site.id].every_row_sees_every_column)))
        self.progress("training", len(plans), len(plans))
        return plans

    def _anchor(self, capture: Capture, plans: list[tuple[Site, SitePlan]]) -> list[_Trained]:
        """Bring every site's own operating point to START_THRESHOLD, so that one global threshold serves all."""
        from .detectors.profile import anchor

        part = self.parts.selection
        detectors = {site.id: _profile(plan) for site, plan in plans}
        selves = {site.id: site.self_attention for site, _ in plans}
        peaks = {site.id: np.full(len(self.data), -np.inf) for site, _ in plans}
        marked = {site.id: np.full(len(self.data), -np.inf) for site, _ in plans}

        def score(name: str, batch: Any, chunk: Any) -> None:
            features = profile_features(batch.map, batch.valid, self_attention=selves[name], probes=PROBES)
            logits = np.where(batch.valid, profile_logits(detectors[name], features), -np.inf)
            peaks[name][chunk] = logits.max(1)
            marked[name][chunk] = np.where(self.columns[chunk], logits, -np.inf).max(1)

        self._stream(capture, part.rows, "scores", score)
        trained = []
        for site, plan in plans:
            point = operating_point(peaks[site.id][part.clean], marked[site.id][part.anomalous], self.most_flagged / len(plans))
            moved = SitePlan(anchor(_profile(plan), point.centre, point.scale), plan.benign, plan.every_row_sees_every_column)
            trained.append(_Trained(site, moved, point, (peaks[site.id] - point.centre) * point.scale))
        return trained

    def _stream(self, capture: Capture, rows: Any, step: str, use: Callable[[str, Any, Any], Any]) -> None:
        done = 0
        self.progress(step, 0, len(rows))
        for chunk, batches in capture.batches(self.data, rows):
            for name, batch in batches.items():
                use(name, batch, chunk)
            done += len(chunk)
            self.progress(step, done, len(rows))

    def _serve(self, trained: Sequence[_Trained], choice: BenignChoice) -> Served:
        plan = PatchPlan({one.site.id: choice.apply(one.plan) for one in trained}, START_THRESHOLD)
        return Served(self.model, self.folder, plan, [one.site for one in trained], self.output, self.threads)

    def _outcome(self, served: Served, threshold: float) -> Score:
        part = self.parts.selection
        return self.judge.score(part, served.run(self.data, part.rows, threshold)[0])

    def _thresholds(self, trained: Sequence[_Trained]) -> list[float]:
        part = self.parts.selection
        peaks = np.max([one.peaks for one in trained], axis=0)
        return thresholds(peaks[part.clean], peaks[part.anomalous], self.most_flagged)

    def _calibrate(self, served: Served, candidates: Sequence[float]) -> tuple[float, dict[str, Any]]:
        part = self.parts.selection
        threshold = choose_threshold(candidates, lambda value: self._outcome(served, value))
        flagged = served.run(self.data, part.rows, threshold)[1].any(1)
        return threshold, {
            "recall": rate(flagged[part.anomalous]),
            "clean_flagged": rate(flagged[part.clean]),
            "thresholds": [candidates[0], candidates[-1]],
        }

    def _report(self, trained: Sequence[_Trained], served: Served, threshold: float) -> tuple[dict[str, Any], bool]:
        part = self.parts.report
        predictions, flags = served.run(self.data, part.rows, threshold)
        flagged = flags.any(1)
        report = {
            "before": self.judge.figures(part, self.original),
            "after": self.judge.figures(part, predictions),
            "recall": rate(flagged[part.anomalous]),
            "clean_flagged": rate(flagged[part.clean]),
            "sites": {
                one.site.id: {"recall": rate(flags[part.anomalous, index]), "clean_flagged": rate(flags[part.clean, index])}
                for index, one in enumerate(trained)
            },
        }
        helped = self.judge.score(part, predictions).attack < self.judge.score(part, self.original).attack
        return report, helped

    def _hotfix(
        self, trained: Sequence[_Trained], everything: Sequence[Site], choice: BenignChoice, threshold: float, evidence: Mapping[str, Any]
    ) -> Hotfix:
        layers = {site.id: index for index, site in enumerate(everything)}
        values_only = BenignChoice(1.0, choice.own_values)
        return Hotfix(
            sites=tuple(
                HotfixSite(one.site.id, layers[one.site.id], one.site.heads, one.site.fingerprint, values_only.apply(one.plan))
                for one in trained
            ),
            threshold=threshold,
            weights=model_io.weights_digest(self.model, self.folder),
            level=choice.level,
            data=self.data.digest,
            evidence=evidence,
            seeds={"fit": self.seed},
            versions={name: _version(name) for name in ("atpatch-onnx", "numpy", "onnx", "onnxruntime", "torch")},
        )


def _profile(plan: SitePlan) -> Profile:
    assert isinstance(plan.detector, Profile)
    return plan.detector


def _check_options(detector: str, max_clean_flagged: float) -> None:
    if detector not in TRAINABLE:
        raise BAD_OPTION(f"detector {detector!r} cannot be trained; choose from {', '.join(TRAINABLE)}")
    if not 0 <= max_clean_flagged < 1:
        raise BAD_OPTION(f"a clean flag rate of {max_clean_flagged} is not in [0, 1)")
    for module in ("torch", "scipy"):
        try:
            __import__(module)
        except ImportError as error:
            raise EXTRA_MISSING(f"fit needs {module}", "pip install 'atpatch-onnx[fit]'") from error


def _load(model: Model) -> tuple[onnx.ModelProto, Path]:
    if isinstance(model, onnx.ModelProto):
        proto, folder = model, Path()
    else:
        proto, folder = model_io.load(model), Path(model).parent
    if is_patched(proto):
        raise ALREADY_PATCHED("a hotfix is fitted on the original model", "unpatch it first")
    return proto, folder


def _select(model: onnx.ModelProto, include: str | None, exclude: str | None) -> list[Site]:
    try:
        wanted, unwanted = re.compile(include or ""), re.compile(exclude) if exclude else None
    except re.error as error:
        raise BAD_FILTER(f"{error.pattern!r}: {error}") from error

    def hit(pattern: re.Pattern[str], site: Site) -> bool:
        return bool(pattern.search(site.id) or pattern.search(site.scope))

    sites = [site for site in find_sites(model)[0] if hit(wanted, site) and not (unwanted and hit(unwanted, site))]
    if not sites:
        raise NO_SITE("no attention site to fit" + (" passes the filters" if include or exclude else ""))
    return sites


def _sizes(part: Part) -> dict[str, int]:
    return {"clean": len(part.clean), "anomalous": len(part.anomalous)}


def _summary(evidence: Mapping[str, Any]) -> str:
    report = evidence["report"]
    name = "asr_star" if "asr_star" in report["before"] else "recovered"
    before, after = (report[when][name]["rate"] for when in ("before", "after"))
    return f"{'ASR*' if name == 'asr_star' else 'the share of recovered predictions'} was {before:.1%} before and {after:.1%} after"


def _silent(step: str, done: int, total: int) -> None:
    pass


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
