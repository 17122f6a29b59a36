"""Patches the models of a folder: a folder goes in, and a folder comes out that the same program loads.

1. Which files are patched: those that `inspection.folders` says, or those that are named. Each gets its own plan.
2. A file is left as it is where it has no site, where the hotfix belongs to another file, where other files have a
   hotfix next to them and this one has none, and where it cannot be patched without a hotfix. The result says so. A
   file that was named is not left: there the reason is an error. If no file is left to patch, the reason is one too.
3. onnxruntime-genai ignores optional inputs, so there the controls are constants unless others are asked for.
4. Encoder and decoder as two files are each repaired by themselves, and the notes say what that does not cover.
5. Everything else in the folder comes along: see `rewriters.model.folders`. On any failure there is no new folder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rewriters.editing import patcher
from rewriters.model import io as model_io
from rewriters.model.folders import check_new_folder, mirror, new_folder
from rewriters.model.forms import PathLike, read

from ..errors import (
    BAD_OPTION,
    HOTFIX_MISMATCH,
    NO_SITE,
    NOT_ADMITTED,
    NOT_CALIBRATED,
    NOT_PATCHED,
    NOTHING_FITTED,
    AtpatchError,
)
from ..hotfix.options import PatchOptions
from ..hotfix.plans import hotfix_next_to
from ..inspection.folders import ModelFile, ModelFolder, chosen_files, read_folder
from ..inspection.inspector import count_nodes
from .edits import patch_loaded
from .results import FileLeft, FilePatched, FileUnpatched, Patched, Unpatched
from .self_calibration import Progress

__all__ = ["patch_folder", "unpatch_folder"]

_REASONS_TO_LEAVE = (NO_SITE, HOTFIX_MISMATCH, NOTHING_FITTED, NOT_CALIBRATED)

_NO_SWITCH = (
    "the patch is always on (--controls none), since onnxruntime-genai ignores optional inputs. To switch it per"
    " request, add --controls required and feed both inputs with set_model_input, or load the original folder as well"
)


def patch_folder(
    path: PathLike,
    output: PathLike | None,
    options: PatchOptions,
    files: Sequence[str] = (),
    *,
    link: bool = True,
    progress: Progress | None = None,
) -> Patched:
    """Patch the models of a folder into a new folder.

    Args:
        output: the new folder. None: `<folder>.patched` next to it.
        files: names of the model files to patch. (): those that are patched by default.
        link: hard-link large files where the file system allows it.

    Raises:
        AtpatchError: those of `patching.apply.patch`.
    """
    started = time.perf_counter()
    folder = read_folder(path)
    destination = _destination(folder, output, ".patched")
    chosen = chosen_files(folder, files)
    given, options = options, _for_folder(folder, options, chosen, files)
    done: list[FilePatched] = []
    left = [FileLeft(one.file, one.part, one.why_not or "not named") for one in folder.files if one not in chosen]
    refusals: list[AtpatchError] = []
    with new_folder(destination) as unfinished:
        for one, reason in _with_hotfix(folder, chosen, options, files):
            if reason:
                left.append(FileLeft(one.file, one.part, reason))
                continue
            try:
                done.append(_patch_file(folder, one, unfinished, options, progress))
            except AtpatchError as error:
                if files or not _may_be_left(error, folder, one, options):
                    raise
                refusals.append(error)
                left.append(FileLeft(one.file, one.part, f"{error.code}: {error.what}"))
        if not done:
            raise _none(folder, refusals)
        mirrored = mirror(folder.everything, unfinished, but={one.file for one in done}, link=link)
    return Patched(
        output=str(destination),
        sites=tuple(f"{one.file}:{site}" if len(done) > 1 else site for one in done for site in one.sites),
        detector=" ".join(sorted({kind for one in done for kind in one.detector.split()})),
        gating="if" if any(one.gating == "if" for one in done) else "none",
        nodes_before=sum(one.nodes_before for one in done),
        nodes_after=sum(one.nodes_after for one in done),
        seconds=round(time.perf_counter() - started, 3),
        hotfix=next((one.hotfix for one in done if one.hotfix), None),
        replaced=any(one.replaced for one in done),
        notes=_notes(folder, done, [] if options is given else [_NO_SWITCH]),
        passes="two" if any(one.passes == "two" for one in done) else "one",
        calibration=next((one.calibration for one in done if one.calibration), None),
        files=tuple(done),
        left=tuple(left),
        linked=mirrored.linked,
        copied=mirrored.copied,
    )


def unpatch_folder(path: PathLike, output: PathLike | None, *, link: bool = True) -> Unpatched:
    """Restore every patched model of a folder into a new folder; the arguments are those of `patch_folder`.

    Raises:
        AtpatchError: those of `patching.apply.unpatch`.
    """
    folder = read_folder(path)
    destination = _destination(folder, output, ".unpatched")
    done: list[FileUnpatched] = []
    left: list[FileLeft] = []
    with new_folder(destination) as unfinished:
        for one in folder.files:
            source = folder.path / one.file
            try:
                patched = read(source).proto
            except AtpatchError as error:
                if not one.why_not:
                    raise
                left.append(FileLeft(one.file, one.part, f"{error.code}: {error.what}"))
                continue
            if not patcher.is_patched(patched):
                left.append(FileLeft(one.file, one.part, "it has no patch"))
                continue
            original = patcher.unpatch(patched)
            model_io.save_graph(original, _place(unfinished, one), source.parent)
            nodes = count_nodes(patched), count_nodes(original)
            done.append(FileUnpatched(one.file, one.part, *nodes, model_io.digest(original)))
        if not done:
            raise NOT_PATCHED(f"no model file of {folder.path} has a patch")
        mirrored = mirror(folder.everything, unfinished, but={one.file for one in done}, link=link)
    return Unpatched(
        output=str(destination),
        nodes_before=sum(one.nodes_before for one in done),
        nodes_after=sum(one.nodes_after for one in done),
        digest=done[0].digest,
        files=tuple(done),
        left=tuple(left),
        linked=mirrored.linked,
        copied=mirrored.copied,
    )


def _destination(folder: ModelFolder, output: PathLike | None, suffix: str) -> Path:
    if output is None:
        source = folder.path.resolve()
        output = source.with_name(source.name.removesuffix(".patched") + suffix)
    return check_new_folder(output, folder.path)


def _for_folder(
    folder: ModelFolder, options: PatchOptions, chosen: Sequence[ModelFile], files: Sequence[str]
) -> PatchOptions:
    """The options for each file of the folder."""
    if len(chosen) > 1 and options.save_hotfix is not None:
        raise BAD_OPTION("--save-hotfix keeps the hotfix of one model file", "name one with --file")
    if len(chosen) > 1 and options.hotfix is not None and options.force and not files:
        raise BAD_OPTION(
            "--force would put one hotfix into every model file of the folder", "name the files to patch with --file"
        )
    if folder.kind == "genai" and options.control_inputs == "optional" and options.controls is None:
        return replace(options, controls="none")
    return options


def _with_hotfix(
    folder: ModelFolder, chosen: Sequence[ModelFile], options: PatchOptions, files: Sequence[str]
) -> list[tuple[ModelFile, str]]:
    """The files, each with a reason to leave it: files without a hotfix next to them, where others have one."""
    looks = options.hotfix is None and options.detector is None and not options.asks_to_calibrate and not files
    having = {one for one in chosen if looks and hotfix_next_to(folder.path / one.file) is not None}
    return [
        (one, "it has no hotfix next to it, and another file has" * bool(having and one not in having))
        for one in chosen
    ]


def _patch_file(
    folder: ModelFolder, one: ModelFile, unfinished: Path, options: PatchOptions, progress: Progress | None
) -> FilePatched:
    source = folder.path / one.file
    feeds_decoder = folder.two_sides and one.part == "encoder"
    edit = patch_loaded(read(source), options, progress, feeds_another=feeds_decoder)
    model_io.save_graph(edit.patched, _place(unfinished, one), source.parent)
    plan = edit.plan
    return FilePatched(one.file, one.part, controls=plan.controls, mend=plan.mend, **edit.facts((folder.path,)))


def _may_be_left(error: AtpatchError, folder: ModelFolder, one: ModelFile, options: PatchOptions) -> bool:
    """Whether the other files of a folder can be patched without one; an encoder of sound has no tokens to heal."""
    encoder = folder.two_sides and one.part == "encoder"
    return error.fault in _REASONS_TO_LEAVE or (error.fault is NOT_ADMITTED and encoder and options.mend == "heal")


def _place(unfinished: Path, one: ModelFile) -> Path:
    path = unfinished / one.file
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _none(folder: ModelFolder, refusals: Sequence[AtpatchError]) -> AtpatchError:
    """Why no file was patched: the first refusal; each file's own reason where there are several."""
    first = refusals[0]
    if len(refusals) == 1:
        return first
    reasons = "; ".join(dict.fromkeys(f"{error.code}: {error.what}" for error in refusals))
    return first.fault(f"none of {len(refusals)} model files of {folder.path} was patched: {reasons}", first.fix)


