"""Model file in, patched model file out, and back; or the same with graphs in memory."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import onnx
import onnx_ir

from rewriters.editing.patcher import is_patched, patch, unpatch
from rewriters.finding.finder import find_sites
from rewriters.finding.movable_tokens import doubt
from rewriters.finding.token_groups import token_groups
from rewriters.model import io as model_io
from rewriters.model.external_data import check_external
from rewriters.model.forms import Graph, Loaded, Model, PathLike, read
from rewriters.model.regular_files import check_destination, check_source
from rewriters.plan import ControlInputs, PatchPlan
from rewriters.sites import Site

from ..errors import BAD_OPTION, NO_SITE, NOTHING_FITTED
from ..hotfix.file import Accept, Benign, Hotfix, Mend, Passes, Values, is_silent, kinds
from ..hotfix.plans import (
    STATISTIC_THRESHOLD,
    STATISTIC_WORTH,
    DetectorKind,
    Options,
    beside,
    fitted_plan,
    untrained_plan,
)
from ..inference.controls import control_notes, form_of, gating_notes
from ..inspection.inspector import count_nodes, no_site, select_sites
from ..paths import refuse_overwriting

__all__ = ["PatchOptions", "Patched", "Unpatched", "patch_model", "unpatch_model"]


@dataclass(frozen=True)
class Patched:
    """What `patch_model` did.

    Attributes:
        output: file written.
        sites: ids of the patched sites, in graph order.
        detector: kinds of the detectors, usually one.
        gating: "if" or "none".
        passes: "one" or "two".
        nodes_before, nodes_after: nodes of all bodies of the original and of the patched graph.
        seconds: time taken, reading and writing included.
        hotfix: hotfix file used, None when nothing was fitted.
        replaced: the input carried a patch, which was taken out first.
        notes: one-line remarks for people.
    """

    output: str
    sites: tuple[str, ...]
    detector: str
    gating: str
    nodes_before: int
    nodes_after: int
    seconds: float
    hotfix: str | None = None
    replaced: bool = False
    notes: tuple[str, ...] = ()
    passes: Passes = "one"

    def to_json(self) -> dict[str, Any]:
        """The keys that `patch --json` promises."""
        keys = ("output", "detector", "gating", "nodes_before", "nodes_after", "seconds")
        return {**{key: getattr(self, key) for key in keys}, "sites": list(self.sites)}


@dataclass(frozen=True)
class Unpatched:
    """What `unpatch_model` did; `digest` is the SHA-256 of the restored model."""

    output: str
    nodes_before: int
    nodes_after: int
    digest: str

    def to_json(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("output", "nodes_before", "nodes_after", "digest")}


class PatchOptions(TypedDict, total=False):
    """Keywords of `patch_model` that go with every form of a model."""

    hotfix: PathLike | Hotfix | None
    detector: DetectorKind | None
    columns: Sequence[int] | None
    detector_model: PathLike | None
    threshold: float | None
    benign: Benign | None
    values: Values | None
    passes: Passes | None
    mend: Mend | None
    accept: Accept | None
    gating: Literal["if", "none"] | None
    target: Literal["cpu", "cuda"]
    telemetry: bool
    controls: ControlInputs | None
    portable: bool
    freeze: bool
    include: str | None
    exclude: str | None
    force: bool


@overload
def patch_model(
    model: PathLike,
    output: PathLike | None = None,
    *,
    in_place: bool = False,
    link_data: bool = False,
    **options: Unpack[PatchOptions],
) -> Patched: ...
@overload
def patch_model(model: onnx.ModelProto, **options: Unpack[PatchOptions]) -> onnx.ModelProto: ...
@overload
def patch_model(model: onnx_ir.Model, **options: Unpack[PatchOptions]) -> onnx_ir.Model: ...
def patch_model(
    model: Model,
    output: PathLike | None = None,
    *,
    hotfix: PathLike | Hotfix | None = None,
    detector: DetectorKind | None = None,
    columns: Sequence[int] | None = None,
    detector_model: PathLike | None = None,
    threshold: float | None = None,
    benign: Benign | None = None,
    values: Values | None = None,
    passes: Passes | None = None,
    mend: Mend | None = None,
    accept: Accept | None = None,
    gating: Literal["if", "none"] | None = None,
    target: Literal["cpu", "cuda"] = "cpu",
    telemetry: bool = False,
    controls: ControlInputs | None = None,
    portable: bool = False,
    freeze: bool = False,
    include: str | None = None,
    exclude: str | None = None,
    in_place: bool = False,
    force: bool = False,
    link_data: bool = False,
) -> Patched | Graph:
    """Patch the attention sites of a model. On any failure nothing is written.

    A file makes a file, and what was done is returned. A graph in memory (`onnx.ModelProto`, `onnx_ir.Model`) makes a
    new graph of the same kind, which is returned; nothing is written, and the argument stays as it is.

    The plan comes from `hotfix`; else from `detector`; else from `<model>.hotfix` beside the model; else, of a model
    that is shown to be a text encoder, it is the training-free `statistic` detector with a conservative threshold. A
    patch that the model carries already is replaced.

    Args:
        model: path, `onnx.ModelProto` or `onnx_ir.Model`. External data is referenced, never read (a hotfix is held
            against its first and last bytes; those of a proto are looked for in the working directory).
        output: file to write, of a file; None: `<model>.patched.onnx` beside the input, or the input itself with
            `in_place`.
        hotfix: a hotfix or its file.
        detector: "static" (with `columns`, () never fires), "statistic", or "onnx" (with `detector_model`).
        threshold: flag columns whose score is above this.
        benign: level of the benign attention: "mean", "zero", or a multiple of the mean (without a hotfix: of uniform).
        values: "benign" replaces a flagged column's value too, "own" keeps it (the paper's form).
        passes: "one" patches each site as it comes, "two" detects at all sites and runs flagged samples again; None: as
            the hotfix says, else "one".
        mend, accept: of two passes, see `rewriters.plan.PatchPlan`.
        gating: "if" or "none" (branch-free); None: by `target`, "if" on cpu and "none" on cuda.
        telemetry: add outputs that tell which columns were flagged.
        controls: what `atpatch_enabled` and `atpatch_threshold` are: "optional" inputs (None: these; none below IR
            version 4), "required" ones, for programs that know no others (onnxruntime-genai, JavaScript), or "none":
            constants.
        portable: a graph that other tools survive: branch-free, without controls. Two passes then run twice in every
            request.
        freeze: the same as controls="none".
        include, exclude: regular expressions on a site's id and scope.
        in_place: allow the output to be the input.
        force: use a hotfix whose fingerprints do not match.
        link_data: hard-link external data into another folder instead of copying it.

    Raises:
        AtpatchError: ATP001-ATP006 (input), ATP010 (no site), ATP016 and ATP018-ATP020 (output), ATP053-ATP055
            (hotfix), ATP060 (options), ATP061 (nothing to go by).
    """
    started = time.perf_counter()
    controls, gating = form_of(controls, gating, freeze, portable)
    options = Options(
        detector,
        columns,
        None if detector_model is None else Path(detector_model),
        threshold,
        benign,
        values,
        gating or ("none" if target == "cuda" else "if"),
        telemetry,
        controls,
        force,
        passes,
        mend,
        accept,
    )
    if hotfix is not None and detector is not None:
        raise BAD_OPTION("a hotfix brings its own detector", "give --hotfix or --detector, not both")
    destination = _destination(model, output, in_place, ".patched", link_data)
    loaded = read(model)
    replaced = is_patched(loaded.proto)
    original = unpatch(loaded.proto, exact=loaded.exact) if replaced else loaded.proto
    model_io.require_opset(original)
    all_sites, rejected = find_sites(original)
    chosen = select_sites(all_sites, include, exclude)
    if not chosen:
        whose = os.fspath(model) if isinstance(model, (str, os.PathLike)) else "the model"
        raise no_site(whose, all_sites, rejected)
    found = (
        beside(Path(model)) if hotfix is None and detector is None and isinstance(model, (str, os.PathLike)) else hotfix
    )
    fitted = Hotfix.load(found) if isinstance(found, (str, os.PathLike)) else found
    plan = _plan(original, loaded, fitted, all_sites, chosen, options)
    _check_passes(plan, mend, accept)
    if plan.passes == "two" and gating is None:  # a branch costs less than a second run in every request, on any device
        plan = replace(plan, gating="if")
    patched = patch(original, plan, all_sites)
    if destination is None:
        model_io.check(patched)
        return loaded.alike(patched)
    model_io.save(patched, destination, loaded.folder, link_data=link_data)
    return Patched(
        output=str(destination),
        sites=tuple(site.id for site in all_sites if site.id in plan.sites),
        detector=kinds(plan.sites.values()),
        gating=plan.gating,
        nodes_before=count_nodes(original),
        nodes_after=count_nodes(patched),
        seconds=round(time.perf_counter() - started, 3),
        hotfix=os.fspath(found) if isinstance(found, (str, os.PathLike)) else None,
        replaced=replaced,
        notes=(
            *_notes(fitted, detector, threshold),
            *control_notes(original, plan, (destination.parent, loaded.folder)),
            *gating_notes(plan),
        ),
        passes=plan.passes,
    )


@overload
def unpatch_model(
    model: PathLike, output: PathLike | None = None, *, in_place: bool = False, link_data: bool = False
) -> Unpatched: ...
@overload
def unpatch_model(model: onnx.ModelProto) -> onnx.ModelProto: ...
@overload
def unpatch_model(model: onnx_ir.Model) -> onnx_ir.Model: ...
def unpatch_model(
    model: Model, output: PathLike | None = None, *, in_place: bool = False, link_data: bool = False
) -> Unpatched | Graph:
    """Restore the original of a patched model, field for field; a file makes a file, a graph a graph, as in
    `patch_model`.

    An `onnx_ir.Model` keeps no bytes to be held against the original's digest; there the check is that all that is
    taken out was put in by a patch, and that nothing of it is left.

    Args:
        model: path, `onnx.ModelProto` or `onnx_ir.Model`.
        output: file to write, of a file; None: `<model>.unpatched.onnx`, or the input itself with `in_place`.

    Raises:
        AtpatchError: ATP013 (no patch), ATP014 (changed since), and those of loading and saving.
    """
    destination = _destination(model, output, in_place, ".unpatched", link_data)
    loaded = read(model)
    original = unpatch(loaded.proto, exact=loaded.exact)
    if destination is None:
        return loaded.alike(original)
    model_io.save(original, destination, loaded.folder, link_data=link_data)
    return Unpatched(str(destination), count_nodes(loaded.proto), count_nodes(original), model_io.digest(original))


def _destination(model: Model, output: PathLike | None, in_place: bool, suffix: str, link_data: bool) -> Path | None:
    """The file to write; None for a graph, of which none is made."""
    if not isinstance(model, (str, os.PathLike)):
        if output is not None or in_place or link_data:
            raise BAD_OPTION(
                "output, in_place and link_data go with a model file", "give the file's path, or save what is returned"
            )
        return None
    source = check_source(model)
    if in_place:
        if output is not None and os.path.abspath(output) != os.path.abspath(source):
            raise BAD_OPTION("an output and --in-place contradict each other", "give one of the two")
        return source
    if output is None:
        stem = source.name.removesuffix(".onnx").removesuffix(".patched")
        output = source.with_name(f"{stem}{suffix}.onnx")
    destination = Path(output)
    refuse_overwriting(source, destination)
    return check_destination(destination)  # before the work rather than after it


def _plan(
    model: onnx.ModelProto,
    loaded: Loaded,
    hotfix: Hotfix | None,
    sites: Sequence[Site],
    chosen: Sequence[Site],
    options: Options,
) -> PatchPlan:
    names = {site.id for site in chosen}
    if hotfix is None:
        untrained = untrained_plan(chosen, options, _within(token_groups(model, sites), names))
        if options.detector is None:
            _refuse_guess(model, chosen)
        return untrained
    check_external(model, loaded.folder)
    plan = fitted_plan(hotfix, sites, model_io.weights_digest(model, loaded.folder), options)
    kept = {name: site for name, site in plan.sites.items() if name in names}
    if not kept:
        raise NO_SITE("the filters leave none of the sites that the hotfix patches")
    if all(is_silent(site) for site in kept.values()) and not all(is_silent(site) for site in plan.sites.values()):
        raise NO_SITE("the filters leave only sites that act on what others flag", "keep a site that detects")
    return replace(plan, sites=kept, groups=_within(plan.groups, names))


def _refuse_guess(model: onnx.ModelProto, chosen: Sequence[Site]) -> None:
    """Raises NOTHING_FITTED where the training-free detector is not shown to suit the model."""
    found = doubt(model, chosen)
    if found is not None:
        decoders = "; decoders are not fully supported yet" if found.decoder else ""
        raise NOTHING_FITTED(
            f"there is no hotfix, and the training-free detector may spoil this model: {found.why}",
            NOTHING_FITTED.mend + decoders,
        )


def _within(groups: tuple[tuple[str, ...], ...], names: set[str]) -> tuple[tuple[str, ...], ...]:
    kept = (tuple(name for name in group if name in names) for group in groups)
    return tuple(group for group in kept if group)


def _check_passes(plan: PatchPlan, mend: str | None, accept: str | None) -> None:
    if plan.passes == "one":
        for name, value in (("mend", mend), ("accept", accept)):
            if value is not None:
                raise BAD_OPTION(f"{name} goes with two passes", f"add --passes two, or leave --{name} out")
        return
    if not plan.groups:
        raise BAD_OPTION(
            "two passes join sites that read the same tokens, and of no two sites of this model can that be shown",
            "patch with --passes one, or fit a hotfix",
        )


def _notes(hotfix: Hotfix | None, detector: DetectorKind | None, threshold: float | None) -> tuple[str, ...]:
    if hotfix is not None or detector is not None:
        return ()
    used = STATISTIC_THRESHOLD if threshold is None else threshold
    return (
        (
            f"nothing was fitted: using the training-free detector with threshold {used:g}. {STATISTIC_WORTH}"
            " 'atpatch-onnx fit MODEL --debug SET.npz -o MODEL.hotfix' (or --clean ROWS.npz) makes a hotfix for this"
            " model, which does better"
        ),
    )
