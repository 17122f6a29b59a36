"""A model's weights in one temporary file, so that many sessions on variants of it share them.

A fit opens dozens of sessions on patched forms of one model. With the weights inside, each patch copies, hashes, checks
and parses them again, which takes longer than running the selection part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import onnx
from onnx import StringStringEntryProto, TensorProto

from rewriters.model.external_data import external_locations

from ..errors import AtpatchError
from ..paths import temporary_folder

__all__ = ["with_shared_weights"]

LEAST_BYTES = 1 << 16
"""Smaller tensors stay in the model."""
ALIGNMENT = 1 << 12
"""Bytes; a page, since onnxruntime maps the file into memory."""
FILE = "weights"


@contextmanager
def with_shared_weights(model: onnx.ModelProto, folder: Path) -> Iterator[tuple[onnx.ModelProto, Path]]:
    """The same model with large initializers in a file, and its folder; both as given where the model has external data
    already, or where there is no space for the file.
    """
    large = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) >= LEAST_BYTES]
    with ExitStack() as stack:
        if large and not external_locations(model):
            with suppress(OSError, AtpatchError):
                place = stack.enter_context(temporary_folder())
                model, folder = _referring(model, large, place), place
        yield model, folder


def _referring(model: onnx.ModelProto, large: Sequence[TensorProto], folder: Path) -> onnx.ModelProto:
    """A copy of a model whose large initializers refer to a file, which is written here."""
    names = {tensor.name for tensor in large}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with (folder / FILE).open("wb") as sink:
        for tensor in copy.graph.initializer:
            if tensor.name in names:
                sink.write(bytes(-sink.tell() % ALIGNMENT))
                place = {"location": FILE, "offset": sink.tell(), "length": len(tensor.raw_data)}
                sink.write(tensor.raw_data)
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
                tensor.external_data.extend(
                    StringStringEntryProto(key=key, value=str(value)) for key, value in place.items()
                )
    # A message keeps the memory of cleared fields; one that is parsed anew has none to keep.
    lean: onnx.ModelProto = onnx.ModelProto.FromString(copy.SerializeToString())
    return lean
