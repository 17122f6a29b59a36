"""Site plans as JSON and arrays, and back, for the hotfix file.

A table lists the fields of each class and their types. Reading follows only this table, so a file can give nothing that
is not listed here, and an unknown or missing field is an error. Every error of this module is a `ValueError`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rewriters.plan import (
    Alarm,
    AlarmLayer,
    BenignPair,
    Cnn,
    Conv,
    Dense,
    NormDistance,
    OneClass,
    OnnxGraph,
    Profile,
    SitePlan,
    Static,
    Statistic,
    ValueNorms,
)

__all__ = ["KINDS", "Arrays", "decode", "encode", "finite_json"]

Arrays = dict[str, NDArray[Any]]
Coded = TypeVar("Coded", SitePlan, Alarm)

DETECTORS: dict[str, type] = {
    "static": Static,
    "statistic": Statistic,
    "profile": Profile,
    "oneclass": OneClass,
    "cnn": Cnn,
    "onnx": OnnxGraph,
}
KINDS = tuple(DETECTORS)

READ = {"probes": "ints", "every": "int", "answer_row": "bool", "tokens": "text?"}
DISTANCE = {"mean": "array", "weight": "array", "squared": "bool", "offset": "float", "rank": "int"}
# Field types: "array?" and "text?" may be None; a class is a nested record; [class] a list of records; (class,) a
# record or None; "detector" a record with its kind.
FIELDS: dict[type, dict[str, Any]] = {
    SitePlan: {"detector": "detector", "benign": BenignPair, "every_row_sees_every_column": "bool"},
    BenignPair: {"attention": "array", "values": "array?", "own_values": "bool"},
    Static: {"columns": "ints"},
    Statistic: {"exempt": "ints", "floor": "float", "rows": "int", "by_values": "bool"},
    Dense: {"weight": "array", "bias": "array"},
    ValueNorms: {"factor": "array?"},
    NormDistance: {"norms": ValueNorms, **DISTANCE, "louder": "bool"},
    Profile: {
        "layers": [Dense],
        "mean": "array",
        "std": "array",
        **READ,
        "seeing_rows": "bool",
        "norms": (ValueNorms,),
    },
    OneClass: {**DISTANCE, "exempt": "ints", **READ, "norms": (NormDistance,), "by_length": "array?"},
    Conv: {"weight": "array", "bias": "array", "stride": "int", "padding": "int"},
    Cnn: {"convolutions": [Conv], "layers": [Dense]},
    OnnxGraph: {"model": "bytes"},
    Alarm: {"layers": [AlarmLayer], "bias": "float"},
    AlarmLayer: {"site": "text?", "weight": "array"},
}

# What files written before a field existed leave out.
LATER: dict[type, dict[str, Any]] = {
    Profile: {"every": 1, "norms": None, "tokens": None, "answer_row": False, "seeing_rows": False},
    OneClass: {"every": 1, "norms": None, "tokens": None, "answer_row": False, "by_length": None},
    NormDistance: {"louder": False},
    Statistic: {"rows": 1, "by_values": False},
}
NOT_WRITTEN = ("seeing_rows", "by_length")
"""Fields that are left out where they say what `LATER` does: so versions from before them can read the file."""


def encode(plan: SitePlan | Alarm, prefix: str, arrays: Arrays) -> dict[str, Any]:
    """Plain data of a plan; its arrays go into `arrays` under names that start with `prefix`."""
    _check(plan)
    return _encode(plan, prefix, arrays)


def decode(data: Any, arrays: Mapping[str, NDArray[Any]], used: set[str], kind: type[Coded]) -> Coded:
    """The plan or the alarm that `encode` wrote; names of arrays read are added to `used`."""
    plan: Coded = _decode(kind, data, arrays, used)
    _check(plan)
    return plan


def _encode(record: Any, prefix: str, arrays: Arrays) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, kind in FIELDS[type(record)].items():
        value, place = getattr(record, name), f"{prefix}/{name}"
        if name in NOT_WRITTEN and value is LATER[type(record)][name]:
            continue
        if isinstance(kind, tuple):
            out[name] = None if value is None else _encode(value, place, arrays)
        elif kind == "detector":
            out[name] = {"kind": value.kind, **_encode(value, place, arrays)}
        elif isinstance(kind, list):
            out[name] = [_encode(item, f"{place}/{index}", arrays) for index, item in enumerate(value)]
        elif isinstance(kind, type):
            out[name] = _encode(value, place, arrays)
        elif kind in ("array", "array?"):
            if value is not None:
                arrays[place] = np.ascontiguousarray(value)
            out[name] = None if value is None else place
        elif kind == "bytes":
            arrays[place] = np.frombuffer(value, np.uint8)
            out[name] = place
        else:
            out[name] = list(value) if kind == "ints" else value
    return out


def _decode(cls: type, data: Any, arrays: Mapping[str, NDArray[Any]], used: set[str]) -> Any:
    fields = FIELDS[cls]
    if isinstance(data, dict):
        data = {**LATER.get(cls, {}), **data}
    if not isinstance(data, dict) or data.keys() != fields.keys():
        raise ValueError(f"{cls.__name__} must have exactly the fields {', '.join(fields)}")
    return cls(
        **{
            name: _decode_field(f"{cls.__name__}.{name}", kind, data[name], arrays, used)
            for name, kind in fields.items()
        }
    )


def _decode_field(where: str, kind: Any, value: Any, arrays: Mapping[str, NDArray[Any]], used: set[str]) -> Any:
    if kind == "detector":
        if not isinstance(value, dict) or not isinstance(value.get("kind"), str) or value["kind"] not in DETECTORS:
            raise ValueError(f"{where} is of no known kind")
        return _decode(
            DETECTORS[value["kind"]], {key: item for key, item in value.items() if key != "kind"}, arrays, used
        )
    if isinstance(kind, list):
        if not isinstance(value, list):
            raise ValueError(f"{where} is not a list")
        return tuple(_decode(kind[0], item, arrays, used) for item in value)
    if value is None and (kind in ("array?", "text?") or isinstance(kind, tuple)):
        return None
    if isinstance(kind, tuple):
        kind = kind[0]
    if isinstance(kind, type):
        return _decode(kind, value, arrays, used)
    if kind in ("array", "array?", "bytes"):
        if not isinstance(value, str) or value not in arrays:
            raise ValueError(f"{where} names no array of the file")
        used.add(value)
        return arrays[value].tobytes() if kind == "bytes" else arrays[value]
    if kind == "ints" and isinstance(value, list):
        value = tuple(value)
    _plain(where, kind, value)
    return value


def _plain(where: str, kind: str, value: Any) -> None:
    good = {
        "bool": isinstance(value, bool),
        "int": type(value) is int,
        "float": isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value),
        "text?": isinstance(value, str) and value != "",
        "ints": isinstance(value, tuple) and all(type(item) is int for item in value),
    }[kind]
    if not good:
        raise ValueError(f"{where} is not of type {kind}")


def _check(plan: SitePlan | Alarm) -> None:
    """What must hold whatever the model: shapes that fit each other, float32, finite, in range."""
    if isinstance(plan, Alarm):
        return _check_arrays(*(layer.weight for layer in plan.layers))
    _check_pair(plan.benign)
    detector = plan.detector
    if isinstance(detector, Profile):
        _check_profile(detector)
    elif isinstance(detector, OneClass):
        _check_reference("oneclass", detector)
        _check_rows("oneclass", detector, detector.map_features)
        if not detector.fits_lengths or (detector.by_length is not None and detector.by_length.dtype != np.float32):
            raise ValueError("oneclass: factors by length need rising lengths and positive factors, in float32")
        if detector.norms is not None:
            _check_reference("norms", detector.norms)
            _check_norms(detector.norms.norms)
    elif isinstance(detector, Cnn):
        channels = 1
        for conv in detector.convolutions:
            _check_arrays(conv.weight, conv.bias)
            if conv.weight.ndim != 4 or conv.weight.shape[1] != channels or conv.bias.shape != conv.weight.shape[:1]:
                raise ValueError("cnn: shapes of the convolutions do not fit")
            if conv.stride < 1 or conv.padding < 0:
                raise ValueError("cnn: stride or padding out of range")
            channels = conv.weight.shape[0]
        _check_stack("cnn", detector.layers)
    elif isinstance(detector, Static) and min(detector.columns, default=0) < 0:
        raise ValueError("static: columns must not be negative")
    elif isinstance(detector, Statistic) and detector.floor <= 0:
        raise ValueError("statistic: the floor must be positive")
    elif isinstance(detector, Statistic) and detector.rows < 1:
        raise ValueError("statistic: rows must be 1 or more")


def _check_profile(detector: Profile) -> None:
    _check_arrays(detector.mean, detector.std)
    _check_stack("profile", detector.layers, outputs=1)
    if (
        detector.mean.ndim not in (1, 2)
        or not detector.mean.shape[-1:] == detector.std.shape == detector.layers[0].weight.shape[:1]
    ):
        raise ValueError("profile: mean, std and the first layer differ in the number of features")
    if not (detector.std > 0).all():
        raise ValueError("profile: std must be positive")
    _check_rows("profile", detector, len(detector.std))
    if detector.norms is not None:
        _check_norms(detector.norms)


def _check_reference(kind: str, reference: OneClass | NormDistance) -> None:
    _check_arrays(reference.mean, reference.weight)
    if reference.mean.ndim not in (1, 2) or reference.weight.ndim != reference.mean.ndim + 1:
        raise ValueError(f"{kind}: mean and weight must have 1 and 2 axes, or 2 and 3")
    if reference.weight.shape[:-1] != reference.mean.shape or not reference.weight.size:
        raise ValueError(f"{kind}: mean and weight differ in the number of features")
    if reference.rank < 0:
        raise ValueError(f"{kind}: the rank must not be negative")


def _check_norms(norms: ValueNorms) -> None:
    if norms.factor is not None:
        _check_arrays(norms.factor)
        if norms.factor.ndim != 3 or not norms.factor.size:
            raise ValueError("norms: the factor must have 3 axes")


def _check_pair(pair: BenignPair) -> None:
    _check_arrays(pair.attention)
    if pair.attention.ndim not in (1, 3) or not pair.attention.size or (pair.attention < 0).any():
        raise ValueError("benign attention must have 1 or 3 axes and not be negative")
    if pair.values is not None:
        _check_arrays(pair.values)
        if pair.values.ndim != 3 or not pair.values.size:
            raise ValueError("benign values must have 3 axes")


def _check_rows(kind: str, detector: Profile | OneClass, features: int) -> None:
    blocks = detector.map_blocks + (isinstance(detector, Profile) and detector.norms is not None)
    if min(detector.probes, default=0) < 0 or features % blocks:
        raise ValueError(f"{kind}: probes are negative, or do not divide the features")
    if detector.every < 1 or (detector.answer_row and (detector.probes or detector.every != 1)):
        raise ValueError(f"{kind}: every must be 1 or more, and next to the answer row no other row is read")
    if isinstance(detector, Profile) and detector.seeing_rows and not detector.answer_row:
        raise ValueError(f"{kind}: rows that see a column are read only next to the answer row")


def _check_stack(kind: str, layers: tuple[Dense, ...], outputs: int | None = None) -> None:
    if not layers:
        raise ValueError(f"{kind}: no layers")
    width = None
    for layer in layers:
        _check_arrays(layer.weight, layer.bias)
        if (
            layer.weight.ndim != 2
            or layer.bias.shape != layer.weight.shape[1:]
            or width not in (None, layer.weight.shape[0])
        ):
            raise ValueError(f"{kind}: shapes of the dense layers do not fit")
        width = layer.weight.shape[1]
    if outputs is not None and width != outputs:
        raise ValueError(f"{kind}: the last layer has {width} units, not {outputs}")


def _check_arrays(*arrays: Any) -> None:
    for array in arrays:
        if not isinstance(array, np.ndarray) or array.dtype != np.float32 or not np.isfinite(array).all():
            raise ValueError("arrays must be float32 and finite")


def finite_json(data: Any) -> Any:
    """Plain data with numpy scalars as Python numbers; refuses what JSON cannot express."""
    if isinstance(data, Mapping):
        return {str(key): finite_json(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite_json(value) for value in data]
    if isinstance(data, np.generic):
        data = data.item()
    if data is None or isinstance(data, (str, bool, int)) or (isinstance(data, float) and math.isfinite(data)):
        return data
    raise ValueError(f"{data!r} cannot be written as JSON")
