"""The one model file that a command runs, from a file or from the folder of a served model; and its tokenizer."""

from __future__ import annotations

import os
from pathlib import Path

from rewriters.model.forms import PathLike
from rewriters.model.regular_files import is_regular

from ..errors import BAD_OPTION
from .folders import chosen_files, is_folder, read_folder

__all__ = ["TOKENIZERS", "files_in", "model_file", "tokenizer_next_to"]

TOKENIZERS = ("tokenizer.json", "vocab.txt")


def model_file(model: PathLike) -> Path:
    """A file unchanged; of a folder (Optimum, transformers.js, onnxruntime-genai) its one model file.

    Raises:
        AtpatchError: ATP060 where the folder holds several models, and those of `read_folder`.
    """
    if not is_folder(model):
        return Path(model)
    folder = read_folder(model)
    files = [one.file for one in chosen_files(folder, ())] or [one.file for one in folder.files]
    if len(files) > 1:
        raise BAD_OPTION(
            f"one model was expected in {folder.path}, and it holds {len(files)}: {', '.join(files)}",
            f"name one, such as {folder.path / files[0]}",
        )
    return folder.path / files[0]


def tokenizer_next_to(folder: Path) -> Path | None:
    """The folder of the tokenizer of a model in `folder`: this one, or the one above where models lie in `onnx/`."""
    places = [folder, *([folder.parent] if folder.name == "onnx" else [])]
    return next((place for place in places if any(is_regular(place / name) for name in TOKENIZERS)), None)


def files_in(folder: Path) -> str:
    """Names of what a folder holds, for a message."""
    return ", ".join(sorted(os.listdir(folder))[:12]) or "nothing"
