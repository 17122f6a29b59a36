"""The two models that are deployed, and what their graphs say without being run."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from rewriters.editing.patcher import is_patched
from rewriters.model import io as model_io
from rewriters.model.external_data import external_locations
from rewriters.names import ALARM, ALARM_SCORE, FLAGGED, STEERING, is_telemetry

from ..errors import ARMS_DIFFER, NAME_UNUSABLE, NOT_SERVABLE
from ..inspection.model_order import refuse_swapped
from ..serve.tensors import TensorSpec

__all__ = ["Source", "check_name", "load_arms"]

_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_LONGEST_NAME = 40
"""Kubernetes allows 63 characters; engines need some of them for their own suffixes."""
_TOLD = (ALARM, ALARM_SCORE, FLAGGED)
"""Outputs of a patch with one row for each sample, which clients may ask for."""
_DATATYPES = {
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP64",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.STRING: "BYTES",
} | {
    TensorProto.DataType.Value(name): name
    for name in ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
}


@dataclass(frozen=True, eq=False)
class Source:
    """One model file.

    Attributes:
        inputs: what callers must give; the patch's runtime controls have defaults and are left out.
        outputs: what callers get; flagged columns are left out, as their leading dimension may count windows instead of
            samples.
        data: files with its weights, relative to its folder; () for a model in one file.
    """

    path: Path
    proto: onnx.ModelProto
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    data: tuple[str, ...]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Source:
        """Raises AtpatchError: ATP001-ATP005 for the file, ATP076 for a type that serving engines do not take."""
        path = Path(path)
        proto = model_io.load(path)
        defaults = {tensor.name for tensor in proto.graph.initializer}
        inputs = tuple(_spec(value) for value in proto.graph.input if value.name not in defaults)
        outputs = tuple(
            _spec(value) for value in proto.graph.output if value.name in _TOLD or not is_telemetry(value.name)
        )
        return cls(path, proto, inputs, outputs, external_locations(proto))

    @property
    def batched(self) -> bool:
        """Whether the first dimension of all inputs and outputs is open,
        so that the engine may put samples together.
        """
        return all(spec.batched for spec in (*self.inputs, *self.outputs))


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type
    if kind.WhichOneof("value") != "tensor_type" or kind.tensor_type.elem_type not in _DATATYPES:
        raise NOT_SERVABLE(f"{value.name} is not a dense tensor of a type that serving engines know")
    if not kind.tensor_type.HasField("shape"):
        raise NOT_SERVABLE(
            f"the rank of {value.name} is not given in the graph", "run onnx.shape_inference over the model first"
        )
    dims = kind.tensor_type.shape.dim
    shape = tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else -1 for dim in dims)
    return TensorSpec(value.name, _DATATYPES[kind.tensor_type.elem_type], shape)


def load_arms(original: str | os.PathLike[str], patched: str | os.PathLike[str]) -> tuple[Source, Source]:
    """Both models.

    Raises:
        AtpatchError: ATP060 where they are swapped, ATP075 where one cannot replace the other, and those of
            `Source.load`.
    """
    arms = Source.load(original), Source.load(patched)
    names = os.fspath(original), os.fspath(patched)
    refuse_swapped(names, (is_patched(arms[0].proto), is_patched(arms[1].proto)))
    for kind in ("inputs", "outputs"):
        one, two = (tuple(spec for spec in getattr(arm, kind) if spec.name not in _TOLD) for arm in arms)
        if one != two:
            steered = {spec.name for spec in two} & STEERING
            way_out = (
                "patch with --controls optional or none, not with --span required: clients need not know of the patch"
                if steered
                else None
            )
            raise ARMS_DIFFER(
                f"the {kind} differ: {_listed(one)} in the original, {_listed(two)} in the patched model", way_out
            )
    return arms


def _listed(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in specs)


def check_name(name: str) -> str:
    """The name, if it may be that of a folder, a URL part and a Kubernetes object.

    Raises:
        AtpatchError: ATP091.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise NAME_UNUSABLE(
            f"{name!r} cannot be the name of a served model",
            f"give --name with at most {_LONGEST_NAME} lower-case letters, digits and '-', a letter first",
        )
    return name
