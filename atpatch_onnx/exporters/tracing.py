"""Calls torch's exporters, dynamo and TorchScript, and corrects what their graphs need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import onnx
import torch
from torch import Tensor

from rewriters.model.bodies import walk_bodies
from rewriters.model.io import default_opset

from ..errors import EXPORT_FAILED, SOURCE_UNUSABLE
from .quiet import quiet
from .subject import Feeds, Subject

__all__ = ["EXPORTERS", "OPSETS", "Exporter", "evaluate", "export_graph", "output_axes"]

Exporter = Literal["dynamo", "torchscript"]
EXPORTERS: tuple[Exporter, ...] = ("dynamo", "torchscript")
OPSETS: Mapping[Exporter, int] = {"dynamo": 18, "torchscript": 17}
"""What each exporter writes natively; another opset goes through a converter.

At 23 and above SDPA becomes one Attention operator.
"""

# dynamo records for every node the source lines it came from, with full paths of the exporting machine.
_PRIVATE = "pkg.torch.onnx.stack_trace"
_LONGEST_MESSAGE = 300


def evaluate(subject: Subject, feeds: Feeds) -> tuple[Tensor, ...]:
    """What torch computes.

    Raises:
        AtpatchError: ATP070 where the module does not take inputs of these shapes.
    """
    try:
        with _plain_torch(), torch.no_grad():
            results: tuple[Tensor, ...] = subject.module(*feeds.positional())
    except Exception as error:  # whatever the module raises
        shapes = ", ".join(f"{name} {tuple(array.shape)}" for name, array in feeds.arrays().items())
        raise SOURCE_UNUSABLE(
            f"the module fails on inputs of other sizes, {shapes}: {_message(error)}",
            "name only the axes that may have any size: return (module, example inputs, {input name: {axis: label}})",
        ) from error
    return results


def export_graph(
    subject: Subject, path: Path, exporter: Exporter, opset: int, axes: Mapping[str, Mapping[int, str]], external: bool
) -> onnx.ModelProto:
    """Write the graph to `path`, its weights next to it when `external`, and return it without them.

    Args:
        axes: dynamic axes of the outputs, see `output_axes`.
        path: in a folder of its own; the exporter may leave other files there.

    Raises:
        AtpatchError: ATP072 with torch's own message.
    """
    example = subject.feeds(subject.traced)
    try:
        with _plain_torch(), quiet():
            if exporter == "dynamo":
                _dynamo(subject, example, path, opset, external)
            else:
                _torchscript(subject, example, path, opset, axes)
    except Exception as error:  # whatever the traced code, the decompositions and the converters raise
        raise EXPORT_FAILED(f"{exporter}: {_message(error)}") from error
    if external and exporter == "torchscript":
        # It writes one file for each weight, or none below 2 GiB; here they become one file.
        onnx.save_model(
            onnx.load_model(path), path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024
        )
        # onnx makes that file readable only for its owner.
        path.with_name(f"{path.name}.data").chmod(path.stat().st_mode & 0o777)
    model = onnx.load_model(path, load_external_data=False)
    if (written := default_opset(model)) != opset:
        # dynamo leaves a graph that it cannot convert unchanged, and says so only in its log.
        raise EXPORT_FAILED(
            f"{exporter} wrote opset {written}, not {opset}", "leave --opset out, or use the other --exporter"
        )
    _remove_paths(model)
    return model


def _dynamo(subject: Subject, example: Feeds, path: Path, opset: int, external: bool) -> None:
    shapes = tuple(dict(subject.axes[name]) or None for name in example.tensors)
    torch.onnx.export(
        subject.module,
        example.positional(),
        path,
        dynamo=True,
        input_names=list(example.tensors),
        output_names=list(subject.outputs),
        # The module takes *tensors, so that torch sees one argument that is a tuple.
        dynamic_shapes=(shapes,),
        opset_version=opset,
        external_data=external,
        verbose=False,
    )


def _torchscript(
    subject: Subject, example: Feeds, path: Path, opset: int, axes: Mapping[str, Mapping[int, str]]
) -> None:
    torch.onnx.export(
        subject.module,
        example.positional(),
        path,
        dynamo=False,
        input_names=list(example.tensors),
        output_names=list(subject.outputs),
        dynamic_axes={name: dict(labels) for name, labels in {**subject.axes, **axes}.items()},
        opset_version=opset,
    )


def output_axes(subject: Subject) -> dict[str, dict[int, str]]:
    """Dynamic axes of the outputs: those whose length changes with the inputs', under the label that changes the same
    way.
    """
    runs = [(probe.sizes, evaluate(subject, subject.feeds(probe))) for probe in (subject.traced, *subject.probes)]
    axes: dict[str, dict[int, str]] = {}
    for index, name in enumerate(subject.outputs):
        shapes = [results[index].shape for _, results in runs]
        axes[name] = {}
        for axis in range(len(shapes[0])):
            lengths = [shape[axis] for shape in shapes]
            if len(set(lengths)) > 1:
                labels = [label for label in subject.traced.sizes if [sizes[label] for sizes, _ in runs] == lengths]
                axes[name][axis] = labels[0] if labels else f"{name}_{axis}"
    return axes


def _remove_paths(model: onnx.ModelProto) -> None:
    for _, body in walk_bodies(model):
        for node in body.node:
            kept = [entry for entry in node.metadata_props if entry.key != _PRIVATE]
            if len(kept) < len(node.metadata_props):
                del node.metadata_props[:]
                node.metadata_props.extend(kept)


@contextlib.contextmanager
def _plain_torch() -> Iterator[None]:
    """Without the fused kernel of `nn.TransformerEncoderLayer` and `nn.MultiheadAttention`, which has no ONNX form."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _message(error: BaseException) -> str:
    """The innermost cause in one line; torch adds a page of advice around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    return f"{type(error).__name__}: {text[:_LONGEST_MESSAGE]}" + ("…" if len(text) > _LONGEST_MESSAGE else "")
