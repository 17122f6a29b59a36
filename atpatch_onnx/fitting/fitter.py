"""`fit`: a model and data → a hotfix.

Its steps: split, capture, train or describe, calibrate on the served form, report.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Unpack

import onnx

from rewriters.editing.patcher import is_patched
from rewriters.errors import AtpatchError
from rewriters.finding.cache_branches import MergedDecoder, find_merged
from rewriters.finding.finder import find_sites
from rewriters.model.forms import Loaded, Model
from rewriters.model.io import weights_digest
from rewriters.model.regular_files import check_destination
from rewriters.sites import Site

from ..errors import ALREADY_PATCHED, BAD_OPTION, EXTRA_MISSING, NOT_ADMITTED, NOT_HELPFUL
from ..hotfix.evidence import DetectorsTried, Evidence, FigureName
from ..hotfix.file import Hotfix
from ..inference.datasets import Arrays, DataSet, as_dataset
from ..inference.decoders import cache_names
from ..inference.shared_weights import with_shared_weights
from ..inspection.encoder_decoder import read_with_encoder
from ..inspection.inspector import no_site, select_sites
from .detectors import LABEL_FREE, LABELED
from .hotfix_maker import Fit, HotfixMaker
from .judge import advice
from .kind_selection import Chosen, Trial, choose_kind, trials, without_labels
from .options import CLEAN_ROWS_ONLY, FitKeywords, FitOptions, Progress
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
            directory. Of a folder with an encoder and a decoder the hotfix is for the encoder.
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
    if output is not None:
        check_destination(output)
    data = _rows(debug, clean, settings.detector)
    asked, settings = settings, _without_labels(settings, data)
    labeled = settings.detector not in LABEL_FREE
    if labeled:
        _require_extra()
    loaded, encoder, settings = _load(model, settings)
    sites, chosen, merged = _sites(loaded.proto, settings, encoder)
    parts = split(data, settings.seed) if labeled else split_clean(data, settings.seed)
    with with_shared_weights(loaded.proto, loaded.folder) as (shared, place):
        context = Context(
            shared, place, data, parts, settings.seed, settings.most_flagged, settings.threads, progress or _silent
        )
        if merged is not None:
            context = _of_merged(context, merged.sites)
        maker = HotfixMaker(context, sites, settings)
        fitted, tried = _fit(maker, chosen, data, settings)
        if settings.detector != asked.detector:
            tried = without_labels()
        hotfix, helped = maker.make(fitted, tried)
    hotfix = hotfix if encoder is None else replace(hotfix, weights=weights_digest(encoder.proto, encoder.folder))
    if not (helped or settings.force):
        raise NOT_HELPFUL(
            "on the held-back part " + _summary(hotfix.evidence), advice(hotfix.evidence["report"]["before"])
        )
    if output is not None:
        hotfix.save(output)
    return hotfix


def _rows(debug: Data | None, clean: Data | None, detector: str) -> DataSet:
    if debug is None and clean is None:
        raise BAD_OPTION("there is nothing to fit on")
    if debug is None and detector in LABELED:
        raise BAD_OPTION(f"detector {detector!r} needs a debugging set")
    return join(*(None if given is None else as_dataset(given) for given in (debug, clean)))


def _without_labels(options: FitOptions, data: DataSet) -> FitOptions:
    """`detector="auto"` is `oneclass` where no row is labeled; the options that go with it are checked here."""
    if options.detector != "auto":
        return options
    assert data.columns is not None  # `join` has seen to it
    kind = "auto" if data.columns.any() else "oneclass"
    given = [name for name, default in CLEAN_ROWS_ONLY.items() if getattr(options, name) != default]
    if kind == "auto" and given:
        raise BAD_OPTION(
            f"{', '.join(given)}: of a fit on clean rows only, and these rows are labeled",
            "leave it out, or give --detector oneclass",
        )
    return replace(options, detector=kind)


def _fit(
    maker: HotfixMaker, sites: Sequence[Site], data: DataSet, options: FitOptions
) -> tuple[Fit, DetectorsTried | None]:
    """The fit of the kind that was asked for; with `detector="auto"` of the best, and the record of all."""
    if options.detector != "auto":
        fit = _fit_kind(maker, sites, options.detector, options, Wanted.of(options))
        if isinstance(fit, AtpatchError):
            raise fit
        return fit, None

    def fit_trial(trial: Trial) -> Fit | AtpatchError:
        return _fit_kind(maker, sites, trial.kind, options, replace(Wanted.of(options), signals=trial.signals))

    heals = maker.caches or options.mend == "heal"
    found = choose_kind([*trials(data, options, heals=heals)], maker.before, fit_trial)
    if not isinstance(found, Chosen):
        raise NOT_HELPFUL("; ".join(f"{name}: {reason}" for name, reason in found.items()), maker.advice)
    return found.fit, found.record


def _fit_kind(
    maker: HotfixMaker, sites: Sequence[Site], kind: str, options: FitOptions, wanted: Wanted
) -> Fit | AtpatchError:
    """One kind. With `every="auto"` the fit that reads fewer rows, if it is as good."""
    fit = maker.fit(sites, kind, wanted, 1 if options.every == "auto" else options.every)
    if options.every == "auto" and kind == "profile" and isinstance(fit, Fit) and fit.fitted.plan.mend != "heal":
        sparse = maker.fit(sites, kind, wanted, SPARSE)
        if isinstance(sparse, Fit) and _no_worse(sparse, fit):
            return sparse
    return fit


def _no_worse(one: Fit, other: Fit) -> bool:
    """On the selection part: no more attacks left, no more clean predictions lost, no more attacks missed."""
    first, second = one.fitted.outcome, other.fitted.outcome
    assert first is not None and second is not None  # a fit on labeled rows has one
    return first.left <= second.left and first.lost <= second.lost and first.missed <= second.missed


def _require_extra() -> None:
    for module in ("torch", "scipy"):
        try:
            import_module(module)
        except ImportError as error:
            raise EXTRA_MISSING(f"fit needs {module}", "pip install 'atpatch-onnx[fit]'") from error


def _load(model: Model, options: FitOptions) -> tuple[Loaded, Loaded | None, FitOptions]:
    """The model that answers; its encoder, which is patched, where that is a file of its own; and options for it."""
    loaded, encoder = read_with_encoder(model)
    if is_patched(loaded.proto):
        raise ALREADY_PATCHED("a hotfix is fitted on the original model", "unpatch it first")
    return loaded, encoder, options if encoder is None else _healing(options)


def _healing(options: FitOptions) -> FitOptions:
    """The options for an encoder of its own: what its decoder reads of it can only be healed."""
    if options.mend not in ("auto", "heal"):
        raise NOT_ADMITTED(
            f"encoder and decoder are separate files, and cross attention only gets healed states; not with --mend"
            f" {options.mend}",
            "leave it out, or give --mend heal",
        )
    return replace(options, mend="heal")


def _sites(
    model: onnx.ModelProto, settings: FitOptions, encoder: Loaded | None
) -> tuple[Sequence[Site], Sequence[Site], MergedDecoder | None]:
    """All sites and the chosen ones: of a merged decoder those of the branch for prompts, whose maps can be outputs;
    those of an encoder that is a file of its own.
    """
    sites, rejected = find_sites(model)
    if encoder is not None:
        own = {site.product for site in find_sites(encoder.proto)[0]}
        sites = tuple(site for site in sites if site.product in own)
    merged = find_merged(model, sites) if _has_caches(model) else None
    if merged is not None:
        sites = merged.prompts.sites
    chosen = select_sites(sites, settings.include, settings.exclude)
    if not chosen:
        raise no_site("the model", sites, rejected)
    return sites, chosen, merged


def _of_merged(context: Context, sites: Sequence[Site]) -> Context:
    """The context of a merged decoder with these sites."""
    merged = find_merged(context.model, sites, weights=True)
    assert merged is not None
    return replace(context, model=merged.prompts.model, merged=merged)


def _has_caches(model: onnx.ModelProto) -> bool:
    graph = model.graph
    return bool(cache_names((value.name for value in graph.input), (value.name for value in graph.output)))


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
