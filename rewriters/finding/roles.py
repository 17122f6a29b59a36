"""What an operator's inputs are for, in words for people: from its arithmetic if possible, else from its schema."""

from __future__ import annotations

from functools import cache

import onnx
import onnx_ir as ir

from .view import is_standard

__all__ = ["role_of"]

_ARITHMETIC = {
    "Add": "added",
    "Sub": "subtracted",
    "Mul": "scale",
    "Div": "divisor",
    "Max": "bound",
    "Min": "bound",
    "BiasSoftmax": "added",
    "Concat": "joined",
}
_WHERE = ("condition", "kept where true", "kept where false")
_QUANTIZATION = {"scale": "scale", "zero": "zero point"}
"""Part of a parameter's name → role."""

# onnxruntime's operators have no schema in onnx.
_CONTRIB: dict[str, str] = {
    "Attention": "input weights bias mask_index past attention_bias past_sequence_length",
    "QAttention": "input weights bias input_scale weight_scale mask_index input_zero_point weight_zero_point past",
    "MultiHeadAttention": (
        "query key value bias key_padding_mask attention_bias past_key past_value past_sequence_length"
    ),
    "DecoderMaskedMultiHeadAttention": (
        "query key value mask_index attention_bias past_key past_value past_sequence_length beam_width"
    ),
    "GroupQueryAttention": (
        "query key value past_key past_value seqlens_k total_sequence_length cos_cache sin_cache position_ids"
    ),
    "PackedAttention": "input weights bias token_offset cumulative_sequence_length attention_bias",
    "QLinearSoftmax": "X X_scale X_zero_point Y_scale Y_zero_point",
    "QLinearAdd": "A A_scale A_zero_point added B_scale B_zero_point Y_scale Y_zero_point",
    "QLinearMul": "A A_scale A_zero_point factor B_scale B_zero_point Y_scale Y_zero_point",
    "MatMulIntegerToFloat": "A B A_scale B_scale A_zero_point B_zero_point bias",
    "DynamicQuantizeMatMul": "A B B_scale B_zero_point bias",
}
_PLURAL = {"q": "queries", "k": "keys", "v": "values", "query": "queries", "key": "keys", "value": "values"}


def role_of(node: ir.Node, index: int, opset: int) -> str:
    """Role of input `index`; "side" where nothing is known about it."""
    if node.op_type == "Where":
        return _WHERE[index] if index < len(_WHERE) else "side"
    if node.op_type in _ARITHMETIC:
        return _ARITHMETIC[node.op_type]
    names = _schema(node.op_type, opset) if is_standard(node) else tuple(_CONTRIB.get(node.op_type, "").split())
    name = names[index] if index < len(names) else "side"
    for part, role in _QUANTIZATION.items():
        if part in name:
            return role
    return _PLURAL.get(name.lower(), name.replace("_", " "))


@cache
def _schema(op_type: str, opset: int) -> tuple[str, ...]:
    try:
        return tuple(parameter.name for parameter in onnx.defs.get_schema(op_type, opset, "").inputs)
    except onnx.defs.SchemaError:
        return ()
