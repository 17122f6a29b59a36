"""Reads and writes model files, without reading weights or leaving a half-written file.

A model travels as an `onnx.ModelProto` whose external data stays in its files; only the references are in memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from onnx import TensorProto, numpy_helper

from ..errors import DATA_FILE_EXISTS, INVALID_MODEL, NO_SUCH_FILE, NOT_ONNX, OPSET_TOO_OLD, TOO_LARGE
from . import boundary
from .atomic import write_file
from .checker_copy import stand_in
from .external_data import External, check_external, external_locations, place_data, walk_tensors
from .regular_files import check_destination, check_source
from .well_formed import check_well_formed

__all__ = [
    "MIN_OPSET",
    "check",
    "default_opset",
    "digest",
    "load",
    "parse_file",
    "require_opset",
    "save",
    "save_graph",
    "weights_digest",
]

# Oldest default-domain opset that has the operators we insert, in the form we use.
MIN_OPSET = 11
# A protobuf message is at most 2 GiB - 1 byte.
_MAX_PROTO = 2**31 - 1
# Enough of a tensor's start and end to distinguish fine-tuned weights without reading gigabytes.
_SAMPLE = 1024


def load(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read a model without its external data, and refuse what cannot be edited safely.

    Raises:
        NO_SUCH_FILE, NOT_REGULAR: missing, a directory, unreadable; a FIFO or a device.
        NOT_ONNX: does not parse, or holds no graph with nodes.
        TOO_LARGE: one file beyond protobuf's 2 GiB.
        EXTERNAL_ESCAPES, EXTERNAL_MISSING: see `external_data.check_external`.
        INVALID_MODEL: `check_well_formed` or the onnx checker rejects it.
    """
    path = check_source(path)
    model = parse_file(path)
    if not model.HasField("graph") or not model.graph.node:
        raise NOT_ONNX(f"{path} holds no graph with nodes")
    check_well_formed(model)
    check_external(model, path.parent)
    _check_by_onnx(model)
    return model


def parse_file(path: Path) -> onnx.ModelProto:
    """The model in a regular file, which may be one that does not run. Its external data is not looked at.

    Raises:
        NO_SUCH_FILE: unreadable.
        NOT_ONNX: does not parse.
        TOO_LARGE: one file beyond protobuf's 2 GiB.
    """
    try:
        if path.stat().st_size > _MAX_PROTO:
            raise TOO_LARGE(f"{path} has {path.stat().st_size} bytes")
        return boundary.parse(path.read_bytes(), str(path))
    except OSError as error:
        raise NO_SUCH_FILE(f"{path} cannot be read: {error.strerror or error}") from error


def check(model: onnx.ModelProto) -> None:
    """Refuse a model that cannot be used; every command decides it here, for files and for graphs in memory.

    It calls `check_well_formed` and the onnx checker, without shape inference and without external files. It accepts
    what onnxruntime runs: custom domains, nodes in any order without a cycle (onnxruntime's half precision converter
    writes them), and what `checker_copy` lists.

    Raises:
        INVALID_MODEL, NOT_ONNX: with the checker's message.
    """
    check_well_formed(model)
    _check_by_onnx(model)


def _check_by_onnx(model: onnx.ModelProto) -> None:
    # The copy costs memory, so it is made only where the checker cannot judge the model itself.
    shown = stand_in(model) if external_locations(model) else model
    objection = boundary.objection(shown)
    if objection is not None:
        shown = stand_in(model)
        objection = boundary.objection(shown)
    if objection is None or ("topologically sorted" in objection and _valid_once_sorted(shown)):
        return
    raise INVALID_MODEL(objection[:500] + ("…" if len(objection) > 500 else ""))


def _valid_once_sorted(model: onnx.ModelProto) -> bool:
    ordered = boundary.to_ir(model)
    try:
        ordered.graph.sort()
        for function in ordered.functions.values():
            function.sort()
    except ValueError:  # a cycle
        return False
    return boundary.objection(boundary.from_ir(ordered)) is None


def default_opset(model: onnx.ModelProto) -> int | None:
    """Version of the default operator domain; None when the model does not use it."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=None)


def require_opset(model: onnx.ModelProto, minimum: int = MIN_OPSET) -> None:
    """Raises OPSET_TOO_OLD when the model's default domain is below `minimum`."""
    version = default_opset(model)
    if version is not None and version < minimum:
        raise OPSET_TOO_OLD(f"the model has opset {version}; patching needs {minimum} or newer")


