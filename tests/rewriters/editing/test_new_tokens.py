"""Which token stands where once the flagged ones have left a call, against a loop over tokens."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rewriters.editing.new_tokens import closed_up
from rewriters.emit import ConstantPool, Emitter

from ..running import run_all

CALLS, TOKENS = 300, 9


def places(flags: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """What the graph says, (B, S)."""
    feeds = {"numbers": np.tile(np.arange(TOKENS), (len(flags), 1)), "flags": flags}
    feeds |= {} if valid is None else {"valid": valid}
    graph = onnx.GraphProto(name="tokens")
    e = Emitter("site", 17, ConstantPool(graph.initializer, "constant"), {})
    made = closed_up(e, "numbers", "flags", None if valid is None else "valid")
    graph.node.extend(e.nodes)
    for name, array in feeds.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        graph.input.append(helper.make_tensor_value_info(name, kind, ["B", "S"]))
    graph.output.append(helper.make_tensor_value_info(made, TensorProto.INT64, None))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return run_all(model, feeds)[made]


@pytest.mark.parametrize("padded", [False, True])
def test_the_others_keep_their_order_and_come_last(padded: bool) -> None:
    generator = np.random.default_rng(0)
    valid = generator.random((CALLS, TOKENS)) < (0.8 if padded else 1)
    flags = (generator.random((CALLS, TOKENS)) < generator.random((CALLS, 1))) & valid
    found = places(flags, valid if padded else None)
    assert (flags == valid).all(1).any() and (~flags).all(1).any(), "all flagged, nothing flagged"
    for source, flagged, real in zip(found, flags, valid, strict=True):
        before, kept = np.flatnonzero(real).tolist(), np.flatnonzero(real & ~flagged).tolist()
        after = [kept[0]] * (len(before) - len(kept)) + kept if kept else before
        assert source[real].tolist() == after
        assert np.array_equal(source[~real], np.flatnonzero(~real)), "padding stays"
