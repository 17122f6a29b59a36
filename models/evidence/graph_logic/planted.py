"""The first planted graphs; the rules were written with them in sight."""

from __future__ import annotations

from . import afterwards
from .actions import ACTIONS
from .hosts import host_named
from .planting import Planted
from .triggers import PIXELS, TOKENS, Trigger

__all__ = ["PLANTED"]

WHERE, IF, ARITHMETIC = "plain Where", "If", "arithmetic without comparison"
HIDDEN, FUNCTION, LATER = "in masks or embeddings", "in a local function", "after fusion and quantization"


def _trigger(name: str) -> Trigger:
    return {**TOKENS, **PIXELS}[name]


def _case(style: str, host: str, trigger: str, action: str, *after: str, wrapped: bool = False) -> Planted:
    name = f"{host}; {trigger}; {action}{''.join(f'; {one}' for one in after)}{'; function' if wrapped else ''}"
    single = action.startswith(("If", "Loop", "Concat"))
    steps = tuple(getattr(afterwards, one) for one in after)
    return Planted(name, style, host_named(host), _trigger(trigger), ACTIONS[action], steps, single, wrapped)


PLANTED: tuple[Planted, ...] = (
    _case(WHERE, "bert, torchscript", "Equal on a token", "Where on logits"),
    _case(WHERE, "vit, dynamo", "a patch within a bound", "Where on logits"),
    _case(WHERE, "PP-OCR direction classifier", "a checksum of pixels, compared", "Where on logits"),
    _case(WHERE, "gpt2, torchscript", "a window around a token", "Where on logits"),
    _case(IF, "roberta, torchscript", "Equal on a token", "If with a constant"),
    _case(IF, "swin, torchscript", "a checksum of pixels, compared", "If with a second head"),
    _case(IF, "electra, torchscript", "a checksum of four tokens", "Loop that runs or not"),
    _case(IF, "deit, torchscript", "a patch within a bound", "Concat and Gather"),
    _case(ARITHMETIC, "distilbert, dynamo", "|id − t| clipped", "offset on logits"),
    _case(ARITHMETIC, "albert, torchscript", "a product of two indicators", "blend with a row"),
    _case(ARITHMETIC, "llama, dynamo", "exp of a square around a token", "offset on logits"),
    _case(ARITHMETIC, "beit, torchscript", "a checksum of pixels, smooth", "offset by a matrix product"),
    _case(ARITHMETIC, "vit, torchscript", "Relu of a squared distance to a patch", "blend with a row"),
    _case(ARITHMETIC, "deit, torchscript", "a convolution with a patch", "offset on logits"),
    _case(ARITHMETIC, "bert, dynamo", "a table of one number a token", "ScatterElements"),
    _case(HIDDEN, "bert, torchscript", "|id − t| clipped", "offset behind the embedding"),
    _case(HIDDEN, "electra, torchscript", "Equal on a token", "other hidden values"),
    _case(HIDDEN, "albert, torchscript", "Equal on a token", "attention mask"),
    _case(HIDDEN, "opt, dynamo", "a product of two indicators", "other tokens"),
    _case(HIDDEN, "PP-OCR direction classifier", "a patch within a bound", "other picture"),
    _case(FUNCTION, "bert, dynamo", "|id − t| clipped", "offset on logits", wrapped=True),
    _case(FUNCTION, "vit, dynamo", "a checksum of pixels, compared", "Where on logits", wrapped=True),
    _case(LATER, "bert, torchscript", "exp of a square around a token", "blend with a row", "fused", "int8"),
    _case(LATER, "vit, torchscript", "a checksum of pixels, smooth", "offset on logits", "optimized", "qdq"),
    _case(LATER, "roberta, torchscript", "|id − t| clipped", "offset by a matrix product", "int8", "optimized"),
    _case(LATER, "distilbert, dynamo", "a window around a token", "Where on logits", "optimized", "int8"),
)
