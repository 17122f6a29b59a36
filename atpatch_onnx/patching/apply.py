"""Patches a model and restores the original: a file gives a file, a graph in memory gives a graph."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Unpack, overload

import onnx
import onnx_ir

from rewriters.editing import patcher
from rewriters.model import io as model_io
from rewriters.model.forms import Graph, Loaded, Model, PathLike, read
from rewriters.model.regular_files import check_destination, check_source

from ..errors import BAD_OPTION
from ..hotfix.file import kinds
from ..hotfix.options import PatchKeywords, PatchOptions
from ..inference.controls import control_notes, gating_notes
from ..inspection.inspector import count_nodes, original_of
from ..paths import refuse_overwriting
from .planning import Planned, make_plan
from .results import Patched, Unpatched
from .self_calibration import Progress

__all__ = ["Patched", "Unpatched", "patch", "patch_model", "unpatch", "unpatch_model"]


@overload
def patch(
    model: PathLike,
    output: PathLike | None = None,
    *,
    in_place: bool = False,
    link_data: bool = False,
    progress: Progress | None = None,
    **options: Unpack[PatchKeywords],
) -> Patched: ...
@overload
def patch(
    model: onnx.ModelProto, *, progress: Progress | None = None, **options: Unpack[PatchKeywords]
) -> onnx.ModelProto: ...
@overload
def patch(
    model: onnx_ir.Model, *, progress: Progress | None = None, **options: Unpack[PatchKeywords]
) -> onnx_ir.Model: ...
def patch(
    model: Model,
    output: PathLike | None = None,
    *,
    in_place: bool = False,
    link_data: bool = False,
    progress: Progress | None = None,
    **options: Unpack[PatchKeywords],
) -> Patched | Graph:
    """Patch the attention sites of a model. On any failure nothing is written.

    A model file gives a patched file, and a record of what was done is returned. A graph in memory
    (`onnx.ModelProto`, `onnx_ir.Model`) gives a new graph of the same kind. Then nothing is written, and the argument
    is not changed.

    The plan comes from `hotfix`, else from `detector`, else from the file `<model>.hotfix` next to the model. Without
    any of them the model is calibrated: a text encoder on random tokens, any other model on the rows that `calibrate`
    gives. If the model has a patch already, the new one replaces it.

    Args:
        model: path, `onnx.ModelProto` or `onnx_ir.Model`. External data is referenced, not read; only a hotfix
            is compared with its first and last bytes. The external data of a proto is expected in the working
            directory.
        output: file to write, if the model is a file. None: `<model>.patched.onnx` next to the input, or the input
            itself with `in_place`.
        in_place: allow the output to be the input.
        link_data: hard-link external data into another folder instead of copying it.
        progress: called with a step, how much of it is done and how much there is, while the model is calibrated.
        options: fields of `PatchOptions`.

    Returns:
        for a file a record of what was done, for a graph the patched graph.

    Raises:
        AtpatchError: ATP001-ATP006 (input), ATP010 (no site), ATP016 and ATP018-ATP020 (output), ATP053-ATP055
            (hotfix), ATP023 (the graph does not allow it), ATP060 (options), ATP061 (no hotfix, and no text encoder),
            ATP050, ATP052, ATP056 and ATP063 (calibration).
    """
    started = time.perf_counter()
    wanted = PatchOptions(**options)
    destination = _destination(model, output, in_place, ".patched", link_data)
    loaded = read(model)
    original = original_of(loaded)
    model_io.require_opset(original)
    planned = make_plan(original, loaded, wanted, progress)
    patched = patcher.patch(original, planned.plan, planned.sites)
    if destination is None:
        model_io.check(patched)
        return loaded.alike(patched)
    model_io.save(patched, destination, loaded.folder, link_data=link_data)
    seconds = round(time.perf_counter() - started, 3)
    return _record(loaded, original, patched, planned, destination, seconds)


@overload
def unpatch(
    model: PathLike, output: PathLike | None = None, *, in_place: bool = False, link_data: bool = False
) -> Unpatched: ...
@overload
def unpatch(model: onnx.ModelProto) -> onnx.ModelProto: ...
@overload
def unpatch(model: onnx_ir.Model) -> onnx_ir.Model: ...
def unpatch(
    model: Model, output: PathLike | None = None, *, in_place: bool = False, link_data: bool = False
) -> Unpatched | Graph:
    """Restore the original of a patched model, equal in every field. A file gives a file, a graph gives a graph, as in
    `patch`.

    The bytes of an `onnx_ir.Model` are not known, so they cannot be compared with the digest of the original. There the
    check is that a patch had put in everything that is taken out, and that no part of the patch is left.

    Args:
        model: path, `onnx.ModelProto` or `onnx_ir.Model`.
        output: file to write, if the model is a file. None: `<model>.unpatched.onnx`, or the input itself with
            `in_place`.
        in_place: allow the output to be the input.
        link_data: hard-link external data into another folder instead of copying it.

    Returns:
        for a file a record of what was done, for a graph the restored graph.

    Raises:
        AtpatchError: ATP013 (no patch), ATP014 (changed since), and those of loading and saving.
    """
    destination = _destination(model, output, in_place, ".unpatched", link_data)
    loaded = read(model)
    original = patcher.unpatch(loaded.proto, exact=loaded.exact)
    if destination is None:
        return loaded.alike(original)
    model_io.save(original, destination, loaded.folder, link_data=link_data)
    return Unpatched(str(destination), count_nodes(loaded.proto), count_nodes(original), model_io.digest(original))


def _record(
    loaded: Loaded,
    original: onnx.ModelProto,
    patched: onnx.ModelProto,
    planned: Planned,
    destination: Path,
    seconds: float,
) -> Patched:
    """What was done, once the file is written."""
    plan = planned.plan
    notes = control_notes(original, plan, (destination.parent, loaded.folder))
    return Patched(
        output=str(destination),
        sites=tuple(site.id for site in planned.sites if site.id in plan.sites),
        detector=kinds(plan.sites.values()),
        gating=plan.gating,
        nodes_before=count_nodes(original),
        nodes_after=count_nodes(patched),
        seconds=seconds,
        hotfix=planned.hotfix,
        replaced=patcher.is_patched(loaded.proto),
        notes=(*planned.notes, *notes, *gating_notes(plan)),
        passes=plan.passes,
        calibration=planned.calibration,
    )


def _destination(model: Model, output: PathLike | None, in_place: bool, suffix: str, link_data: bool) -> Path | None:
    """The file to write. None for a graph in memory, which gives no file."""
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
    return check_destination(destination)  # so that a bad path fails before the work is done


# Former names, from before functions were named like the commands.
patch_model, unpatch_model = patch, unpatch
