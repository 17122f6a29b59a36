"""`export` into a folder that Optimum and transformers.js load: the graphs under the names that they look for, and the
configuration and tokenizer of the source.

1. A causal language model gives `model.onnx`, always with its cache.
2. An encoder-decoder gives `encoder_model.onnx`, `decoder_model.onnx` and `decoder_with_past_model.onnx`.
3. Every other model gives `model.onnx`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewriters.model.external_data import bring_file
from rewriters.model.folders import members

from ..errors import BAD_OPTION, SOURCE_UNUSABLE
from ..inspection.folders import is_folder
from .options import ExportOptions

if TYPE_CHECKING:
    from .subject import Subject

__all__ = ["companions", "copy_companions", "draft_folder", "exported_graphs", "is_folder_path"]

_COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "source.spm",
    "target.spm",
    "sentencepiece.bpe.model",
    "normalizer.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
)
"""What loaders read next to the graphs: configuration, tokenizer, processor."""


def is_folder_path(output: str) -> bool:
    """Whether an output is meant as a folder: it ends with a slash."""
    return output.endswith(("/", os.sep))


def exported_graphs(source: str, options: ExportOptions) -> Iterator[tuple[str, Subject, str]]:
    """File name, subject and task of each graph.

    Raises:
        AtpatchError: ATP060 and ATP070-ATP072, as `export`.
    """
    from .transformers_models import load_encoder_decoder, load_subject

    attention = options.attention or "eager"
    if options.task in ("seq2seq-encoder", "seq2seq-decoder"):
        raise BAD_OPTION("a folder takes all graphs of an encoder-decoder", "leave --task out, or give OUTPUT.onnx")
    if options.task is None and (parts := load_encoder_decoder(source, attention, options.dtype)) is not None:
        yield from parts
        return
    subject, task = load_subject(source, options.task, attention, options.dtype, options.kv_cache, always_cache=True)
    yield "model.onnx", subject, task


def companions(source: str) -> dict[str, Path]:
    """Name → file, of what comes along from a folder or from the hub.

    Raises:
        AtpatchError: ATP021 and ATP027 for what is in a folder, ATP070 where there is none.
    """
    if is_folder(source):
        return {one.path: one.origin for one in members(Path(source)) if one.path in _COMPANIONS and one.origin}
    from transformers.utils.hub import cached_file

    missing: dict[str, Any] = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    try:
        found = {name: cached_file(source, name, **missing) for name in _COMPANIONS}
    except OSError as error:  # no name that the hub could have
        raise SOURCE_UNUSABLE(
            f"{source!r} is not a folder, and no name of a model on the hub", "give the folder of the model"
        ) from error
    return {name: Path(path).resolve() for name, path in found.items() if path is not None}


def copy_companions(files: dict[str, Path], destination: Path) -> None:
    """Copy them; an edit of one must not change the source."""
    for name, path in files.items():
        bring_file(path, destination / name, link=False)


def draft_folder(unfinished: Path) -> Path:
    """An empty folder for one graph, since an exporter may leave other files next to it."""
    path = unfinished / ".draft"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path
