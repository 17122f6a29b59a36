"""Tensor types as the three sides name them (ONNX, Open Inference Protocol, numpy), and what a graph's inputs and
outputs are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import NOT_SERVABLE

__all__ = ["NUMPY_TYPES", "Array", "Arrays", "TensorSpec", "finite_samples", "number_samples", "specify"]

Array = NDArray[Any]
Arrays = dict[str, Array]

# Datatype of the protocol → the name onnxruntime uses, numpy dtype as it goes over the wire (little-endian).
_TYPES: dict[str, tuple[str, str]] = {
    "BOOL": ("bool", "?"),
    "UINT8": ("uint8", "u1"),
    "UINT16": ("uint16", "<u2"),
    "UINT32": ("uint32", "<u4"),
    "UINT64": ("uint64", "<u8"),
    "INT8": ("int8", "i1"),
    "INT16": ("int16", "<i2"),
    "INT32": ("int32", "<i4"),
    "INT64": ("int64", "<i8"),
    "FP16": ("float16", "<f2"),
    "FP32": ("float", "<f4"),
    "FP64": ("double", "<f8"),
    "BYTES": ("string", "O"),
}
NUMPY_TYPES = {datatype: np.dtype(code) for datatype, (_, code) in _TYPES.items()}
"""Datatype of the protocol → numpy dtype; BYTES → object, holding `str`."""
_DATATYPES = {f"tensor({name})": datatype for datatype, (name, _) in _TYPES.items()}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: as in the graph.
        datatype: of the protocol.
        shape: -1 where the graph leaves a dimension open.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def batched(self) -> bool:
        """Whether the first dimension is open, so that it can count samples."""
        return bool(self.shape) and self.shape[0] == -1

    @property
    def is_float(self) -> bool:
        return self.datatype.startswith("FP")

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


def specify(values: Iterable[Any]) -> tuple[TensorSpec, ...]:
    """Specifications of what an onnxruntime session lists.

    Raises:
        AtpatchError: ATP076 for anything but a dense tensor of a type that the protocol and numpy know.
    """
    specs = []
    for value in values:
        if value.type not in _DATATYPES:
            raise NOT_SERVABLE(f"{value.name} is a {value.type}")
        shape = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in value.shape)
        specs.append(TensorSpec(value.name, _DATATYPES[value.type], shape))
    return tuple(specs)


def finite_samples(outputs: Arrays, samples: int) -> Array:
    """Which samples have only finite numbers in their outputs, (samples,) bool.

    An output whose first axis does not divide into samples counts for each of them.
    """
    return _samples_of_only(np.isfinite, outputs, samples)


def number_samples(outputs: Arrays, samples: int) -> Array:
    """Which samples have no NaN in their outputs, as `finite_samples`; infinities are numbers here."""
    return _samples_of_only(lambda array: ~np.isnan(array), outputs, samples)


def _samples_of_only(good: Callable[[Array], Array], outputs: Arrays, samples: int) -> Array:
    found = np.ones(samples, bool)
    for array in outputs.values():
        if array.dtype.kind == "f" and array.size:
            divides = array.ndim > 0 and array.shape[0] % samples == 0
            found &= good(array).reshape(samples if divides else 1, -1).all(1)
    return found
