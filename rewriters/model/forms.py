"""The forms of a model: a file, an `onnx.ModelProto`, an `onnx_ir.Model`. Inside, everything works on protos.

1. A file is read without its external data, and refused where `model_io.load` refuses it.
2. A proto is used unchanged, and refused where `model_io.check` refuses it, like a file.
3. An `onnx_ir.Model` is serialized; tensors in external files stay references, so their bytes are not read. The result
   is an `onnx_ir.Model` whose main-graph weights are the same tensor objects as in the input. It is checked like the
   others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from . import boundary, io as model_io

__all__ = ["Graph", "Loaded", "Model", "PathLike", "read"]

PathLike = str | os.PathLike[str]

Graph = onnx.ModelProto | ir.Model
"""A model in memory."""

Model = Graph | PathLike


@dataclass(frozen=True)
class Loaded:
    """A model that came in any form.

    Attributes:
        proto: without external data, not to be changed.
        folder: where its external data lies: for a file its own folder, for an `onnx_ir.Model` the folder that its
            tensors name, for a proto (which names none) the working directory, as in onnxruntime.
        source: the model in the form that was given.
    """

    proto: onnx.ModelProto
    folder: Path
    source: Model

    @property
    def exact(self) -> bool:
        """Whether `proto` is what was saved, byte for byte; onnx_ir keeps the graph, not the bytes."""
        return not isinstance(self.source, ir.Model)

    def alike(self, proto: onnx.ModelProto) -> Graph:
        """The edited model in the form in which the model came; for a file a proto."""
        if not isinstance(self.source, ir.Model):
            return proto
        made = boundary.to_ir(proto)
        for graph in made.graphs():
            ir.external_data.set_base_dir(graph, self.folder)
        for name, value in made.graph.initializers.items():
            if name in self.source.graph.initializers:
                value.const_value = self.source.graph.initializers[name].const_value
        return made


def read(model: Model) -> Loaded:
    """A model from any form.

    Raises:
        AtpatchError: ATP001-ATP005 and ATP020 for files that cannot be used, ATP005 and ATP020 for graphs in memory
            that cannot, also where an `onnx_ir.Model` cannot be serialized.
    """
    if isinstance(model, onnx.ModelProto):
        model_io.check(model)
        return Loaded(model, Path(), model)
    if isinstance(model, ir.Model):
        proto = boundary.from_ir(model)
        model_io.check(proto)
        return Loaded(proto, next(_folders(model), Path()), model)
    return Loaded(model_io.load(model), Path(model).parent, model)


def _folders(model: ir.Model) -> Iterator[Path]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield Path(value.const_value.base_dir)
