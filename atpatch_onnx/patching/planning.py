"""Chooses the plan of a patch: from a hotfix, from a named detector, or the training-free one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from rewriters.finding.finder import find_sites
from rewriters.finding.movable_tokens import doubt
from rewriters.finding.token_groups import token_groups
from rewriters.model import io as model_io
from rewriters.model.external_data import check_external
from rewriters.model.forms import Loaded
from rewriters.plan import PatchPlan
from rewriters.sites import Site

from ..errors import BAD_OPTION, NO_SITE, NOT_ADMITTED, NOTHING_FITTED
from ..hotfix.file import Hotfix, is_silent
from ..hotfix.options import PatchOptions
from ..hotfix.plans import STATISTIC_THRESHOLD, STATISTIC_WORTH, fitted_plan, hotfix_next_to, untrained_plan
from ..inspection.inspector import no_site, select_sites

__all__ = ["Planned", "make_plan"]


@dataclass(frozen=True)
class Planned:
    """The plan of a patch.

    Attributes:
        plan: what to insert at the chosen sites.
        sites: all sites of the model, in graph order.
        hotfix: path of the hotfix. None if there is none, or if it was not read from a file.
        notes: one-line remarks for people.
    """

    plan: PatchPlan
    sites: tuple[Site, ...]
    hotfix: str | None
    notes: tuple[str, ...]


def make_plan(original: onnx.ModelProto, loaded: Loaded, options: PatchOptions) -> Planned:
    """The plan for `original`, the model in `loaded` without its patch.

    Raises:
        AtpatchError: ATP010 (no site), ATP053-ATP055 (hotfix), ATP060 (options), ATP061 (no hotfix, and no text
            encoder).
    """
    sites, rejected = find_sites(original)
    chosen = select_sites(sites, options.include, options.exclude)
    path = Path(loaded.source) if isinstance(loaded.source, (str, os.PathLike)) else None
    if not chosen:
        raise no_site("the model" if path is None else os.fspath(path), sites, rejected)
    given = options.hotfix
    if given is None and options.detector is None and path is not None:
        given = hotfix_next_to(path)
    hotfix, file = (given, None) if isinstance(given, Hotfix) or given is None else (Hotfix.load(given), given)
    if hotfix is None:
        plan = _untrained(original, sites, chosen, options)
    else:
        plan = _fitted(original, loaded, hotfix, sites, chosen, options)
    _check_passes(plan, options)
    notes = _notes(options) if hotfix is None and options.detector is None else ()
    return Planned(plan, sites, None if file is None else os.fspath(file), notes)


def _untrained(
    model: onnx.ModelProto, sites: Sequence[Site], chosen: Sequence[Site], options: PatchOptions
) -> PatchPlan:
    plan = untrained_plan(chosen, options, _within(token_groups(model, sites), {site.id for site in chosen}))
    if options.detector is None:
        _refuse_guess(model, chosen)
    return plan


def _fitted(
    model: onnx.ModelProto,
    loaded: Loaded,
    hotfix: Hotfix,
    sites: Sequence[Site],
    chosen: Sequence[Site],
    options: PatchOptions,
) -> PatchPlan:
    names = {site.id for site in chosen}
    check_external(model, loaded.folder)
    plan = fitted_plan(hotfix, sites, model_io.weights_digest(model, loaded.folder), options)
    kept = {name: site for name, site in plan.sites.items() if name in names}
    if not kept:
        raise NO_SITE("the filters leave none of the sites that the hotfix patches")
    if all(is_silent(site) for site in kept.values()) and not all(is_silent(site) for site in plan.sites.values()):
        raise NO_SITE("the filters leave only sites without a detector of their own", "keep a site with a detector")
    return replace(plan, sites=kept, groups=_within(plan.groups, names))


def _refuse_guess(model: onnx.ModelProto, chosen: Sequence[Site]) -> None:
    """Raises NOTHING_FITTED if the graph does not prove that the training-free detector suits the model."""
    found = doubt(model, chosen)
    if found is not None:
        decoders = "; decoders are not fully supported yet" if found.decoder else ""
        raise NOTHING_FITTED(
            f"there is no hotfix, and the training-free detector may spoil this model: {found.why}",
            NOTHING_FITTED.fix + decoders,
        )


def _within(groups: tuple[tuple[str, ...], ...], names: set[str]) -> tuple[tuple[str, ...], ...]:
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


def _notes(options: PatchOptions) -> tuple[str, ...]:
    used = STATISTIC_THRESHOLD if options.threshold is None else options.threshold
    return (
        (
            f"nothing was fitted: using the training-free detector with threshold {used:g}. {STATISTIC_WORTH}"
            " 'atpatch-onnx fit MODEL --debug SET.npz -o MODEL.hotfix' (or --clean ROWS.npz) makes a hotfix for this"
            " model, which does better"
        ),
    )
