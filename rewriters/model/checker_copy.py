"""A copy of a model for the onnx checker, which changes what the checker refuses although onnxruntime runs it.

The copy is checked and thrown away. The original of each change is known to run in onnxruntime 1.32:

1. External tensors are empty ones: the checker would look for the files in the working directory, and refuses hard
   links that onnxruntime reads. `external_data.check_external` looks at them.
2. Operators that onnxruntime keeps in the default domain, and that onnx does not know there or calls deprecated, are in
   a domain of their own, like custom operators. onnxruntime's optimizer and onnxruntime-genai write them. (Registering
   schemas for them would change what the checker says to everyone else in the process.)
3. "ai.onnx" is written "", and every other domain that a node outside functions uses is imported.
4. Inputs and outputs of the main graph have a shape, its outputs a type, the graph has a name.
5. A model below IR version 4 is one of version 4, where an initializer need not be an input.

The checker judges everything else.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import TensorProto

from .bodies import walk_bodies
from .external_data import walk_tensors

__all__ = ["RUNTIME_OPERATORS", "stand_in"]

RUNTIME_OPERATORS = frozenset(
    [
        *(
            "Affine",
            "Crop",
            "DisentangledAttention_TRT",
            "DynamicSlice",
            "EfficientNMS_TRT",
            "GRUUnit",
            "GivenTensorFill",
        ),
        *(
            "GroupNormalization",
            "ImageScaler",
            "LayerNormalization",
            "MeanVarianceNormalization",
            "MemcpyFromHost",
            "MemcpyToHost",
        ),
        *("MultilevelCropAndResize_TRT", "ParametricSoftplus", "PyramidROIAlign_TRT", "Scale", "ScaledTanh"),
        *("SimplifiedLayerNormalization", "ThresholdedRelu"),
    ]
)
"""Operators that onnxruntime 1.32's schemas have in the default domain at versions where onnx has none."""

_OWN_DOMAIN = "onnxruntime.default"
_OPTIONAL_INPUTS = 4  # the first IR version in which an initializer need not be an input


def stand_in(model: onnx.ModelProto) -> onnx.ModelProto:
    """The copy described above; the argument stays unchanged."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in walk_tensors(copy):
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            del tensor.dims[:]
            tensor.dims.append(0)
    functions: dict[int, list[onnx.NodeProto]] = {}
    main: list[onnx.NodeProto] = []
    for where, body in walk_bodies(copy):
        inside_function = bool(where) and where[0][1] == "function"
        (functions.setdefault(where[0][0], []) if inside_function else main).extend(body.node)
    versions = _give_domains(copy, main, [])
    for index, nodes in functions.items():
        _give_domains(copy.functions[index], nodes, versions)
    _import_all(copy, main)
    copy.graph.name = copy.graph.name or "graph"
    for value in copy.graph.output:
        if not value.HasField("type"):
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for value in (*copy.graph.input, *copy.graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    if copy.ir_version == _OPTIONAL_INPUTS - 1:
        copy.ir_version = _OPTIONAL_INPUTS
    return copy


def _give_domains(
    owner: onnx.ModelProto | onnx.FunctionProto, nodes: Iterable[onnx.NodeProto], outer: list[int]
) -> list[int]:
    """Rule 2, and "" for "ai.onnx"; gives the versions of the default domain that hold in `owner`, after those of the
    model (`outer`).
    """
    for named in (*owner.opset_import, *nodes):
        named.domain = "" if named.domain == "ai.onnx" else named.domain
    versions = [*outer, *(entry.version for entry in owner.opset_import if entry.domain == "")]
    moved = [
        node
        for node in nodes
        if node.domain == "" and node.op_type in RUNTIME_OPERATORS and not _onnx_has(node.op_type, versions)
    ]
    for node in moved:
        node.domain = _OWN_DOMAIN
    if moved:
        owner.opset_import.add(domain=_OWN_DOMAIN, version=1)
    return versions


def _import_all(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Add missing imports: onnxruntime imports what the main graph uses by itself, but a function must import it."""
    imported = {entry.domain for entry in model.opset_import}
    for domain in sorted({node.domain for node in nodes} - imported - {""}):
        model.opset_import.add(domain=domain, version=1)


def _onnx_has(op_type: str, versions: Iterable[int]) -> bool:
    return all(
        onnx.defs.has(op_type, version) and not onnx.defs.get_schema(op_type, version).deprecated
        for version in versions
    )
