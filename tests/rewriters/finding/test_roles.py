"""What an operator's inputs are for, in words."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from rewriters.finding.roles import role_of

ROLES = {
    "condition": ("Where", 0, "condition"),
    "chosen": ("Where", 1, "kept where true"),
    "other": ("Where", 2, "kept where false"),
    "too-many": ("Where", 3, "side"),
    "added": ("Add", 1, "added"),
    "subtracted": ("Sub", 0, "subtracted"),
    "scale": ("Mul", 1, "scale"),
    "divisor": ("Div", 1, "divisor"),
    "joined": ("Concat", 7, "joined"),
    "bias": ("com.microsoft BiasSoftmax", 1, "added"),
    "schema": ("Gather", 1, "indices"),
    "schema-past-the-end": ("Gather", 2, "side"),
    "quantization": ("QuantizeLinear", 1, "scale"),
    "zero-point": ("QuantizeLinear", 2, "zero point"),
    "queries": ("com.microsoft MultiHeadAttention", 0, "queries"),
    "keys": ("com.microsoft MultiHeadAttention", 1, "keys"),
    "two-words": ("com.microsoft MultiHeadAttention", 4, "key padding mask"),
    "contrib-zero-point": ("com.microsoft QAttention", 6, "zero point"),
    "contrib-past-the-end": ("com.microsoft PackedAttention", 6, "side"),
    "standard-attention": ("Attention", 0, "queries"),
    "standard-attention-values": ("Attention", 2, "values"),
    "contrib-attention": ("com.microsoft Attention", 0, "input"),
    "unknown": ("Unknown", 0, "side"),
    "unknown-contrib": ("com.microsoft Unknown", 0, "side"),
}


@pytest.mark.parametrize(("operator", "index", "role"), ROLES.values(), ids=ROLES)
def test_role(operator: str, index: int, role: str) -> None:
    domain, _, kind = operator.rpartition(" ")
    assert role_of(ir.Node(domain, kind, []), index, 23) == role


def test_a_schema_is_that_of_the_opset() -> None:
    """Attention came with opset 23."""
    assert role_of(ir.Node("", "Attention", []), 0, 22) == "side"
