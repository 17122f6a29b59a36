"""`fit`: a model and a debugging set → a hotfix. Split, capture, train, choose the benign pair, calibrate, and show evidence."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx

from rewriters import model_io
from rewriters.finder import find_sites
from rewriters.forms import Model, read
from rewriters.patcher import is_patched
from rewriters.sites import Site

from .datasets import Arrays, DataSet, as_dataset
from .detectors import TRAINABLE
from .errors import ALREADY_PATCHED, BAD_OPTION, DATA_MALFORMED, EXTRA_MISSING, NO_SITE, NOT_HELPFUL, NOT_WRITABLE
from .fitting.calibrate import BenignChoice
from .fitting.capture import Capture
from .fitting.judging import Judge, rate
from .fitting.lineup import LEAST_RECALL
from .fitting.running import Runner
from .fitting.served import predict, prediction_output
from .fitting.splitting import join, split
from .fitting.train import Context, Progress, anchor_sites, train_sites
from .fitting.tuning import PassesOption, Tuned, Tuner
from .hotfix import Accept, Hotfix, HotfixSite
from .inspecting import select_sites

__all__ = ["Progress", "fit"]

Data = DataSet | Arrays | str | os.PathLike[str]


def fit(
    model: Model,
    debug: Data,
    clean: Data | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    detector: str = "profile",
    max_clean_flagged: float = 0.005,
    passes: PassesOption = "auto",
    accept: Accept = "always",
    seed: int = 0,
    include: str | None = None,
    exclude: str | None = None,
    output_name: str | None = None,
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Hotfix:
    """Train detectors for a model and calibrate them on its served form.

    Args:
        model: path, `onnx.ModelProto` or `onnx_ir.Model`; external data of a proto is looked for in the working directory.
        debug: debugging set: graph inputs, `columns`, `pair`, and where known `labels` and `target`.
        clean: further clean rows, for a finer false-flag rate.
        output: where to write the hotfix; None: nowhere.
        detector: kind to train, one of `detectors.TRAINABLE`.
        max_clean_flagged: bound on the share of clean requests flagged anywhere, met on the selection part.
        passes: "auto" takes two where they stop more attacks on the selection part, by more than one row.
        accept: of two passes, see `PatchPlan`.
        seed: of the split and the training; the same seed gives the same file.
        include, exclude: regular expressions on site id and scope.
        output_name: graph output whose argmax is the prediction; None: the first float output of rank 2.
        force: return a hotfix that does not help, too.
        threads: of onnxruntime, None for its own choice.
        progress: told how far each step is.

    Raises:
        AtpatchError: ATP010 (no site), ATP012 (patched model), ATP019 (output), ATP050-ATP052 (runtime and extras), ATP056 (data),
            ATP057 (nothing helped), ATP060 (options), ATP015 (two passes where the graph does not admit them), and what reading the
            model raises.
    """
    _check_options(detector, max_clean_flagged, passes, accept, seed)
    if output is not None and not Path(output).parent.is_dir():
        raise NOT_WRITABLE(f"the folder {Path(output).parent} does not exist", "make the folder first")
    data = join(as_dataset(debug), None if clean is None else as_dataset(clean))
    proto, folder = _load(model)
    sites, _ = find_sites(proto)
    chosen = select_sites(sites, include, exclude)
    if not chosen:
        raise NO_SITE("the model has no attention site" if not sites else f"the filters leave none of {len(sites)} sites")
    context = Context(proto, folder, data, split(data, seed), seed, max_clean_flagged, threads, progress or _silent)
    hotfix, helped = _Fitting(context, output_name).run(chosen, sites, passes, accept)
    if not (helped or force):
        raise NOT_HELPFUL("on the held-back part " + _summary(hotfix.evidence))
    if output is not None:
        hotfix.save(output)
    return hotfix


class _Fitting:
    """The steps after training, which all judge by what the original model predicts."""

    def __init__(self, context: Context, output_name: str | None) -> None:
        self._context = context
        original = Runner(context.model, context.folder, context.threads)
        self._output = prediction_output(original, context.data, output_name)
        context.progress("original", 0, 1)
        self._original = predict(original, context.data, np.arange(len(context.data)), self._output)
        context.progress("original", 1, 1)
        self._judge = Judge(context.data, self._original)

    def run(self, chosen: Sequence[Site], everything: Sequence[Site], passes: PassesOption, accept: Accept) -> tuple[Hotfix, bool]:
        """The hotfix, and whether it helped on the report part."""
        context = self._context
        capture = Capture(context.model, context.folder, chosen, context.data, context.columns.shape[1], context.threads)
        skipped = dict(capture.skipped)
        if not capture.sites:
            raise DATA_MALFORMED("no site fits the labels: " + "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:3]))
        trained = anchor_sites(context, capture, train_sites(context, capture))
        if all(one.point.recall < LEAST_RECALL for one in trained):
            raise NOT_HELPFUL("no site's maps tell the labelled columns from others")
        tuned = Tuner(context, self._judge, self._output).tune(trained, passes, accept)
        kept, detecting = set(tuned.lineup.group), {one.site.id for one in tuned.lineup.detecting}
        for one in trained:
            if one.site.id not in kept:
                blind = one.point.recall < LEAST_RECALL
                skipped[one.site.id] = "its maps tell nothing, and " * blind + "patching it as well changes nothing for the better"
        report, helped = self._report(tuned)
        parts = {name: getattr(context.parts, name) for name in ("train", "selection", "report")}
        evidence = {
            "max_clean_flagged": context.most_flagged,
            "rows": {name: {"clean": len(part.clean), "anomalous": len(part.anomalous)} for name, part in parts.items()},
            "sites": {
                one.site.id: {"recall": one.point.recall, "detects": one.site.id in detecting} for one in trained if one.site.id in kept
            },
            "skipped": skipped,
            "calibration": tuned.evidence,
            "report": report,
        }
        return self._hotfix(tuned, everything, evidence), helped

    def _report(self, tuned: Tuned) -> tuple[dict[str, Any], bool]:
        part = self._context.parts.report
        predictions, flags = tuned.served.run(self._context.data, part.rows, tuned.threshold)
        by_site = {name: flags[:, index] for index, name in enumerate(tuned.lineup.group)}
        report = {
            "before": self._judge.figures(part, self._original),
            "after": self._judge.figures(part, predictions),
            "recall": rate(flags[part.anomalous].any(1)),
            "clean_flagged": rate(flags[part.clean].any(1)),
            "sites": {
                name: {"recall": rate(flag[part.anomalous]), "clean_flagged": rate(flag[part.clean])} for name, flag in by_site.items()
            },
        }
        return report, self._judge.helped(part, predictions)

    def _hotfix(self, tuned: Tuned, everything: Sequence[Site], evidence: Mapping[str, Any]) -> Hotfix:
        context, lineup = self._context, tuned.lineup
        layers = {site.id: index for index, site in enumerate(everything)}
        # The file keeps the mean, so that another level can be asked for when patching.
        mean = BenignChoice(1.0, tuned.choice.own_values)
        return Hotfix(
            sites=tuple(
                HotfixSite(one.site.id, layers[one.site.id], one.site.heads, one.site.fingerprint, mean.apply(one.plan))
                for one in lineup.sites
            ),
            threshold=tuned.threshold,
            weights=model_io.weights_digest(context.model, context.folder),
            level=tuned.choice.level,
            groups=(lineup.group,),
            passes=lineup.passes,
            accept=lineup.accept,
            data=context.data.digest,
            evidence=evidence,
            seeds={"fit": context.seed},
            versions={name: _version(name) for name in ("atpatch-onnx", "numpy", "onnx", "onnxruntime", "torch")},
        )


def _check_options(detector: str, max_clean_flagged: float, passes: str, accept: str, seed: int) -> None:
    if detector not in TRAINABLE:
        raise BAD_OPTION(f"detector {detector!r} cannot be trained", f"choose from {', '.join(TRAINABLE)}")
    if not 0 <= max_clean_flagged < 1:
        raise BAD_OPTION(f"a clean flag rate of {max_clean_flagged} is not in [0, 1)")
    for name, value, words in (("passes", passes, get_args(PassesOption)), ("accept", accept, get_args(Accept))):
        if value not in words:
            raise BAD_OPTION(f"{name} {value!r} is unknown", f"choose from {', '.join(words)}")
    if seed < 0:
        raise BAD_OPTION(f"seed {seed} is negative")
    for module in ("torch", "scipy"):
        try:
            import_module(module)
        except ImportError as error:
            raise EXTRA_MISSING(f"fit needs {module}", "pip install 'atpatch-onnx[fit]'") from error


def _load(model: Model) -> tuple[onnx.ModelProto, Path]:
    loaded = read(model)
    if is_patched(loaded.proto):
        raise ALREADY_PATCHED("a hotfix is fitted on the original model", "unpatch it first")
    return loaded.proto, loaded.folder


def _summary(evidence: Mapping[str, Any]) -> str:
    report = evidence["report"]
    name = "asr_star" if "asr_star" in report["before"] else "recovered"
    before, after = (report[when][name].get("rate", 0.0) for when in ("before", "after"))
    return f"{'ASR*' if name == 'asr_star' else 'the share of recovered predictions'} was {before:.1%} before and {after:.1%} after"


def _silent(step: str, done: int, total: int) -> None:
    pass


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
