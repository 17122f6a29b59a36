"""A tensor's data in a request or an answer: JSON or raw bytes ⇄ arrays. A BYTES tensor is raw as a 4-byte length and
its bytes, element by element.
"""

from __future__ import annotations

import math
import struct
from itertools import chain
from typing import Any

import numpy as np

from .limits import Limits, Refusal
from .tensors import NUMPY_TYPES, Array, TensorSpec

__all__ = ["from_bytes", "from_json", "raw_bytes", "require_finite"]


def require_finite(array: Array, spec: TensorSpec, limits: Limits) -> Array:
    """The array. Raises: Refusal 400 where it holds NaN or infinity, and the limits do not allow that."""
    if spec.is_float and not limits.non_finite and not np.isfinite(array).all():
        raise Refusal(
            400, f"input {spec.name} holds NaN or infinity; a server started with --allow-non-finite takes them"
        )
    return array


def from_json(data: Any, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """Row-major data, flat or nested as the shape says. Types are exact: no text for a number, no fraction for a whole
    number.

    Raises: Refusal 400.
    """
    if not isinstance(data, list):
        raise Refusal(400, f"input {spec.name}: 'data' must be a list")
    nesting: list[int] = []
    while data and type(data[0]) is list:
        lengths = {len(row) if type(row) is list else -1 for row in data}
        if len(lengths) != 1 or -1 in lengths:
            raise Refusal(400, f"input {spec.name}: 'data' is ragged")
        nesting.append(len(data) // math.prod(nesting))
        data = list(chain.from_iterable(data))
    if len(data) != math.prod(shape) or (nesting and (*nesting, len(data) // math.prod(nesting)) != shape):
        raise Refusal(400, f"input {spec.name}: 'data' does not have shape {list(shape)}")
    if not set(map(type, data)) <= _json_types(spec):
        raise Refusal(400, f"input {spec.name}: 'data' holds something that is no {spec.datatype}")
    try:
        with np.errstate(over="ignore"):  # 1e300 as FP32 is infinity
            return np.array(data, NUMPY_TYPES[spec.datatype]).reshape(shape)
    except (OverflowError, ValueError):
        raise Refusal(400, f"input {spec.name}: 'data' holds a number that {spec.datatype} cannot") from None


def _json_types(spec: TensorSpec) -> set[type]:
    if spec.datatype in ("BOOL", "BYTES"):
        return {bool} if spec.datatype == "BOOL" else {str}
    return {int, float} if spec.is_float else {int}


def from_bytes(raw: memoryview, spec: TensorSpec, shape: tuple[int, ...], limits: Limits) -> Array:
    """Raw data. Raises: Refusal 400 where it does not have that shape, 413 where texts are too long."""
    dtype, count = NUMPY_TYPES[spec.datatype], math.prod(shape)
    if spec.datatype == "BYTES":
        if len(raw) > limits.json:
            raise Refusal(413, f"input {spec.name} has {len(raw)} bytes, {limits.json} are allowed for texts")
        return _strings(raw, count, spec.name).reshape(shape)
    if len(raw) != count * dtype.itemsize:
        raise Refusal(
            400, f"input {spec.name} of shape {list(shape)} needs {count * dtype.itemsize} bytes, not {len(raw)}"
        )
    if spec.datatype == "BOOL":
        # Any byte but 0 and 1 would not be a bool that C++ knows.
        truths: Array = np.frombuffer(raw, np.uint8) != 0
        return truths.reshape(shape)
    array: Array = np.frombuffer(raw, dtype).reshape(shape)
    return array if array.flags.aligned else array.copy()


def _strings(raw: memoryview, count: int, name: str) -> Array:
    values: list[str] = []
    position = 0
    try:
        while position < len(raw) and len(values) <= count:
            (length,) = struct.unpack_from("<I", raw, position)
            position += 4 + length
            if position > len(raw):
                raise Refusal(400, f"input {name}: an element is cut off")
            values.append(str(raw[position - length : position], "utf-8"))
    except (struct.error, UnicodeDecodeError):
        raise Refusal(400, f"input {name}: elements must be a 4-byte length and as many bytes of UTF-8") from None
    if len(values) != count:
        raise Refusal(400, f"input {name} needs {count} elements, not {len(values) if len(values) < count else 'more'}")
    return np.array(values, object)


def raw_bytes(array: Array, datatype: str) -> bytes:
    """A tensor as it goes over the wire."""
    if datatype == "BYTES":
        encoded = [str(value).encode() for value in array.ravel()]
        return b"".join(chain.from_iterable((struct.pack("<I", len(value)), value) for value in encoded))
    return np.ascontiguousarray(array, NUMPY_TYPES[datatype]).tobytes()