def _not_covered(done: Sequence[FilePatched]) -> list[str]:
    """Where encoder and decoder are two files: what of one side the repair of the other does not reach."""
    encoders = [one.file for one in done if one.part == "encoder"]
    handing = [one.file for one in done if one.part == "encoder" and one.mend == "heal"]
    healed = [one.file for one in done if one.part == "decoder" and one.mend == "heal"]
    found = []
    if handing:
        found.append(
            f"encoder and decoder are separate files: in place of tokens that {_listed(handing)} flags, cross attention"
            " reads the states of their neighbors"
        )
    elif encoders:
        found.append(
            f"encoder and decoder are separate files: what {_listed(encoders)} flags is repaired there, but the decoder"
            " is not told of it, and its cross attention still reads those tokens"
        )
    elif any(one.part == "decoder" for one in done):
        found.append(
            "encoder and decoder are separate files, and the encoder is not patched: nothing flags the tokens that it"
            " reads before cross attention does"
        )
    if healed:
        found.append(
            f"in {_listed(healed)} the keys of the answer's own tokens are healed: those of cross attention are made of"
            " the encoder's states"
        )
    return found


def _listed(files: Sequence[str]) -> str:
    return ", ".join(sorted(files))


def _notes(folder: ModelFolder, done: Sequence[FilePatched], more: Sequence[str]) -> tuple[str, ...]:
    own = [f"{one.file}: {note}" if len(done) > 1 else note for one in done for note in one.notes]
    return (*own, *(_not_covered(done) if folder.two_sides else ()), *more)