def digest(model: onnx.ModelProto) -> str:
    """SHA-256 of the deterministic serialization, hex. External weights count only by reference."""
    return hashlib.sha256(_serialize(model)).hexdigest()


def _serialize(model: onnx.ModelProto) -> bytes:
    try:
        data: bytes = model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise TOO_LARGE(f"the model cannot be serialized: {error}") from error
    if len(data) > _MAX_PROTO:
        raise TOO_LARGE(f"the model takes {len(data)} bytes")
    return data


def weights_digest(model: onnx.ModelProto, folder: str | os.PathLike[str]) -> str:
    """A cheap fingerprint of the weights, hex: name, dtype, shape, first and last KiB of every stored tensor.

    The same weights give the same digest whether they are stored inside the model or outside, and in any order.

    Args:
        folder: where the model's external data lies.
    """
    entries = sorted(_tensor_digest(tensor, Path(folder)) for tensor in walk_tensors(model))
    return hashlib.sha256(b"".join(entries)).hexdigest()


def _tensor_digest(tensor: TensorProto, folder: Path) -> bytes:
    hasher = hashlib.sha256(repr((tensor.name, tensor.data_type, list(tensor.dims))).encode())
    for piece in _samples(tensor, folder):
        hasher.update(piece)
    return hasher.digest()


def _samples(tensor: TensorProto, folder: Path) -> Iterator[bytes]:
    if tensor.data_location == TensorProto.EXTERNAL:
        external = External.of(tensor)
        with (folder / external.location).open("rb") as file:
            end = file.seek(0, os.SEEK_END) if external.length is None else external.offset + external.length
            for start in (external.offset, max(external.offset, end - _SAMPLE)):
                file.seek(start)
                yield file.read(min(_SAMPLE, end - start))
        return
    if tensor.data_type == TensorProto.STRING:
        yield repr(list(tensor.string_data)).encode()
        return
    raw = tensor.raw_data
    if not raw and int(np.prod(tensor.dims)):
        raw = numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
    yield raw[:_SAMPLE]
    yield raw[max(0, len(raw) - _SAMPLE) :]


def save_graph(model: onnx.ModelProto, path: Path, data_folder: Path) -> None:
    """Write a model file, but not its external data, which the caller puts next to it.

    Args:
        data_folder: where the model's external data lies now.

    Raises:
        INVALID_MODEL: the checker rejects what would be written.
        NOT_WRITABLE, NOT_REGULAR, TOO_LARGE, EXTERNAL_MISSING, EXTERNAL_ESCAPES: nothing is written.
    """
    check(model)
    check_external(model, data_folder)
    write_file(path, _serialize(model))


def save(
    model: onnx.ModelProto,
    path: str | os.PathLike[str],
    data_folder: str | os.PathLike[str] | None = None,
    *,
    link_data: bool = False,
) -> None:
    """Write a model in one step: afterwards the complete file is there, or the old one is unchanged.

    External data stays in its files when `path` lies in `data_folder`; otherwise see `external_data.place_data`.

    Args:
        data_folder: where the model's external data lies now; None: in the folder of `path`.
        link_data: hard-link external data into another folder instead of copying it.

    Raises:
        INVALID_MODEL: the checker rejects what would be written.
        NOT_WRITABLE, NOT_REGULAR, TOO_LARGE, DATA_FILE_EXISTS, EXTERNAL_MISSING, EXTERNAL_ESCAPES: nothing is written.
    """
    path = check_destination(path)
    folder = path.parent
    source = folder if data_folder is None else Path(data_folder)
    if path.exists() and any(
        (base / name).exists() and path.samefile(base / name)
        for base in (source, folder)
        for name in external_locations(model)
    ):
        raise DATA_FILE_EXISTS(f"{path} is a file with the model's weights", "give another name for the output")
    check(model)
    moves = bool(external_locations(model)) and not source.samefile(folder)
    check_external(model, source, cached=moves)
    data = _serialize(model)
    undo = place_data(model, source, folder, link=link_data) if moves else lambda: None
    try:
        write_file(path, data)
    except BaseException:
        undo()
        raise
