"""Folders that programs load models from: which files in them are models, and what each is for.

1. With `genai_config.json` it is a folder of onnxruntime-genai: every part of the model that names a file is one. The
   decoder, the stages of its pipeline and an encoder are patched by default. Parts that embed tokens or look at images
   are not.
2. Else, with `config.json`, it is one of Hugging Face, for Optimum or transformers.js: the names below, in the folder
   or in `onnx/`, with or without a suffix such as `_quantized`. All of these are patched by default, since a program
   may choose any of them.
3. All other `.onnx` files of the folder are listed too, with the reason why they are not patched by default.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from rewriters.model.folders import Member, members
from rewriters.model.forms import PathLike
from rewriters.model.regular_files import is_regular
from rewriters.sites import Inspection

from ..errors import BAD_OPTION, CONFIG_MISFIT, NO_MODEL_FOLDER
from .inspector import inspect

__all__ = ["FolderKind", "ModelFile", "ModelFolder", "chosen_files", "inspect_folder", "is_folder", "read_folder"]

FolderKind = Literal["genai", "hugging-face"]

_GENAI, _HUGGING_FACE = "genai_config.json", "config.json"
_PATCHED_PARTS = ("decoder", "encoder")
_NAMES = {
    "model": "model",
    "decoder_model_merged": "decoder",
    "decoder_model": "decoder",
    "decoder_with_past_model": "decoder",
    "encoder_model": "encoder",
    "text_model": "text",
    "vision_model": "vision",
}
_NAME = re.compile(rf"(?:onnx/)?({'|'.join(_NAMES)})(?:_[A-Za-z0-9]+)?\.onnx")


@dataclass(frozen=True)
class ModelFile:
    """A model file in a folder.

    Attributes:
        file: path inside the folder, with slashes, links followed.
        part: what it is for, such as "decoder"; "" where the configuration does not say.
        why_not: why it is not patched by default; "" where it is.
    """

    file: str
    part: str
    why_not: str = ""


@dataclass(frozen=True)
class ModelFolder:
    """A folder of models.

    Attributes:
        path: the folder as it was given.
        kind: "genai" or "hugging-face".
        files: its model files; first those that are patched by default.
        everything: all that is in the folder.
    """

    path: Path
    kind: FolderKind
    files: tuple[ModelFile, ...]
    everything: tuple[Member, ...]

    @property
    def two_sides(self) -> bool:
        """Whether encoder and decoder are files of their own."""
        return {"encoder", "decoder"} <= {one.part for one in self.files if not one.why_not}


def is_folder(model: object) -> bool:
    """Whether a model is given as a folder."""
    # Path.is_dir raises for names that no file can have.
    return isinstance(model, (str, os.PathLike)) and os.path.isdir(model)


def read_folder(path: PathLike) -> ModelFolder:
    """What a folder holds. No model file is read.

    Raises:
        AtpatchError: ATP002, ATP021 and ATP027 (what is in the folder), ATP092 (no configuration, or no model that
            goes with it), ATP093 (a configuration that cannot be read, or names a missing file).
    """
    path = Path(path)
    config = next((name for name in (_GENAI, _HUGGING_FACE) if is_regular(path / name)), None)
    if config is None and path.is_dir():  # before all of it is looked through
        raise NO_MODEL_FOLDER(f"{path} has neither {_GENAI} nor {_HUGGING_FACE}")
    everything = members(path)
    root = path.resolve()
    if config == _GENAI:
        kind: FolderKind = "genai"
        served = tuple(_genai_files(root, _read_json(path / _GENAI)))
    else:
        kind = "hugging-face"
        _read_json(path / _HUGGING_FACE)
        served = tuple(_hugging_face_files(root, everything))
    if not served:
        raise NO_MODEL_FOLDER(f"{path} has a configuration, but no model file that goes with it")
    known = {one.file for one in served}
    others = (part.path for part in everything if part.origin is not None and part.path.endswith(".onnx"))
    why = f"{_GENAI} does not name it" if kind == "genai" else "no loader takes it by its name"
    listed = (*served, *(ModelFile(name, "", why) for name in others if name not in known))
    return ModelFolder(path, kind, tuple(sorted(listed, key=lambda one: bool(one.why_not))), everything)


def chosen_files(folder: ModelFolder, names: Sequence[str]) -> tuple[ModelFile, ...]:
    """The model files of these names or paths; without names, those that are patched by default.

    Raises:
        AtpatchError: ATP060 where there is no such file.
    """
    for name in names:
        if not any(_is_called(one, name) for one in folder.files):
            raise BAD_OPTION(
                f"{folder.path} has no model file {name!r}",
                f"its files are {', '.join(one.file for one in folder.files)}",
            )
    if names:
        return tuple(one for one in folder.files if any(_is_called(one, name) for name in names))
    return tuple(one for one in folder.files if not one.why_not)


def inspect_folder(
    path: PathLike, include: str | None = None, exclude: str | None = None
) -> tuple[ModelFolder, tuple[Inspection, ...]]:
    """The folder, and what `inspect` finds in each file that is patched by default.

    Raises:
        AtpatchError: those of `read_folder` and `inspect`.
    """
    folder = read_folder(path)
    return folder, tuple(inspect(folder.path / one.file, include, exclude) for one in chosen_files(folder, ()))


def _is_called(one: ModelFile, name: str) -> bool:
    return PurePosixPath(name).as_posix() in (one.file, PurePosixPath(one.file).name)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CONFIG_MISFIT(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise CONFIG_MISFIT(f"{path} is no JSON object")
    return found


def _genai_files(root: Path, config: dict[str, Any]) -> Iterator[ModelFile]:
    """Each file once, under the first part that names it."""
    parts = config.get("model")
    seen: set[str] = set()
    for part, body in parts.items() if isinstance(parts, dict) else ():
        for stage, name in _filenames(body):
            file = _inside(root, name, part)
            if file not in seen:
                seen.add(file)
                why_not = (
                    "" if part in _PATCHED_PARTS else f"it is the part {part!r}; by default decoder and encoder are"
                )
                yield ModelFile(file, f"{part} {stage}".strip(), why_not)
    if not seen:
        raise CONFIG_MISFIT(f"{root / _GENAI} names no model file")


def _filenames(body: Any) -> Iterator[tuple[str, str]]:
    """Stages and file names of a part. A pipeline is a list of objects, each with stages by name."""
    if not isinstance(body, dict):
        return
    if isinstance(name := body.get("filename"), str) and name:
        yield "", name
    stages = body.get("pipeline")
    for group in stages if isinstance(stages, list) else ():
        for stage, inner in group.items() if isinstance(group, dict) else ():
            for _, name in _filenames(inner):
                yield str(stage), name


def _inside(root: Path, name: str, part: str) -> str:
    """Path inside the folder, links followed."""
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or ".." in PurePosixPath(name).parts:
        raise CONFIG_MISFIT(f"{root / _GENAI}: the file {name!r} of the {part} lies outside of the folder")
    path = root / name
    if not is_regular(path):
        raise CONFIG_MISFIT(f"{root / _GENAI}: the file {name!r} of the {part} is not there")
    target = path.resolve()
    # A link out of the folder was refused, unless it leads into the Hugging Face cache; there it stands for its file.
    return (target if target.is_relative_to(root) else path).relative_to(root).as_posix()


def _hugging_face_files(root: Path, everything: Sequence[Member]) -> Iterator[ModelFile]:
    seen: set[str] = set()
    for one in everything:
        found = _NAME.fullmatch(one.path)
        if found and is_regular(root / one.path):
            path = (root / one.path).resolve() if one.link else root / one.path
            file = path.relative_to(root).as_posix()
            if file not in seen:
                seen.add(file)
                yield ModelFile(file, _NAMES[found[1]])
