"""Which tokens leave a call, and which one stands where then, against a loop over tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper

from rewriters.editing.new_tokens import closed_up, with_equal_ones
from rewriters.emit import ConstantPool, Emitter

from ..running import run_all

CALLS, TOKENS = 300, 9


def said(emit: Callable[..., str], feeds: dict[str, np.ndarray | None]) -> np.ndarray:
    """What a graph of these inputs says, (B, S)."""
    graph = onnx.GraphProto(name="tokens")
    e = Emitter("site", 17, ConstantPool(graph.initializer, "constant"), {})
    made = emit(e, *(None if array is None else name for name, array in feeds.items()))
    graph.node.extend(e.nodes)
    feeds = {name: array for name, array in feeds.items() if array is not None}
    for name, array in feeds.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        graph.input.append(helper.make_tensor_value_info(name, kind, ["B", "S"]))
    graph.output.append(helper.make_empty_tensor_value_info(made))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return run_all(model, feeds)[made]


@pytest.mark.parametrize("padded", [False, True])
def test_the_others_keep_their_order_and_come_last(padded: bool) -> None:
    generator = np.random.default_rng(0)
    valid = generator.random((CALLS, TOKENS)) < (0.8 if padded else 1)
    flags = (generator.random((CALLS, TOKENS)) < generator.random((CALLS, 1))) & valid
    numbers = np.tile(np.arange(TOKENS), (CALLS, 1))
    feeds = {"numbers": numbers, "flags": flags, "valid": valid if padded else None}
    found = said(lambda e, *names: closed_up(e, *names).source, feeds)
    assert (flags == valid).all(1).any() and (~flags).all(1).any(), "all flagged, nothing flagged"
    for source, flagged, real in zip(found, flags, valid, strict=True):
        before, kept = np.flatnonzero(real).tolist(), np.flatnonzero(real & ~flagged).tolist()
        after = [kept[0]] * (len(before) - len(kept)) + kept if kept else before
        assert source[real].tolist() == after
        assert np.array_equal(source[~real], np.flatnonzero(~real)), "padding stays"


@pytest.mark.parametrize("padded", [False, True])
def test_positions_begin_behind_the_gap(padded: bool) -> None:
    generator = np.random.default_rng(2)
    valid = generator.random((CALLS, TOKENS)) < (0.8 if padded else 1)
    flags = (generator.random((CALLS, TOKENS)) < generator.random((CALLS, 1))) & valid
    numbers = np.tile(np.arange(TOKENS), (CALLS, 1))
    feeds = {"numbers": numbers, "flags": flags, "valid": valid if padded else None}
    found = said(lambda e, *names: closed_up(e, *names).counted(e, names[0]), feeds)
    for counted, flagged, real in zip(found, flags, valid, strict=True):
        places, kept = np.flatnonzero(real).tolist(), int((real & ~flagged).sum())
        gap = len(places) - kept if kept else 0
        assert counted[real].tolist() == [-1] * gap + places[: len(places) - gap]
        assert gap or np.array_equal(counted, np.arange(TOKENS)), "nothing moves"


@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize("padded", [False, True])
def test_equal_tokens_of_one_call_leave_together(padded: bool, kind: type) -> None:
    generator = np.random.default_rng(1)
    valid = generator.random((CALLS, TOKENS)) < (0.8 if padded else 1)
    first = valid & (valid.cumsum(1) == 1) & (generator.random((CALLS, 1)) < 0.5)
    flags = (generator.random((CALLS, TOKENS)) < 0.2) & valid & ~first
    ids = generator.integers(0, 12, (CALLS, TOKENS)).astype(kind)
    found = said(with_equal_ones, {"flags": flags, "ids": ids, "valid": valid if padded else None, "first": first})
    for got, flagged, tokens, may in zip(found, flags, ids, valid & ~first, strict=True):
        out = set(tokens[flagged].tolist())
        assert got.tolist() == [token in out and bool(one) for token, one in zip(tokens.tolist(), may, strict=True)]
