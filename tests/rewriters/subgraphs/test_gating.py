"""The If that decides between the original and the redistribution."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from rewriters.emit import Emitter
from rewriters.subgraphs.gating import Branch, gate

from .emitted import ran


@pytest.mark.parametrize("fires", [True, False])
def test_both_branches_give_all_results(fires: bool) -> None:
    def emit(e: Emitter) -> str:
        then, otherwise = e.branch(), e.branch()
        kinds = [int(TensorProto.FLOAT), int(TensorProto.BOOL)]
        gate(
            e, "c",
            Branch(then, [then.op("Neg", "x"), then.op("Not", "b")], kinds),
            Branch(otherwise, [otherwise.op("Abs", "x"), otherwise.op("Identity", "b")], kinds),
            ["first", "second"],
        )  # fmt: skip
        (node,) = e.nodes
        assert node.name == "atpatch/site/gate" and list(node.input) == ["c"]
        return e.op("Where", "second", "first", e.constant(0.0))

    x, b = np.float32([-1, 2]), np.array([True, False])
    got = ran(emit, c=np.array(fires), x=x, b=b)
    assert got.tolist() == ([0, -2] if fires else [1, 0])


def test_a_result_without_a_type_is_refused() -> None:
    def emit(e: Emitter) -> str:
        then = e.branch()
        gate(e, "c", Branch(then, [then.op("Neg", "x")], []), Branch(then, [], []), ["first"])
        return "first"

    with pytest.raises(ValueError, match="shorter"):
        ran(emit, c=np.array(True), x=np.ones(1, np.float32))
