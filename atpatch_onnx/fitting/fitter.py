"""`fit`: a model and data → a hotfix.

Its steps: split, capture, train or describe, calibrate on the served form, report.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Unpack

import onnx

from rewriters.editing.patcher import is_patched
from rewriters.finding.finder import find_sites
from rewriters.model.forms import Model, read
from rewriters.model.regular_files import check_destination
from rewriters.sites import Site

from ..errors import ALREADY_PATCHED, BAD_OPTION, EXTRA_MISSING, NOT_HELPFUL
from ..hotfix.evidence import Evidence, FigureName
from ..hotfix.file import Hotfix
from ..inference.datasets import Arrays, DataSet, as_dataset
from ..inspection.inspector import no_site, select_sites
from .detectors import LABELED
from .hotfix_maker import HotfixMaker
from .judge import advice
from .options import FitKeywords, FitOptions, Progress
from .passes import Wanted
from .splits import join, split, split_clean
from .training import Context

__all__ = ["Progress", "fit"]

SPARSE = 8
"""With `every="auto"`: read every eighth query row if that is as good."""

Data = DataSet | Arrays | str | os.PathLike[str]


def fit(
    model: Model,
    debug: Data | None = None,
    clean: Data | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    progress: Progress | None = None,
    **options: Unpack[FitKeywords],
) -> Hotfix:
    """Train detectors for a model and calibrate them on its served form.

    Args:
        model: path, `onnx.ModelProto` or `onnx_ir.Model`; external data of a proto is looked for in the working
            directory.
        debug: debugging set, a path (`.npz`) or arrays by name with the sample axis first: graph inputs, `columns`,
            `pair`, and where known `labels`, `target` and `group`. Kinds that learn only from clean rows do not need
            one; if it is given, they learn from its clean rows and are judged by the others.
        clean: more clean rows, for a more exact false-flag rate.
        output: where to write the hotfix; None: nowhere.
        progress: called with the step, how much of it is done, and how much there is.
        options: fields of `FitOptions`.

    Returns:
        the hotfix. `evidence["report"]` has its figures on rows that no choice was based on.

    Raises:
        AtpatchError: ATP010 (no site), ATP012 (patched model), ATP019 (output), ATP050-ATP052 (runtime and extras),
            ATP056 (data), ATP057 (nothing helped), ATP060 (options), ATP023 (two passes or excision where the graph
            does not admit them), and what reading the model raises.
    """
    settings = FitOptions(**options)
    labeled = settings.detector in LABELED
    if labeled:
        _require_extra()
    if debug is None and (clean is None or labeled):
        raise BAD_OPTION(
            f"detector {settings.detector!r} needs a debugging set"
            if clean is not None
            else "there is nothing to fit on"
        )
    if output is not None:
        check_destination(output)
    data = join(*(None if given is None else as_dataset(given) for given in (debug, clean)))
    proto, folder = _load(model)
    sites, rejected = find_sites(proto)
    chosen = select_sites(sites, settings.include, settings.exclude)
    if not chosen:
        raise no_site("the model", sites, rejected)
    parts = split(data, settings.seed) if labeled else split_clean(data, settings.seed)
    context = Context(
        proto, folder, data, parts, settings.seed, settings.most_flagged, settings.threads, progress or _silent
    )
    maker = HotfixMaker(context, sites, settings.output_name)
    hotfix, helped = _make(maker, chosen, settings)
    if not (helped or settings.force):
        raise NOT_HELPFUL(
            "on the held-back part " + _summary(hotfix.evidence), advice(hotfix.evidence["report"]["before"])
        )
    if output is not None:
        hotfix.save(output)
    return hotfix


def _make(maker: HotfixMaker, sites: Sequence[Site], options: FitOptions) -> tuple[Hotfix, bool]:
    """The hotfix, and whether it helped. With `every="auto"` the one that reads fewer rows, if it is as good."""
    wanted = Wanted.of(options)
    hotfix, helped = maker.make(sites, options.detector, wanted, 1 if options.every == "auto" else options.every)
    if options.every == "auto":
        sparse, sparse_helped = maker.make(sites, options.detector, wanted, SPARSE)
        if sparse_helped >= helped and _no_worse(sparse, hotfix):
            return sparse, sparse_helped
    return hotfix, helped


def _no_worse(one: Hotfix, other: Hotfix) -> bool:
    """On the selection part: no more attacks left, no more clean predictions lost, no fewer attacks flagged."""
    first, second = (hotfix.evidence["calibration"] for hotfix in (one, other))
    fewer = all(first["sites"][key] <= second["sites"][key] for key in ("attack", "lost"))
    return fewer and first["recall"]["k"] >= second["recall"]["k"]


def _require_extra() -> None:
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


def _summary(evidence: Evidence) -> str:
    report = evidence["report"]
    names: dict[FigureName, str] = {
        "unfair": "the share of unfair groups",
        "asr_star": "ASR*",
        "recovered": "the share of recovered predictions",
    }
    name = next(name for name in names if name in report["before"])
    before, after = (figures[name].get("rate", 0.0) for figures in (report["before"], report["after"]))
    return f"{names[name]} was {before:.1%} before and {after:.1%} after"


def _silent(step: str, done: int, total: int) -> None:
    pass
