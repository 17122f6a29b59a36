"""The most that a request may hold, given the model's inputs and outputs; checked on its bytes before parsing.

A few bytes can make many objects: `{},` in JSON, or an empty field of two bytes in protobuf. So objects are
counted, not bytes. Wire format of protobuf: each field is a key (number and kind) and its content; only the top
level of a message is read, and only up to the limit. Messages are those of `grpc_messages`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from .limits import Limits, Refusal
from .tensors import NUMPY_TYPES, TensorSpec

__all__ = ["largest_body", "largest_message", "most_elements", "require_few_values", "require_small_message"]

_SPARE = 4096
"""Most values other than those of the tensors: ids, parameters, shapes."""
_SPARE_BYTES = 2**20
_MOST_PARAMETERS = 64
_MOST_OTHERS = 64
_MOST_TEXT = 2**16
"""Most bytes of a name, an id or a parameter."""
_WIDEST = 10
"""Most bytes of a number in protobuf."""
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""A JSON string, or one cut off at the end of the text, so that it matches at every quote and none is read twice."""
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5

_REQUEST_PARAMETERS, _INPUTS, _OUTPUTS, _RAW = 4, 5, 6, 7
_TENSOR_PARAMETERS, _CONTENTS = 4, 5
_FIXED = {6: 4, 7: 8}
"""Of the fields of InferTensorContents: fp32 and fp64, bytes of a number; field 8 holds strings, the others varints."""
_STRINGS = 8


def most_elements(inputs: Sequence[TensorSpec], limits: Limits) -> int:
    """Most elements that all inputs of a request can have together."""
    return sum(
        math.prod(
            dim if dim != -1 else limits.batch if axis == 0 else limits.sequence for axis, dim in enumerate(spec.shape)
        )
        for spec in inputs
    )


def require_few_values(text: bytes, inputs: Sequence[TensorSpec], limits: Limits) -> None:
    """Raises: Refusal 413 where JSON holds more values than the inputs can have."""
    most = most_elements(inputs, limits) + _SPARE
    if text.count(b",") > most and _STRING.sub(b"", text).count(b",") > most:
        raise Refusal(413, f"the JSON holds more than {most} values, and the inputs cannot have as many")


def largest_body(inputs: Sequence[TensorSpec], limits: Limits) -> int:
    """Most bytes of an HTTP body: its JSON, and the raw tensors after it."""
    return min(
        limits.body,
        limits.json + sum(_most_bytes(spec, NUMPY_TYPES[spec.datatype].itemsize, limits) for spec in inputs),
    )


def largest_message(inputs: Sequence[TensorSpec], limits: Limits) -> int:
    """Most bytes of a gRPC message."""
    return min(limits.body, sum(_most_bytes(spec, _WIDEST, limits) for spec in inputs)) + _SPARE_BYTES


def _most_bytes(spec: TensorSpec, width: int, limits: Limits) -> int:
    return limits.json if spec.datatype == "BYTES" else width * most_elements([spec], limits)


def require_small_message(
    data: bytes, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], limits: Limits
) -> None:
    """Check a ModelInferRequest on the wire.

    Raises:
        Refusal: 400 where it has more fields than a request for this model can, or is no protobuf; 413 where they are
            too long.
    """
    allowed = {_REQUEST_PARAMETERS: _MOST_PARAMETERS, _INPUTS: len(inputs), _OUTPUTS: len(outputs), _RAW: len(inputs)}
    most = most_elements(inputs, limits)
    for number, content in _fields(memoryview(data), allowed):
        if number == _INPUTS:
            _require_small_tensor(content, most, limits)
        elif number == _OUTPUTS:
            for _, part in _fields(content, {2: _MOST_PARAMETERS}):
                _require_short(part)
        elif number != _RAW:
            _require_short(content)


def _require_small_tensor(tensor: memoryview, most: int, limits: Limits) -> None:
    for number, content in _fields(tensor, {_TENSOR_PARAMETERS: _MOST_PARAMETERS, _CONTENTS: 1}):
        if number != _CONTENTS:
            _require_short(content)
            continue
        if len(content) > limits.json:
            raise Refusal(
                413, f"typed contents have {len(content)} bytes, {limits.json} are allowed; send large tensors raw"
            )
        elements = 0
        for kind, part in _fields(content, {}, most + _MOST_OTHERS):
            elements += _elements(kind, part)
            if elements > most:
                raise Refusal(413, f"an input holds more than {most} elements, and the model's cannot have as many")


def _elements(number: int, content: memoryview) -> int:
    """Elements in one field of InferTensorContents: one, or as many as are packed in it."""
    if number == _STRINGS or not len(content):
        return 1
    if number in _FIXED:
        return len(content) // _FIXED[number]
    return int(np.count_nonzero(np.frombuffer(content, np.uint8) < 0x80))


def _require_short(content: memoryview) -> None:
    if len(content) > _MOST_TEXT:
        raise Refusal(413, f"a name or parameter has {len(content)} bytes, {_MOST_TEXT} are allowed")


def _fields(data: memoryview, allowed: dict[int, int], others: int = _MOST_OTHERS) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field; the content of a plain number is empty.

    Args:
        allowed: number of a field → how often it may occur.
        others: how often all other fields together may occur.
    """
    seen: Counter[int] = Counter()
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        counted = number if number in allowed else 0
        seen[counted] += 1
        if seen[counted] > allowed.get(counted, others):
            raise Refusal(400, f"the message repeats field {number} more often than a request for this model can")
        size, start = 0, position
        if kind == _VARINT:
            _, start = _varint(data, position)
        elif kind == _LENGTH:
            size, start = _varint(data, position)
        elif kind in (_FOUR, _EIGHT):
            start += 4 if kind == _FOUR else 8
        else:
            raise Refusal(400, "the message is no protobuf")
        position = start + size
        if position > len(data):
            raise Refusal(400, "the message is cut off")
        yield number, data[start:position]


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * _WIDEST, 7):
        if position == len(data):
            raise Refusal(400, "the message is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise Refusal(400, "the message is no protobuf")
