"""Checks what our own code relies on in a model and the onnx checker does not check.

1. Every name and every other string is text: protobuf returns bytes where a file has no valid UTF-8.
2. A tensor is of a known type, no dimension is negative, and the data inside the model have the size that type and
   shape need.
3. A value is made once in its body, and is not an input or a node's output under an initializer's name unless it is
   that input.
4. Numbers on which shape inference crashes or hangs are small: `batch_dims` of GatherND, `num_outputs` of Split.
5. Local functions have different names and do not call each other in a cycle. With all calls inlined the model has at
   most `MOST_NODES` nodes, since shape inference inlines them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

import onnx
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from onnx import TensorProto

from ..errors import INVALID_MODEL, NOT_ONNX
from .bodies import Body, walk_bodies
from .tensors import elements_of, payload_bits, walk_tensors

__all__ = ["MOST_NODES", "check_well_formed"]

_MOST_PARTS = 1 << 16
MOST_NODES = 2_000_000
"""Today's models have about ten thousand."""

_Function = tuple[str, str, str]

_TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
_COMPLEX = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)


def check_well_formed(model: onnx.ModelProto) -> None:
    """Raises: AtpatchError ATP001 for rule 1, ATP005 for the others."""
    if _has_bytes(model):
        raise NOT_ONNX("a name in the model is not UTF-8 text")
    for tensor in walk_tensors(model):
        _check_tensor(tensor)
    for _, body in walk_bodies(model):
        _check_values(body)
        _check_numbers(body)
    _check_functions(model)


def _check_tensor(tensor: TensorProto) -> None:
    count = elements_of(tensor)
    if tensor.data_location == TensorProto.EXTERNAL:
        return
    bits = payload_bits(tensor.data_type)
    if bits is None:
        there, needed = len(tensor.string_data), count
    elif tensor.HasField("raw_data"):
        there, needed = len(tensor.raw_data), -(-count * bits // 8)
    else:
        there = max(len(getattr(tensor, name)) for name in _TYPED_FIELDS)
        needed = -(-count * bits // 8) if bits < 8 else count * (2 if tensor.data_type in _COMPLEX else 1)
    if there != needed:
        raise INVALID_MODEL(
            f"tensor {tensor.name!r} holds {there} {'bytes' if tensor.raw_data else 'elements'}, its shape needs"
            f" {needed}"
        )


def _check_numbers(body: Body) -> None:
    """Limits for numbers that onnx's shape inference does not check: it would crash, or count for hours."""
    for node in body.node:
        for name, op_type, least, most in (("batch_dims", "GatherND", 0, 64), ("num_outputs", "Split", 0, _MOST_PARTS)):
            found = (
                next((entry.i for entry in node.attribute if entry.name == name), 0) if node.op_type == op_type else 0
            )
            if not least <= found <= most:
                raise INVALID_MODEL(f"{name} of {op_type} node {node.name!r} is {found}, not {least} to {most}")


def _check_values(body: Body) -> None:
    made = [name for node in body.node for name in node.output if name]
    if isinstance(body, onnx.GraphProto):
        made += [value.name for value in body.input]
        initializers = [tensor.name for tensor in body.initializer] + [
            sparse.values.name for sparse in body.sparse_initializer
        ]
        twice = _twice(initializers) or _twice([*made, *(set(initializers) - {value.name for value in body.input})])
    else:
        twice = _twice([*made, *body.input])
    if twice:
        raise INVALID_MODEL(f"value {twice!r} is made twice, so it is not clear which is meant")


def _twice(names: list[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _check_functions(model: onnx.ModelProto) -> None:
    functions: dict[_Function, onnx.FunctionProto] = {}
    for function in model.functions:
        key = (function.domain, function.name, function.overload)
        if key in functions:
            raise INVALID_MODEL(f"two local functions are called {function.name!r}")
        functions[key] = function
    sizes: dict[_Function, int] = {}
    for key in functions:
        _measure(key, functions, sizes)
    if sum(sizes.get(_key(node), 0) + 1 for node in _nodes(model.graph.node)) > MOST_NODES:
        raise INVALID_MODEL(f"with all function calls inlined the model has more than {MOST_NODES} nodes")


def _measure(start: _Function, functions: dict[_Function, onnx.FunctionProto], sizes: dict[_Function, int]) -> None:
    """Put the number of nodes of a function, and of all it calls, with calls inlined, into `sizes`."""
    open_calls = [start]
    path: list[_Function] = []
    while open_calls:
        key = open_calls[-1]
        if key in sizes:
            open_calls.pop()
            continue
        called = [_key(node) for node in _nodes(functions[key].node)]
        waiting = {inner for inner in called if inner in functions and inner not in sizes}
        if not waiting:
            sizes[key] = sum(sizes.get(inner, 0) + 1 for inner in called)
            open_calls.pop()
            if path and path[-1] == key:
                path.pop()
            continue
        path.append(key)
        if waiting & set(path):
            raise INVALID_MODEL(f"the local function {key[1]!r} calls itself, directly or through others")
        open_calls.extend(waiting)


def _key(node: onnx.NodeProto) -> _Function:
    return node.domain, node.op_type, node.overload


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g.node)


@cache
def _fields(descriptor: Descriptor) -> tuple[tuple[str, bool, bool], ...]:
    """Fields that hold text or messages: name, whether it holds messages, whether it is repeated."""
    return tuple(
        (field.name, field.message_type is not None, field.is_repeated)
        for field in descriptor.fields
        if field.message_type is not None or field.type == FieldDescriptor.TYPE_STRING
    )


def _has_bytes(message: Message) -> bool:
    for name, messages, repeated in _fields(message.DESCRIPTOR):
        if repeated:
            items = getattr(message, name)
        elif message.HasField(name):
            items = (getattr(message, name),)
        else:
            continue
        for item in items:
            if _has_bytes(item) if messages else isinstance(item, bytes):
                return True
    return False
