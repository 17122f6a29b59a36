"""A copy of a model without weights but with inferred shapes: small enough to analyze even if the weights are large.

1. Tensors keep name, type and dims; only small payloads (shapes, indices, scalars) keep their values.
2. Tensors in external files are never read.
3. Shape inference runs over the main graph and, with the types of the first call, over each local function.
4. Where inference fails, the copy keeps the shapes that the model declares.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator

import onnx
from onnx import AttributeProto, TensorProto

from ..errors import ModelError
from ..model.boundary import infer_shapes

__all__ = ["hollow", "named_only", "of_fixed_size", "skeleton"]

logger = logging.getLogger(__name__)

# Shape operands and index lists are short integer tensors; scalars and small vectors of any type hold scales and fill
# values.
_MAX_INTEGERS = 1024
_MAX_OTHERS = 64

_FunctionKey = tuple[str, str, str]
_Types = dict[str, onnx.TypeProto]


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The copy described above; nodes and functions keep their order, so indices are the same as in `model`."""
    inferred = _infer(hollow(model))
    if inferred.functions:
        _type_functions(inferred)
    return inferred


def hollow(model: onnx.ModelProto) -> onnx.ModelProto:
    """The copy without the inference: shapes are those that the model declares."""
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    _copy_graph(model.graph, light.graph)
    for function in model.functions:
        _copy_function(function, light.functions.add())
    return light


def _copy_graph(source: onnx.GraphProto, target: onnx.GraphProto) -> None:
    target.name = source.name or "graph"  # a graph may be parsed without a name, but shape inference needs one
    target.input.extend(source.input)
    target.output.extend(source.output)
    target.value_info.extend(source.value_info)
    for tensor in source.initializer:
        _copy_tensor(tensor, target.initializer.add())
    for sparse in source.sparse_initializer:
        dense = target.initializer.add(name=sparse.values.name, data_type=sparse.values.data_type, dims=sparse.dims)
        _mark_absent(dense)
    for node in source.node:
        _copy_node(node, target.node.add())


def _copy_function(source: onnx.FunctionProto, target: onnx.FunctionProto) -> None:
    for descriptor, value in source.ListFields():
        if descriptor.name != "node":
            if descriptor.is_repeated:
                getattr(target, descriptor.name).extend(value)
            else:
                setattr(target, descriptor.name, value)
    for node in source.node:
        _copy_node(node, target.node.add())


def _copy_node(source: onnx.NodeProto, target: onnx.NodeProto) -> None:
    heavy = [
        a for a in source.attribute if a.type in (AttributeProto.TENSOR, AttributeProto.GRAPH, AttributeProto.GRAPHS)
    ]
    if not heavy:
        target.CopyFrom(source)
        return
    target.op_type, target.domain, target.name, target.overload = (
        source.op_type,
        source.domain,
        source.name,
        source.overload,
    )
    target.input.extend(source.input)
    target.output.extend(source.output)
    target.metadata_props.extend(source.metadata_props)
    for attribute in source.attribute:
        twin = target.attribute.add()
        if attribute.type == AttributeProto.TENSOR and attribute.HasField("t"):
            twin.name, twin.type = attribute.name, attribute.type
            _copy_tensor(attribute.t, twin.t)
        elif attribute.type == AttributeProto.GRAPH and attribute.HasField("g"):
            twin.name, twin.type = attribute.name, attribute.type
            _copy_graph(attribute.g, twin.g)
        else:
            twin.CopyFrom(attribute)


def _copy_tensor(source: TensorProto, target: TensorProto) -> None:
    limit = _MAX_INTEGERS if source.data_type in (TensorProto.INT64, TensorProto.INT32) else _MAX_OTHERS
    if source.data_location != TensorProto.EXTERNAL and math.prod(source.dims) <= limit:
        target.CopyFrom(source)
        return
    target.name, target.data_type = source.name, source.data_type
    target.dims.extend(source.dims)
    _mark_absent(target)


