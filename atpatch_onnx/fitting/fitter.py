"""`fit`: a model and data → a hotfix.

Split, capture, train or describe, calibrate on the served form, and show evidence.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx

from rewriters.editing.patcher import is_patched
from rewriters.finding.finder import find_sites
from rewriters.model import io as model_io
from rewriters.model.forms import Model, read
from rewriters.model.regular_files import check_destination
from rewriters.sites import Site

from ..errors import ALREADY_PATCHED, BAD_OPTION, DATA_MALFORMED, EXTRA_MISSING, NOT_HELPFUL
from ..hotfix.file import Accept, Hotfix, HotfixSite
from ..inference.capture import Capture
from ..inference.datasets import Arrays, DataSet, as_dataset
from ..inference.padding import common_mask, lengths
from ..inference.prediction import predict, prediction_output
from ..inference.runner import Runner
from ..inspection.inspector import no_site, select_sites
from .detectors import LABELLED, TRAINABLE
from .fitted import Fitted
from .judge import Judge, advice, against_bound, rate
from .label_free import fit_label_free
from .labelled import fit_labelled
from .passes import MendOption, PassesOption, Wanted
from .splits import join, split, split_clean
from .training import Context, Progress

__all__ = ["Progress", "fit"]

SPARING = ("profile", "oneclass")
"""Kinds that can do with some of the query rows."""
SPARSE = 8
"""Of so many query rows one is read, where that is left to the fit and does as well."""
PADDING_ROWS = 8
"""The shortest rows, run with padding and without, tell whether a model looks at padding."""
PADDING_TOLERANCE = 1e-3
"""Sums over another number of zeros round otherwise; in half precision by this much."""

Data = DataSet | Arrays | str | os.PathLike[str]
Every = int | Literal["auto"]


def fit(
    model: Model,
    debug: Data | None = None,
    clean: Data | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    detector: str = "profile",
    max_clean_flagged: float = 0.005,
    passes: PassesOption = "auto",
    mend: MendOption = "auto",
    accept: Accept = "always",
    every: Every = 1,
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
        model: path, `onnx.ModelProto` or `onnx_ir.Model`; external data of a proto is looked for in the working
            directory.
        debug: debugging set: graph inputs, `columns`, `pair`, and where known `labels`, `target` and `group`. Kinds
            that learn from clean rows alone do without; of one that is given they learn from its clean rows, and are
            judged by the others.
        clean: further clean rows, for a finer false-flag rate.
        output: where to write the hotfix; None: nowhere.
        detector: kind to train, one of `detectors.TRAINABLE`.
        max_clean_flagged: bound on the share of clean requests flagged anywhere, met on the selection part.
        passes: "auto" takes two where they stop more attacks on the selection part.
        mend, accept: of two passes, see `PatchPlan`; mend "auto" excises where the graph admits it and the selection
            part shows that it does as well.
        every: `profile` and `oneclass`: take column means over every n-th query row alone, which is cheaper on long
            inputs and beside fused operators; see `Profile`. "auto", for `profile`: every eighth, if the selection part
            shows no loss against all.
        seed: of the split and the training; the same seed gives the same file.
        include, exclude: regular expressions on site id and scope.
        output_name: graph output whose argmax is the prediction; None: the first float output of rank 2.
        force: return a hotfix that does not help, too.
        threads: of onnxruntime, None for its own choice.
        progress: told how far each step is.

    Raises:
        AtpatchError: ATP010 (no site), ATP012 (patched model), ATP019 (output), ATP050-ATP052 (runtime and extras),
            ATP056 (data), ATP057 (nothing helped), ATP060 (options), ATP015 (two passes or excision where the graph
            does not admit them), and what reading the model raises.
    """
    wanted = Wanted(passes, mend, accept)
    _check_options(detector, max_clean_flagged, wanted, every, seed)
    if debug is None and (clean is None or detector in LABELLED):
        raise BAD_OPTION(
            f"detector {detector!r} needs a debugging set" if clean is not None else "there is nothing to fit on"
        )
    if output is not None:
        check_destination(output)
    data = join(*(None if given is None else as_dataset(given) for given in (debug, clean)))
    proto, folder = _load(model)
    sites, rejected = find_sites(proto)
    chosen = select_sites(sites, include, exclude)
    if not chosen:
        raise no_site("the model", sites, rejected)
    parts = split(data, seed) if detector in LABELLED else split_clean(data, seed)
    context = Context(proto, folder, data, parts, seed, max_clean_flagged, threads, progress or _silent)
    fitting = _Fitting(context, sites, output_name)
    hotfix, helped = fitting.run(chosen, detector, wanted, 1 if every == "auto" else every)
    if every == "auto":
        sparse, sparse_helped = fitting.run(chosen, detector, wanted, SPARSE)
        if sparse_helped >= helped and _no_worse(sparse, hotfix):
            hotfix, helped = sparse, sparse_helped
    if not (helped or force):
        raise NOT_HELPFUL(
            "on the held-back part " + _summary(hotfix.evidence), advice(hotfix.evidence["report"]["before"])
        )
    if output is not None:
        hotfix.save(output)
    return hotfix


