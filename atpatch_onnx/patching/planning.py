"""Chooses the plan of a patch.

1. A hotfix that is given, or that lies next to the model, gives its own plan.
2. A detector that is named is used whatever the model is.
3. Else the model is calibrated: a text encoder on random tokens, any other model on the rows that are given.
4. A text encoder that cannot be calibrated, or is not to be, gets the training-free detector.
5. Every other model is refused.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from rewriters.finding.cache_branches import find_merged
from rewriters.finding.finder import find_sites
from rewriters.finding.key_value import HealingPlaces
from rewriters.finding.movable_tokens import Doubt, doubt
from rewriters.finding.own_tokens import own_token_sites
from rewriters.finding.token_groups import token_groups
from rewriters.finding.token_inputs import token_inputs
from rewriters.model import io as model_io
from rewriters.model.external_data import check_external
from rewriters.model.forms import Loaded, PathLike
from rewriters.model.regular_files import check_destination
from rewriters.plan import PatchPlan
from rewriters.sites import Site

from ..errors import (
    BAD_OPTION,
    HOTFIX_MISMATCH,
    NO_SITE,
    NOT_ADMITTED,
    NOTHING_FITTED,
    PLAN_IMPOSSIBLE,
    AtpatchError,
)
from ..hotfix.file import Hotfix, is_silent
from ..hotfix.options import PatchOptions
from ..hotfix.plans import (
    SMOOTHING_WORTH,
    STATISTIC_THRESHOLD,
    STATISTIC_WORTH,
    fitted_plan,
    hotfix_next_to,
    untrained_plan,
)
from ..inference.decoders import cache_names
from ..inspection.inspector import no_site, select_sites
from ..paths import refuse_overwriting
from ..signing.verifier import verify
from .judging import Groups, judging
from .results import Calibration
from .self_calibration import Progress, Subject, calibrate_on_noise, calibrate_on_rows, in_words, not_on_noise

__all__ = ["Planned", "make_plan"]


CALLS_UNKNOWN = (
    "this graph has key-value caches, and the hotfix does not say that it was fitted for them: on steps of one token"
    " its features may mean something else. 'atpatch-onnx fit' on this graph makes one that heals keys and values"
)


@dataclass(frozen=True)
class Planned:
    """The plan of a patch.

    Attributes:
        plan: what to insert at the chosen sites.
        sites: all sites of the model, in graph order.
        hotfix: path of the hotfix. None if there is none, or if it was not read from a file.
        notes: one-line remarks for people.
        calibration: how the model was calibrated. None if it was not.
        places: where keys and values can be healed, where the plan was chosen by that.
    """

    plan: PatchPlan
    sites: tuple[Site, ...]
    hotfix: str | None
    notes: tuple[str, ...]
    calibration: Calibration | None = None
    places: HealingPlaces | None = None


def make_plan(
    original: onnx.ModelProto, loaded: Loaded, options: PatchOptions, progress: Progress | None = None
) -> Planned:
    """The plan for `original`, the model in `loaded` without its patch. Writes the calibrated hotfix if asked to.

    Raises:
        AtpatchError: ATP010 (no site), ATP053-ATP055 (hotfix), ATP060 (options), ATP061 (no hotfix, and no text
            encoder), ATP050, ATP052, ATP056 and ATP063 (calibration), ATP094-ATP096 (the hotfix's signature).
    """
    sites, rejected = find_sites(original)
    chosen = select_sites(sites, options.include, options.exclude)
    path = Path(loaded.source) if isinstance(loaded.source, (str, os.PathLike)) else None
    if not chosen:
        raise no_site("the model" if path is None else os.fspath(path), sites, rejected)
    if options.save_hotfix is not None:
        if path is not None:
            refuse_overwriting(path, Path(options.save_hotfix))
        check_destination(options.save_hotfix)
    given = options.hotfix
    if given is None and options.detector is None and path is not None and not options.asks_to_calibrate:
        given = hotfix_next_to(path)
    if options.verify_key is not None:
        _require_signature(given, options.verify_key)
    hotfix, file = (given, None) if isinstance(given, Hotfix) or given is None else (Hotfix.load(given), given)
    calibration: Calibration | None = None
    notes: tuple[str, ...] = ()
    places: HealingPlaces | None = None
    groups: Groups
    if hotfix is None and options.detector is None:
        subject = Subject(original, loaded.folder, sites, chosen)
        hotfix, calibration, notes = _calibrated(subject, options, progress or _silent)
    if hotfix is None:
        if options.mend == "heal":
            groups, places = judging(original, sites, chosen)
            chosen = tuple(site for site in chosen if any(site.id in group for group in groups))
        elif options.detector == "smoothing":
            chosen, groups = tuple(own_token_sites(original, sites, chosen)) or chosen, ()
            notes = (SMOOTHING_WORTH,)
        else:
            groups = _within(token_groups(original, sites), {site.id for site in chosen})
        plan = untrained_plan(chosen, options, groups)
    else:
        plan = _fitted(original, loaded, hotfix, sites, chosen, options)
        if not hotfix.calls and plan.mend != "heal" and _has_caches(original):
            notes = (*notes, CALLS_UNKNOWN)
    _check_passes(plan, options)
    if calibration is not None and hotfix is not None and options.save_hotfix is not None:
        hotfix.save(options.save_hotfix)
    return Planned(plan, sites, None if file is None else os.fspath(file), notes, calibration, places)


def _require_signature(hotfix: PathLike | Hotfix | None, key: PathLike) -> None:
    if hotfix is None or isinstance(hotfix, Hotfix):
        raise BAD_OPTION(
            "a signature is demanded, and there is no hotfix file that could have one",
            "give --hotfix, or leave --verify-key out",
        )
    verify(hotfix, key=key)


def _calibrated(
    subject: Subject, options: PatchOptions, progress: Progress
) -> tuple[Hotfix | None, Calibration | None, tuple[str, ...]]:
    """The hotfix with a note about it; or no hotfix, and a note about the training-free detector."""
    found, source = doubt(subject.model, subject.chosen), options.calibrate
    if isinstance(source, str) and source in ("auto", "noise", "none"):
        if found is not None:
            raise _refusal(found)
        if source == "none":
            return None, None, (_statistic_note(options, "nothing was fitted"),)
        if source == "auto" and options.save_hotfix is None and (reason := not_on_noise(subject)) is not None:
            return None, None, (_statistic_note(options, f"the model was not calibrated: {reason}"),)
        hotfix, calibration = calibrate_on_noise(subject, options, progress)
    else:
        if found is not None and found.decoder and token_inputs(subject.model, subject.sites) is not None:
            raise _refusal(found)
        hotfix, calibration = calibrate_on_rows(subject, source, options, progress)
    return hotfix, calibration, (in_words(calibration, hotfix),)


def _fitted(
    model: onnx.ModelProto,
    loaded: Loaded,
    hotfix: Hotfix,
    sites: Sequence[Site],
    chosen: Sequence[Site],
    options: PatchOptions,
) -> PatchPlan:
    names = {site.id for site in chosen}
    if not options.force:
        _check_calls(model, hotfix, options)
    check_external(model, loaded.folder)
    weights = model_io.weights_digest(model, loaded.folder)
    merged = find_merged(model, sites) if hotfix.mend == "heal" else None
    if merged is None:
        plan = fitted_plan(hotfix, sites, weights, options)
    else:
        plan = merged.spread(fitted_plan(hotfix, merged.prompts.sites, weights, options))
    kept = {name: site for name, site in plan.sites.items() if name in names}
    if not kept:
        raise NO_SITE("the filters leave none of the sites that the hotfix patches")
    if all(is_silent(site) for site in kept.values()) and not all(is_silent(site) for site in plan.sites.values()):
        raise NO_SITE("the filters leave only sites without a detector of their own", "keep a site with a detector")
    return replace(plan, sites=kept, groups=_within(plan.groups, names))


def _check_calls(model: onnx.ModelProto, hotfix: Hotfix, options: PatchOptions) -> None:
    """Refuse a hotfix that was fitted on other calls than this graph gets: a step of one token shows one row of a map,
    and what a cache holds is only healed where it was written.
    """
    caches = _has_caches(model)
    if hotfix.calls == "cached" and options.mend not in (None, "heal"):
        raise PLAN_IMPOSSIBLE(
            f"the hotfix was fitted for healing in a loop with key-value caches, where --mend {options.mend} does harm",
            "leave --mend out",
        )
    if hotfix.calls == "whole" and caches:
        raise HOTFIX_MISMATCH(
            "it was fitted on whole prompts, and this graph has key-value caches: on steps of one token its features"
            " mean something else",
            "fit one on this graph, which then heals keys and values; or patch the export without caches",
        )
    if hotfix.calls == "cached" and not caches:
        raise HOTFIX_MISMATCH(
            "it was fitted on a graph with key-value caches, where a step of one token is not judged; this graph has"
            " none, and would judge what it has said so far with each new token",
            "fit one on this graph; or patch the export with caches",
        )


def _has_caches(model: onnx.ModelProto) -> bool:
    graph = model.graph
    return bool(cache_names((value.name for value in graph.input), (value.name for value in graph.output)))


def _refusal(found: Doubt) -> AtpatchError:
    decoders = "; decoders are not fully supported yet" if found.decoder else ""
    return NOTHING_FITTED(
        f"there is no hotfix, and without data this model cannot be calibrated: {found.why}",
        NOTHING_FITTED.fix + decoders,
    )


def _within(groups: Groups, names: set[str]) -> Groups:
    kept = (tuple(name for name in group if name in names) for group in groups)
    return tuple(group for group in kept if group)


def _check_passes(plan: PatchPlan, options: PatchOptions) -> None:
    if plan.passes == "one":
        for name, value in (("mend", options.mend), ("accept", options.accept)):
            if value is not None:
                raise BAD_OPTION(f"{name} goes with two passes", f"add --passes two, or leave --{name} out")
        return
    if not plan.groups:
        raise NOT_ADMITTED(
            "two passes need sites that are proven to read the same tokens, and this model has no two of them",
            "patch with --passes one, or fit a hotfix",
        )


def _silent(step: str, done: int, total: int) -> None:
    pass


def _statistic_note(options: PatchOptions, why: str) -> str:
    used = STATISTIC_THRESHOLD if options.threshold is None else options.threshold
    return (
        f"{why}; using the training-free detector with threshold {used:g}. {STATISTIC_WORTH}"
        " 'atpatch-onnx fit MODEL --debug SET.npz -o MODEL.hotfix' (or --clean ROWS.npz) makes a hotfix for this"
        " model, which does better"
    )
