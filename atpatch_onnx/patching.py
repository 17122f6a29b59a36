"""Model file in, patched model file out, and back."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import onnx

from rewriters import model_io
from rewriters.finder import find_sites
from rewriters.patcher import is_patched, patch, unpatch
from rewriters.plan import PatchPlan
from rewriters.sites import Site

from .errors import BAD_OPTION, NO_SITE, NOT_WRITABLE, OUTPUT_IS_INPUT
from .hotfix import Benign, Hotfix, Values
from .inspecting import count_nodes, select_sites
from .plans import STATISTIC_THRESHOLD, DetectorKind, Options, beside, fitted_plan, untrained_plan

__all__ = ["Patched", "Unpatched", "patch_model", "refuse_overwriting", "unpatch_model"]

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Patched:
    """What `patch_model` did.

    Attributes:
        output: file written.
        sites: ids of the patched sites, in graph order.
        detector: kinds of the detectors, usually one.
        gating: "if" or "none".
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


def patch_model(
    path: PathLike,
    output: PathLike | None = None,
    *,
    hotfix: PathLike | Hotfix | None = None,
    detector: DetectorKind | None = None,
    columns: Sequence[int] | None = None,
    detector_model: PathLike | None = None,
    threshold: float | None = None,
    benign: Benign | None = None,
    values: Values | None = None,
    gating: Literal["if", "none"] | None = None,
    target: Literal["cpu", "cuda"] = "cpu",
    telemetry: bool = False,
    freeze: bool = False,
    include: str | None = None,
    exclude: str | None = None,
    in_place: bool = False,
    force: bool = False,
    link_data: bool = False,
) -> Patched:
    """Patch the attention sites of a model file. On any failure nothing is written.

    The plan comes from `hotfix`; else from `detector`; else from `<model>.hotfix` beside the model; else it is the
    training-free `statistic` detector with a conservative threshold. A patch that the model carries already is replaced.

    Args:
        path: model file; its external data is referenced, never read.
        output: file to write; None: `<model>.patched.onnx` beside the input, or the input itself with `in_place`.
        hotfix: a hotfix or its file.
        detector: "static" (with `columns`, () never fires), "statistic", or "onnx" (with `detector_model`).
        threshold: flag columns whose score is above this.
        benign: level of the benign attention: "mean", "zero", or a multiple of the mean (without a hotfix: of uniform).
        values: "benign" replaces a flagged column's value too, "own" keeps it (the paper's form).
        gating: "if" or "none" (branch-free); None: by `target`, "if" on cpu and "none" on cuda.
        telemetry: add outputs that tell which columns were flagged.
        freeze: no runtime controls.
        include, exclude: regular expressions on a site's id and scope.
        in_place: allow the output to be the input.
        force: use a hotfix whose fingerprints do not match.
        link_data: hard-link external data into another folder instead of copying it.

    Raises:
        AtpatchError: ATP001-ATP006 (input), ATP010 (no site), ATP016 and ATP018-ATP020 (output), ATP053-ATP055 (hotfix), ATP060 (options).
    """
    started = time.perf_counter()
    source = Path(path)
    options = Options(
        detector,
        columns,
        None if detector_model is None else Path(detector_model),
        threshold,
        benign,
        values,
        gating or ("none" if target == "cuda" else "if"),
        telemetry,
        freeze,
        force,
    )
    if hotfix is not None and detector is not None:
        raise BAD_OPTION("a hotfix brings its own detector", "give --hotfix or --detector, not both")
    destination = _destination(source, output, in_place, ".patched")
    loaded = model_io.load(source)
    replaced = is_patched(loaded)
    original = unpatch(loaded) if replaced else loaded
    model_io.require_opset(original)
    all_sites, _ = find_sites(original)
    chosen = select_sites(all_sites, include, exclude)
    if not chosen:
        raise NO_SITE(
            f"{source} has no attention site" if not all_sites else f"the filters leave none of {len(all_sites)} sites",
        )
    found = hotfix if hotfix is not None or detector is not None else beside(source)
    fitted = Hotfix.load(found) if isinstance(found, (str, os.PathLike)) else found
    plan = _plan(original, source, fitted, all_sites, chosen, options)
    patched = patch(original, plan, all_sites)
    model_io.save(patched, destination, source.parent, link_data=link_data)
    return Patched(
        output=str(destination),
        sites=tuple(site.id for site in all_sites if site.id in plan.sites),
        detector=" ".join(sorted({site.detector.kind for site in plan.sites.values()})),
        gating=plan.gating,
        nodes_before=count_nodes(original),
        nodes_after=count_nodes(patched),
        seconds=round(time.perf_counter() - started, 3),
        hotfix=os.fspath(found) if isinstance(found, (str, os.PathLike)) else None,
        replaced=replaced,
        notes=_notes(fitted, detector, threshold),
    )


def unpatch_model(path: PathLike, output: PathLike | None = None, *, in_place: bool = False, link_data: bool = False) -> Unpatched:
    """Restore the original of a patched model file, field for field.

    Args:
        output: file to write; None: `<model>.unpatched.onnx`, or the input itself with `in_place`.

    Raises:
        AtpatchError: ATP013 (no patch), ATP014 (changed since), and those of loading and saving.
    """
    source = Path(path)
    destination = _destination(source, output, in_place, ".unpatched")
    model = model_io.load(source)
    original = unpatch(model)
    model_io.save(original, destination, source.parent, link_data=link_data)
    return Unpatched(str(destination), count_nodes(model), count_nodes(original), model_io.digest(original))


def refuse_overwriting(source: Path, destination: Path) -> None:
    """Raises OUTPUT_IS_INPUT where both paths lead to one file."""
    same = destination.exists() and source.exists() and destination.samefile(source)
    if same or os.path.abspath(source) == os.path.abspath(destination):
        raise OUTPUT_IS_INPUT(f"the output {destination} is the input")


def _destination(source: Path, output: PathLike | None, in_place: bool, suffix: str) -> Path:
    if in_place:
        if output is not None and os.path.abspath(output) != os.path.abspath(source):
            raise BAD_OPTION("an output and --in-place contradict each other", "give one of the two")
        return source
    if output is None:
        stem = source.name.removesuffix(".onnx").removesuffix(".patched")
        output = source.with_name(f"{stem}{suffix}.onnx")
    destination = Path(output)
    refuse_overwriting(source, destination)
    # Said before the work rather than after it.
    if not destination.parent.is_dir():
        raise NOT_WRITABLE(f"the folder {destination.parent} does not exist", "make the folder first")
    return destination


def _plan(
    model: onnx.ModelProto, source: Path, hotfix: Hotfix | None, sites: Sequence[Site], chosen: Sequence[Site], options: Options
) -> PatchPlan:
    if hotfix is None:
        return untrained_plan(chosen, options)
    plan = fitted_plan(hotfix, sites, model_io.weights_digest(model, source.parent), options)
    names = {site.id for site in chosen}
    kept = {name: site for name, site in plan.sites.items() if name in names}
    if not kept:
        raise NO_SITE("the filters leave none of the sites that the hotfix patches")
    return replace(plan, sites=kept)


def _notes(hotfix: Hotfix | None, detector: DetectorKind | None, threshold: float | None) -> tuple[str, ...]:
    if hotfix is not None or detector is not None:
        return ()
    used = STATISTIC_THRESHOLD if threshold is None else threshold
    return (
        f"nothing was fitted: using the training-free detector with threshold {used:g}; "
        "'atpatch-onnx fit MODEL --debug SET.npz -o MODEL.hotfix' makes a hotfix for this model",
    )
