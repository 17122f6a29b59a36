"""Calls into libraries that read untrusted models: parsing, checking, shape inference, conversion to other forms.

On a malformed model they may raise any exception. Each function here makes one call into a library and turns every
exception into one error with a code. None of our code runs inside the call, so a bug of ours still shows as a bug.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError

from ..errors import INVALID_MODEL, NOT_ONNX, TOO_LARGE, AtpatchError, Fault
from .bodies import walk_bodies

__all__ = ["call", "from_ir", "infer_shapes", "objection", "parse", "refusal", "to_ir"]

_Made = TypeVar("_Made")
_LONGEST = 300
_MOST_AXES = 64
_LONGEST_CONTENT = 1 << 16


def call(fault: Fault, what: str, function: Callable[..., _Made], *arguments: Any, **options: Any) -> _Made:
    """The result of one call into a library.

    Args:
        what: beginning of the message, such as "onnx-ir cannot read the model".

    Raises:
        AtpatchError: of `fault`, with the first line of the library's message.
    """
    try:
        return function(*arguments, **options)
    except Exception as error:
        raise refusal(fault, what, error) from error


def refusal(fault: Fault, what: str, error: BaseException) -> AtpatchError:
    """The error with its innermost cause, since libraries wrap theirs in others."""
    while error.__cause__ is not None:
        error = error.__cause__
    words = " ".join(str(error).split()) or type(error).__name__
    return fault(f"{what}: {words[:_LONGEST]}{'…' if len(words) > _LONGEST else ''}")


def parse(data: bytes, what: str) -> onnx.ModelProto:
    """A model from bytes. Raises: AtpatchError ATP001."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, ValueError, RuntimeError) as error:  # the exception class depends on protobuf's build
        raise NOT_ONNX(f"{what} does not parse as an ONNX model") from error
    return model


def objection(model: onnx.ModelProto) -> str | None:
    """What the onnx checker reports about a model, on one line.

    Raises:
        AtpatchError: ATP020 where it cannot be serialized for the checker, ATP005 where the checker itself fails.
    """
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        return " ".join(str(error).split())
    except (EncodeError, ValueError) as error:
        raise TOO_LARGE(f"the model cannot be serialized: {error}") from error
    except Exception as error:
        raise refusal(INVALID_MODEL, "the onnx checker cannot judge the model", error) from error
    return None


def infer_shapes(model: onnx.ModelProto, *, data_prop: bool = False) -> onnx.ModelProto:
    """A copy with the shapes and types that onnx can infer.

    Args:
        data_prop: also follow the content of shape tensors, unless it grows long, since onnx has no limit.

    Raises:
        AtpatchError: ATP005.
    """
    data_prop = data_prop and not _contents_grow(model)
    return call(
        INVALID_MODEL, "onnx cannot infer shapes", onnx.shape_inference.infer_shapes, model, data_prop=data_prop
    )


def to_ir(model: onnx.ModelProto) -> ir.Model:
    """The model as onnx-ir reads it. Raises: AtpatchError ATP005."""
    return call(INVALID_MODEL, "onnx-ir cannot read the model", ir.from_proto, model)


def from_ir(model: ir.Model) -> onnx.ModelProto:
    """Raises: AtpatchError ATP005."""
    return call(INVALID_MODEL, "onnx-ir cannot serialize the model", ir.to_proto, model)


def _contents_grow(model: onnx.ModelProto) -> bool:
    """Whether a chain of Concat nodes makes content of more than `_LONGEST_CONTENT` elements from short ones."""
    lengths: dict[str, int] = {}
    for _, body in walk_bodies(model):
        if isinstance(body, onnx.GraphProto):
            lengths.update((tensor.name, _content(tensor)) for tensor in body.initializer)
        for node in body.node:
            read = [lengths.get(name, 0) for name in node.input]
            if node.op_type == "Concat":
                made = sum(read) if all(read) else 0
            elif node.op_type == "Constant":
                made = max(
                    (_content(attribute.t) for attribute in node.attribute if attribute.HasField("t")), default=1
                )
            else:
                made = _MOST_AXES if node.op_type == "Shape" else max(read, default=0)
            if made > _LONGEST_CONTENT:
                return True
            lengths.update(dict.fromkeys(node.output, made))
    return False


def _content(tensor: onnx.TensorProto) -> int:
    """Number of elements of a tensor with its values in the model."""
    return 0 if tensor.data_location == onnx.TensorProto.EXTERNAL else math.prod(tensor.dims)