def named_only(tensor: TensorProto) -> TensorProto:
    """A copy by rule 1."""
    light = TensorProto()
    _copy_tensor(tensor, light)
    return light


def _mark_absent(tensor: TensorProto) -> None:
    """Declare the values external, so that a tensor without values is still well-formed."""
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="absent")


def _infer(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return infer_shapes(model, data_prop=True)
    except ModelError as error:  # declared shapes are enough to go on
        logger.debug("shape inference gave up: %s", error)
        return model


def _type_functions(model: onnx.ModelProto) -> None:
    """Write inferred value_info into the functions of `model`, outer functions first, each by its first typed call."""
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    done: set[_FunctionKey] = set()
    pending: list[tuple[Iterable[onnx.NodeProto], _Types]] = [(model.graph.node, _types(model.graph))]
    while pending:
        nodes, types = pending.pop()
        for node in _nested(nodes):
            key = (node.domain, node.op_type, node.overload)
            if key not in functions or key in done:
                continue
            done.add(key)
            graph = _body_of_call(functions[key], node, types)
            inferred = _infer(_standalone(model, functions[key], graph, functions)).graph
            known = {info.name for info in functions[key].value_info}
            functions[key].value_info.extend(i for i in (*inferred.input, *inferred.value_info) if i.name not in known)
            pending.append((functions[key].node, _types(inferred)))


def _nested(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _nested(attribute.g.node)


def _types(graph: onnx.GraphProto) -> _Types:
    types = {info.name: info.type for info in (*graph.input, *graph.value_info, *graph.output)}
    for tensor in graph.initializer:
        types.setdefault(tensor.name, onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                types.update(_types(attribute.g))
    return types


def _body_of_call(function: onnx.FunctionProto, call: onnx.NodeProto, types: _Types) -> onnx.GraphProto:
    """The function's body as a graph, its attribute references filled in from the call."""
    values = {a.name: a for a in function.attribute_proto} | {a.name: a for a in call.attribute}
    graph = onnx.GraphProto(name=function.name)
    for name, argument in zip(function.input, call.input, strict=False):
        info = graph.input.add(name=name)
        if argument in types:
            info.type.CopyFrom(types[argument])
    for name in function.output:
        graph.output.add(name=name)
    graph.value_info.extend(function.value_info)
    for node in function.node:
        twin = graph.node.add()
        twin.CopyFrom(node)
        del twin.attribute[:]
        for attribute in node.attribute:
            actual = values.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
            if actual is not None:
                twin.attribute.add().CopyFrom(actual)
                twin.attribute[-1].name = attribute.name
    return graph


def _standalone(
    model: onnx.ModelProto,
    function: onnx.FunctionProto,
    graph: onnx.GraphProto,
    functions: dict[_FunctionKey, onnx.FunctionProto],
) -> onnx.ModelProto:
    """A model of one function body with only the functions that it calls, so that nesting stays cheap."""
    standalone = onnx.ModelProto(ir_version=model.ir_version, graph=graph)
    standalone.opset_import.extend(function.opset_import)
    called: set[_FunctionKey] = set()
    pending = [function]
    while pending:
        for node in _nested(pending.pop().node):
            key = (node.domain, node.op_type, node.overload)
            if key in functions and key not in called:
                called.add(key)
                standalone.functions.append(functions[key])
                pending.append(functions[key])
    return standalone


def of_fixed_size(model: onnx.ModelProto, samples: int, length: int) -> onnx.ModelProto:
    """A copy in which every free axis of an input gets a size: `samples` for the first axis, else `length`."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.value_info[:]  # they belong to other sizes
    weights = {tensor.name for tensor in probe.graph.initializer}
    for value in probe.graph.input:
        if value.name not in weights:
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                if not dim.HasField("dim_value"):
                    dim.dim_value = samples if axis == 0 else length
    for value in probe.graph.output:
        value.type.tensor_type.ClearField("shape")
    return probe
