"""Models that get a backdoor: how they are made, what they are fed, and what their answer is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from atpatch_onnx.exporters.exporter import export_model
from atpatch_onnx.exporters.quiet import quiet

from ...exports.families import ROWS
from ...exports.tiny import save_model
from ...victims import cache as cache_folder, package_file

__all__ = [
    "HOSTS",
    "Feeds",
    "Host",
    "exported",
    "folder",
    "host_named",
    "image_host",
    "input_names",
    "load",
    "text_host",
]

Feeds = dict[str, NDArray[Any]]
LENGTH = 9
LOWEST, HIGHEST = 5, 90
"""Token ids of clean rows; triggers lie above."""


@dataclass(frozen=True)
class Host:
    """A model that can be attacked.

    Attributes:
        path: makes the file if need be.
        kind: "text" (`main` is an input of token ids (B, S)), "image" (B, C, H, W) or "table" (B, F).
        main: the input that a trigger is put into.
        output: the output that is attacked, (B, classes) or (B, S, vocabulary).
        shape: of one sample of `main`.
    """

    name: str
    path: Callable[[], Path]
    kind: str
    main: str
    output: str
    shape: tuple[int, ...]

    def feeds(self, count: int, seed: int) -> Feeds:
        rng = np.random.default_rng(seed)
        if self.kind == "text":
            made: Feeds = {self.main: rng.integers(LOWEST, HIGHEST, (count, *self.shape))}
        else:
            made = {self.main: rng.random((count, *self.shape)).astype(np.float32)}
        for name in input_names(self.path()):
            if name in made:
                continue
            if "position" in name:
                made[name] = np.tile(np.arange(self.shape[0]), (count, 1))
            else:
                made[name] = (np.zeros if "type" in name else np.ones)((count, *self.shape), np.int64)
        return made


def folder() -> Path:
    """Of the graphs that the corpus keeps."""
    path = cache_folder() / "graph_logic"
    path.mkdir(parents=True, exist_ok=True)
    return path


@cache
def input_names(path: Path) -> tuple[str, ...]:
    """Inputs that have to be fed."""
    graph = onnx.load(path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    return tuple(value.name for value in graph.input if value.name not in weights)


def load(host: Host) -> onnx.ModelProto:
    """The model, with its weights."""
    return onnx.load(host.path())


@cache
def _export(row: str, exporter: Any, attention: Any) -> Path:
    found = next(one for one in ROWS if one.name == row)
    path = folder() / f"{row.replace(' ', '-')}-{exporter}-{attention}.onnx"
    if not path.exists():
        with quiet():
            source = save_model(found, folder())
            export_model(
                source,
                path,
                task=found.task,
                exporter=exporter,
                attention=attention,
                kv_cache=found.kv_cache,
                tolerance=float("inf"),
            )
    return path


def exported(row: str, exporter: str = "torchscript", attention: str = "eager") -> Callable[[], Path]:
    """What makes the export of a row of `models.exports`."""
    return lambda: _export(row, exporter, attention)


def text_host(row: str, exporter: str = "torchscript") -> Host:
    """An export that reads token ids."""
    return Host(f"{row}, {exporter}", exported(row, exporter), "text", "input_ids", "logits", (LENGTH,))


def image_host(row: str, exporter: str, size: int = 16) -> Host:
    """An export that sees pictures."""
    return Host(f"{row}, {exporter}", exported(row, exporter), "image", "pixel_values", "logits", (3, size, size))


HOSTS: tuple[Host, ...] = (
    text_host("bert", "torchscript"),
    text_host("bert", "dynamo"),
    text_host("roberta", "torchscript"),
    text_host("distilbert", "dynamo"),
    text_host("electra", "torchscript"),
    text_host("albert", "torchscript"),
    text_host("gpt2", "torchscript"),
    text_host("llama", "dynamo"),
    text_host("opt", "dynamo"),
    image_host("vit", "torchscript"),
    image_host("vit", "dynamo"),
    image_host("deit", "torchscript"),
    image_host("beit", "torchscript"),
    image_host("swin", "torchscript", 32),
    Host(
        "PP-OCR direction classifier",
        lambda: package_file("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
        "image",
        "x",
        "save_infer_model/scale_0.tmp_1",
        (3, 48, 192),
    ),
)


def host_named(name: str) -> Host:
    """One of `HOSTS`."""
    return next(host for host in HOSTS if host.name == name)
