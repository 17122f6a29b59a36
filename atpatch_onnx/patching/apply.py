"""Patches a model and restores the original: a file gives a file, a folder a folder, a graph in memory a graph."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack, overload

import onnx
import onnx_ir

from rewriters.editing import patcher
from rewriters.model import io as model_io
from rewriters.model.forms import Graph, Model, PathLike, read
from rewriters.model.regular_files import check_destination, check_source

from ..errors import BAD_OPTION
from ..hotfix.options import PatchKeywords, PatchOptions
from ..inspection.folders import is_folder
from ..inspection.inspector import count_nodes
from ..paths import refuse_overwriting
from .edits import Edit, patch_loaded
from .folders import patch_folder, unpatch_folder
from .results import Patched, Unpatched
from .self_calibration import Progress

__all__ = ["Patched", "Unpatched", "patch", "patch_model", "unpatch", "unpatch_model"]


@overload
def patch(
    model: PathLike,
    output: PathLike | None = None,
    *,
    in_place: bool = False,
    link_data: bool | None = None,
    files: Sequence[str] = (),
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
    link_data: bool | None = None,
    files: Sequence[str] = (),
    progress: Progress | None = None,
    **options: Unpack[PatchKeywords],
) -> Patched | Graph:
    """Patch the attention sites of a model. On any failure nothing is written.

    A model file gives a patched file, and a record of what was done is returned. A graph in memory
    (`onnx.ModelProto`, `onnx_ir.Model`) gives a new graph of the same kind. Then nothing is written, and the argument
    is not changed. A folder of onnxruntime-genai, Optimum or transformers.js gives a folder that the same program
    loads: see `atpatch_onnx.patching.folders`.

    The plan comes from `hotfix`, else from `detector`, else from the file `<model>.hotfix` next to the model. Without
    any of them the model is calibrated: a text encoder on random tokens, any other model on the rows that `calibrate`
    gives. If the model has a patch already, the new one replaces it.

    Args:
        model: path, `onnx.ModelProto` or `onnx_ir.Model`. External data is referenced, not read; only a hotfix
            is compared with its first and last bytes. The external data of a proto is expected in the working
            directory.
        output: file or folder to write, if the model is one. None: `<model>.patched.onnx` or `<folder>.patched` next to
            the input, or the input itself with `in_place`.
        in_place: allow the output to be the input; for files only.
        link_data: hard-link external data into another folder instead of copying it. None: in folders only, where all
            files of 1 MiB and more are linked.
        files: of a folder, names of the model files to patch. (): see `atpatch_onnx.inspection.folders`.
        progress: called with a step, how much of it is done and how much there is, while the model is calibrated.
        options: fields of `PatchOptions`.

    Returns:
        for a file a record of what was done, for a graph the patched graph.

    Raises:
        AtpatchError: ATP001-ATP006 (input), ATP010 (no site), ATP016 and ATP018-ATP020 (output), ATP053-ATP055
            (hotfix), ATP023 (the graph does not allow it), ATP060 (options), ATP061 (no hotfix, and no text encoder),
            ATP050, ATP052, ATP056 and ATP063 (calibration), ATP021, ATP025-ATP027, ATP092 and ATP093 (folders),
            ATP051 and ATP094-ATP096 (the signature of the hotfix).
    """
    started = time.perf_counter()
    wanted = PatchOptions(**options)
    if isinstance(model, (str, os.PathLike)) and is_folder(model):
        _check_folder_options(in_place)
        return patch_folder(model, output, wanted, files, link=link_data is not False, progress=progress)
    _check_file_options(files)
    destination = _destination(model, output, in_place, ".patched", bool(link_data))
    loaded = read(model)
    edit = patch_loaded(loaded, wanted, progress)
    if destination is None:
        model_io.check(edit.patched)
        return loaded.alike(edit.patched)
    if edit.planned.hotfix is not None:  # it may have been found next to the model
        refuse_overwriting(Path(edit.planned.hotfix), destination, "give another -o")
    model_io.save(edit.patched, destination, loaded.folder, link_data=bool(link_data))
    return _record(edit, destination, loaded.folder, time.perf_counter() - started)


@overload
def unpatch(
    model: PathLike, output: PathLike | None = None, *, in_place: bool = False, link_data: bool | None = None
) -> Unpatched: ...
@overload
def unpatch(model: onnx.ModelProto) -> onnx.ModelProto: ...
@overload
def unpatch(model: onnx_ir.Model) -> onnx_ir.Model: ...
def unpatch(
    model: Model, output: PathLike | None = None, *, in_place: bool = False, link_data: bool | None = None
) -> Unpatched | Graph:
    """Restore the original of a patched model, equal in every field. A file gives a file, a folder gives a folder, a
    graph gives a graph, as in `patch`. Of a folder, every file with a patch is restored.

    The bytes of an `onnx_ir.Model` are not known, so they cannot be compared with the digest of the original. There the
    check is that a patch had put in everything that is taken out, and that no part of the patch is left.

    Args:
        model: path, `onnx.ModelProto` or `onnx_ir.Model`.
        output: file or folder to write, if the model is one. None: `<model>.unpatched.onnx` or `<folder>.unpatched`, or
            the input itself with `in_place`.
        in_place: allow the output to be the input; for files only.
        link_data: hard-link external data into another folder instead of copying it; None: in folders only.

    Returns:
        for a file a record of what was done, for a graph the restored graph.

    Raises:
        AtpatchError: ATP013 (no patch), ATP014 (changed since), and those of loading and saving.
    """
    if isinstance(model, (str, os.PathLike)) and is_folder(model):
        _check_folder_options(in_place)
        return unpatch_folder(model, output, link=link_data is not False)
    destination = _destination(model, output, in_place, ".unpatched", bool(link_data))
    loaded = read(model)
    original = patcher.unpatch(loaded.proto, exact=loaded.exact)
    if destination is None:
        return loaded.alike(original)
    model_io.save(original, destination, loaded.folder, link_data=bool(link_data))
    return Unpatched(str(destination), count_nodes(loaded.proto), count_nodes(original), model_io.digest(original))


def _record(edit: Edit, destination: Path, folder: Path, seconds: float) -> Patched:
    return Patched(str(destination), seconds=round(seconds, 3), **edit.facts((destination.parent, folder)))


def _check_folder_options(in_place: bool) -> None:
    if in_place:
        raise BAD_OPTION("a folder is never changed in place", "give another folder with -o")


def _check_file_options(files: Sequence[str]) -> None:
    if files:
        raise BAD_OPTION("model files are named in a folder only", "give the folder, or leave --file out")


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