class _Fitting:
    """What comes before and after a way of fitting: the sites that fit the data, the figures, the hotfix."""

    def __init__(self, context: Context, everything: Sequence[Site], output_name: str | None) -> None:
        self._everything = everything
        original = Runner(context.model, context.folder, context.threads)
        self._output = prediction_output(original, context.data, output_name)
        original, mask = _without_padding(context, original, everything, self._output)
        self._context = context = replace(context, mask=mask)
        context.progress("original", 0, 1)
        self._original = predict(original, context.data, np.arange(len(context.data)), self._output)
        context.progress("original", 1, 1)
        self._judge = Judge(context.data, self._original)

    def run(self, chosen: Sequence[Site], kind: str, wanted: Wanted, every: int) -> tuple[Hotfix, bool]:
        """The hotfix, and whether it helped on the report part;
        without attacks there it is not known to be of no help.
        """
        context = replace(self._context, every=every)
        capture = Capture(
            context.model,
            context.folder,
            chosen,
            context.data,
            context.columns.shape[1] or None,
            context.threads,
            context.mask,
        )
        if not capture.sites:
            raise DATA_MALFORMED(
                "no site fits the data: "
                + "; ".join(f"{name}: {why}" for name, why in list(capture.skipped.items())[:3])
            )
        if kind in LABELLED:
            fitted = fit_labelled(context, capture, kind, self._judge, self._output, wanted)
        else:
            fitted = fit_label_free(context, capture, kind, self._output, wanted)
        report, helped = self._report(fitted)
        parts = {name: getattr(context.parts, name) for name in ("train", "selection", "report")}
        evidence = {
            "max_clean_flagged": context.most_flagged,
            "every": every,
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
            "skipped": {**capture.skipped, **fitted.skipped},
            "calibration": fitted.calibration,
            "report": report,
        }
        return self._hotfix(fitted, evidence), helped

    def _report(self, fitted: Fitted) -> tuple[dict[str, Any], bool]:
        part = self._context.parts.report
        predictions, flags = fitted.served.run(self._context.data, part.rows, fitted.plan.threshold)
        report = {
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
        return report, not len(part.anomalous) or self._judge.helped(part, predictions)

    def _hotfix(self, fitted: Fitted, evidence: Mapping[str, Any]) -> Hotfix:
        context, plan = self._context, fitted.plan
        return Hotfix(
            sites=tuple(
                HotfixSite(site.id, layer, site.heads, site.fingerprint, plan.sites[site.id])
                for layer, site in enumerate(self._everything)
                if site.id in plan.sites
            ),
            threshold=plan.threshold,
            weights=model_io.weights_digest(context.model, context.folder),
            level=fitted.level,
            companion=plan.companion,
            groups=plan.groups,
            passes=plan.passes,
            joint=plan.joint,
            mend=plan.mend,
            accept=plan.accept,
            data=context.data.digest,
            evidence=evidence,
            seeds={"fit": context.seed},
            versions={name: _version(name) for name in ("atpatch-onnx", "numpy", "onnx", "onnxruntime", "torch")},
        )


def _no_worse(one: Hotfix, other: Hotfix) -> bool:
    """On the selection part: as few attacks get through and as few clean predictions are lost, and as many attacks are
    flagged.
    """
    first, second = (hotfix.evidence["calibration"] for hotfix in (one, other))
    fewer = all(first["sites"][key] <= second["sites"][key] for key in ("attack", "lost"))
    return fewer and first["recall"]["k"] >= second["recall"]["k"]


def _without_padding(
    context: Context, original: Runner, sites: Sequence[Site], output: str
) -> tuple[Runner, str | None]:
    """A runner that leaves padding out and the mask it goes by, where the model's scores do not depend on padding; else
    the one given.
    """
    mask = common_mask(sites, context.data)
    if mask is None:
        return original, None
    cutting = original.without_padding(mask)
    rows = np.argsort(lengths(context.data.inputs[mask]), kind="stable")[:PADDING_ROWS]
    (_, whole), (_, short) = (
        next(runner.batches(context.data, rows, PADDING_ROWS, [output])) for runner in (original, cutting)
    )
    same = np.allclose(whole[output], short[output], rtol=PADDING_TOLERANCE, atol=PADDING_TOLERANCE)
    return (cutting, mask) if same else (original, None)


def _check_options(detector: str, max_clean_flagged: float, wanted: Wanted, every: Every, seed: int) -> None:
    if detector not in TRAINABLE:
        raise BAD_OPTION(f"detector {detector!r} cannot be trained", f"choose from {', '.join(TRAINABLE)}")
    if not 0 <= max_clean_flagged < 1:
        raise BAD_OPTION(f"a clean flag rate of {max_clean_flagged} is not in [0, 1)")
    for name, words in (("passes", PassesOption), ("mend", MendOption), ("accept", Accept)):
        if getattr(wanted, name) not in get_args(words):
            raise BAD_OPTION(
                f"{name} {getattr(wanted, name)!r} is unknown", f"choose from {', '.join(get_args(words))}"
            )
    if wanted.mend == "excise" and wanted.passes == "one":
        raise BAD_OPTION("excision takes two passes", "leave --passes out, or --mend")
    goes = detector == "profile" if every == "auto" else every == 1 or (every > 1 and detector in SPARING)
    if not goes:
        raise BAD_OPTION(
            f"every = {every} does not go with detector {detector!r}",
            f"1, or more with {' or '.join(SPARING)}; 'auto' with profile",
        )
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
    names = {
        "unfair": "the share of unfair groups",
        "asr_star": "ASR*",
        "recovered": "the share of recovered predictions",
    }
    name = next(name for name in names if name in report["before"])
    before, after = (report[when][name].get("rate", 0.0) for when in ("before", "after"))
    return f"{names[name]} was {before:.1%} before and {after:.1%} after"


def _silent(step: str, done: int, total: int) -> None:
    pass


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
