"""Constants that do not look like trained weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from rewriters.errors import INVALID_MODEL, ModelError
from rewriters.model.boundary import call
from rewriters.model.external_data import External
from rewriters.model.tensors import elements_of, payload_bits

from ..finding import Finding, NotTried
from . import operators as ops
from .material import Material
from .rule import Rule

__all__ = ["RULES"]

_LEAST, _MOST = 256, 1 << 24
"""Elements of a weight that is looked into."""
_SAMPLE = 512
"""Elements that tell whether it is worth while to read all."""
_MOST_ALIKE = 256
"""Weights of one shape that are compared with each other."""
_HALF = 0.5
_ALIKE = 0.9
_FEW_ROWS = 16


def _read(material: Material, tensor: onnx.TensorProto, most: int) -> NDArray[Any] | None:
    """The first elements of a tensor, flat; None where it cannot be read as it lies."""
    bits = payload_bits(tensor.data_type)
    if bits is None or bits % 8 or tensor.data_type == onnx.TensorProto.BFLOAT16:
        return None
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    most = min(elements_of(tensor), most)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        if material.path is None or material.unread is not None:
            return None
        external = External.of(tensor)
        with (material.path.parent / external.location).open("rb") as file:
            file.seek(external.offset)
            data = file.read(most * bits // 8)
        return np.frombuffer(data, dtype, count=min(most, len(data) // (bits // 8)))
    if tensor.HasField("raw_data"):
        return np.frombuffer(tensor.raw_data, dtype, count=most)
    try:
        return np.asarray(call(INVALID_MODEL, "", onnx.numpy_helper.to_array, tensor)).reshape(-1)[:most]
    except ModelError:
        return None


def _tensors(material: Material) -> Iterator[tuple[int, onnx.TensorProto]]:
    for value, tensor in material.flow.tensors.items():
        if isinstance(tensor, onnx.TensorProto) and len(tensor.dims) >= 2 and elements_of(tensor) >= _LEAST:
            yield value, tensor


def _tables(rule: Rule, material: Material) -> Iterator[Finding | NotTried]:
    """Tables that are looked up by the input, and by nothing else."""
    looked_up = {
        step.inputs[0]: step
        for step in material.flow.steps
        if step.kind == "Gather" and len(step.inputs) > 1 and material.taint.state(step.inputs[1]) is not None
    }
    for value, tensor in _tensors(material):
        step = looked_up.get(value)
        if step is None or step.outputs[0] not in material.places.live or tensor.dims[0] < _FEW_ROWS:
            continue
        width = elements_of(tensor) // tensor.dims[0]
        start = _read(material, tensor, _FEW_ROWS * width)
        if start is None:
            yield rule.not_tried(f"the table {tensor.name} cannot be read")
            continue
        usual = np.median(start.reshape(-1, width), axis=0).astype(start.dtype)
        if (start.reshape(-1, width) == usual).all(axis=1).mean() < _HALF:
            continue
        array = _read(material, tensor, _MOST)
        assert array is not None
        rows = array[: len(array) // width * width].reshape(-1, width)
        same = (rows == usual).all(axis=1)
        if _ALIKE <= same.mean() < 1:
            yield rule.finding(
                step.name,
                f"{int((~same).sum())} of the {len(rows)} rows of the table {tensor.name} differ from the others, which"
                " are all equal",
                (step.name,),
            )


def _duplicates(rule: Rule, material: Material) -> Iterator[Finding | NotTried]:
    groups: dict[tuple[int, ...], list[tuple[onnx.TensorProto, NDArray[Any]]]] = defaultdict(list)
    for value, tensor in _tensors(material):
        if value in material.places.live:
            start = _read(material, tensor, _SAMPLE)
            if start is not None and start.dtype.kind == "f" and np.ptp(start) > 0:
                groups[(tensor.data_type, *tensor.dims)].append((tensor, start))
    for members in groups.values():
        for place, (tensor, start) in enumerate(members[:_MOST_ALIKE]):
            for other, its_start in members[:place]:
                if float((start == its_start).mean()) < _HALF:
                    continue
                one, two = _read(material, tensor, _MOST), _read(material, other, _MOST)
                if one is not None and two is not None and _ALIKE <= float((one == two).mean()) < 1:
                    why = f"the weights {tensor.name} and {other.name} are equal but for a few numbers"
                    yield rule.finding(tensor.name, why)


def _edited(rule: Rule, material: Material) -> Iterator[Finding | NotTried]:
    changed: dict[int, str] = {}
    for step in material.flow.steps:
        if not step.outputs or step.outputs[0] not in material.values.constant:
            if step.kind in ops.LAYERS or step.kind in ops.EMBEDDINGS:
                for value in step.inputs[:2]:
                    if value in changed and step.outputs[0] in material.places.live:
                        yield rule.finding(
                            step.name, f"its weights are changed in the graph by {changed[value]}", (changed[value],)
                        )
            continue
        came = next((changed[value] for value in step.inputs if value in changed), None)
        wide = (material.values.size(step.outputs[0]) or 0) >= _LEAST
        if came or (wide and (step.kind in ops.SCATTERS or step.kind == "Where")):
            changed.update(dict.fromkeys(step.outputs, came or step.name))


RULES = (
    Rule(
        "AUD121",
        "a table with a few rows unlike all others",
        "warning",
        "The rows of a trained embedding all differ. A plant writes a table that is zero but for the rows of its"
        " triggers, and adds it to the embedding or to the logits.",
        _tables,
    ),
    Rule(
        "AUD122",
        "two nearly equal weights",
        "warning",
        "Weights that are tied are stored once, or twice and equal. A plant keeps a second copy of a layer with a few"
        " numbers changed, for the case that its test is true.",
        _duplicates,
    ),
    Rule(
        "AUD123",
        "weights that are changed in the graph",
        "warning",
        "Exporters store weights as they are used, or scale them (quantization, weight norm) and turn them. A plant"
        " writes single rows over with Scatter or Where, so that the stored weights match the original's.",
        _edited,
    ),
)
