"""What a request may hold is counted on its bytes: what a client may send passes, what no model of these inputs can
take does not.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, strategies as st

from atpatch_onnx.serve.bounds import largest_message, most_elements, require_few_values, require_small_message
from atpatch_onnx.serve.grpc_messages import message_class
from atpatch_onnx.serve.limits import Limits, Refusal
from atpatch_onnx.serve.tensors import TensorSpec

from .attacks import GRPC, HEAD, part, tensor, varint

X, S = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("s", "BYTES", (-1, 3))
INPUTS, OUTPUTS, LIMITS = (X, S), (X,), Limits(batch=8)


def look(message: bytes) -> None:
    require_small_message(message, INPUTS, OUTPUTS, LIMITS)


def request(rows: int, raw: bool) -> Any:
    message = message_class("ModelInferRequest")(model_name="model", model_version="2", id="i")
    message.parameters.add(key="unit").value.string_param = "u"
    for spec in INPUTS:
        tensor = message.inputs.add(name=spec.name, datatype=spec.datatype, shape=(rows, *spec.shape[1:]))
        tensor.parameters.add(key="k").value.int64_param = -1
        if raw:
            message.raw_input_contents.append(b"\0" * rows * 16)
        elif spec is X:
            tensor.contents.fp32_contents.extend([1.5] * rows * 4)
        else:
            tensor.contents.bytes_contents.extend([b"text"] * rows * 3)
    message.outputs.add(name="x").parameters.add(key="k").value.bool_param = True
    return message


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("raw", [True, False])
def test_whatever_a_client_may_send_passes(rows: int, raw: bool) -> None:
    message = request(rows, raw).SerializeToString()
    look(message)
    assert len(message) < largest_message(INPUTS, LIMITS)


def test_a_number_by_itself_counts_as_one() -> None:
    # shape and fp32_contents, not packed
    look(HEAD + part(5, part(1, b"x") + b"\x18\1\x18\4" + part(5, b"\x35" + b"\0" * 4)))


def test_elements_are_those_of_all_open_dimensions() -> None:
    assert most_elements(INPUTS, LIMITS) == 8 * 4 + 8 * 3
    assert most_elements([TensorSpec("ids", "INT64", (-1, -1))], Limits(batch=2, sequence=5)) == 10


@pytest.mark.parametrize("name", GRPC)
def test_floods_are_refused_at_once(name: str) -> None:
    message = GRPC[name]()
    started = time.perf_counter()
    if len(message) <= largest_message(INPUTS, LIMITS):  # else grpc itself refuses it
        with pytest.raises(Refusal):
            look(message)
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (part(5, b"") * 3, "repeats field 5"),
        (part(6, b"") * 2, "repeats field 6"),
        (part(7, b"") * 3, "repeats field 7"),
        (part(4, b"") * 65, "repeats field 4"),
        (part(3, b"i") * 65, "more often"),
        (part(9, b"i") * 65, "more often"),
        (part(5, part(5, b"") * 2), "repeats field 5"),
        (part(5, part(3, b"\1") * 65), "more often"),
        (part(6, part(2, b"") * 65), "repeats field 2"),
        (part(3, b"i" * 70_000), "70000 bytes"),
        (part(4, b"i" * 70_000), "70000 bytes"),
        (tensor("x", "FP32", [1], b"").replace(b"x", b"x" * 70_000), "cut off"),
        (tensor("x", "FP32", [8, 4], part(6, b"\0" * 4 * 57)), "more than 56 elements"),
        (tensor("x", "FP64", [8, 4], part(7, b"\0" * 8 * 57)), "more than 56 elements"),
        (tensor("x", "INT64", [8, 4], part(3, b"\xff\1" * 57)), "more than 56 elements"),
        (tensor("s", "BYTES", [8, 3], part(8, b"") * 57), "more than 56 elements"),
        (tensor("x", "FP32", [8, 4], b"\x35\0\0\0\0" * 57), "more than 56 elements"),
        (tensor("x", "INT64", [8, 4], part(3, b"\1" * 9 * 2**20)), "send large tensors raw"),
        (b"\x0b", "no protobuf"),
        (b"\x0a", "cut off"),
        (b"\x0a\x05abc", "cut off"),
        (b"\x0d\0\0", "cut off"),
        (b"\xff" * 20, "no protobuf"),
        (b"\x0a" + b"\xff" * 9 + b"\1", "cut off"),
    ],
)
def test_what_is_refused(message: bytes, words: str) -> None:
    with pytest.raises(Refusal, match=words) as refusal:
        look(message)
    assert refusal.value.status in (400, 413)


@given(st.binary(max_size=200))
def test_any_bytes_pass_or_are_refused(data: bytes) -> None:
    for message in (
        data,
        HEAD + part(5, data),
        HEAD + part(5, part(5, data)),
        request(1, False).SerializeToString() + data,
    ):
        try:
            look(message)
        except Refusal as refusal:
            assert refusal.status in (400, 413)


@given(st.integers(0, 2**64 - 1))
def test_varints_are_those_of_protobuf(number: int) -> None:
    entry = message_class("InferParameterEntry")(key="k")
    entry.value.uint64_param = number
    assert entry.SerializeToString() == part(1, b"k") + part(2, b"\x28" + varint(number)) if number else True


def test_json_is_counted_outside_its_strings() -> None:
    most = 8 * 4 + 8 * 3 + 4096
    commas = json.dumps({"s": ['a,b\\",,,' * 2000, 'x",",' * 2000]}).encode()
    assert commas.count(b",") > most
    require_few_values(commas, INPUTS, LIMITS)
    require_few_values(b"," * most, INPUTS, LIMITS)
    for text in (b"," * (most + 1), b'"",' * (most + 1), b'{"a":' + b"{}," * (most + 1) + b'"'):
        with pytest.raises(Refusal, match="the inputs cannot have as many") as refusal:
            require_few_values(text, INPUTS, LIMITS)
        assert refusal.value.status == 413


@pytest.mark.parametrize(
    "text", [b'"\\' * 2**22, b'\\"' * 2**22, b'"' + b'\\"' * 2**22, b'",' * 2**22, b"," * 2**20 + b'"' * 2**22]
)
def test_counting_takes_no_longer_for_odd_strings(text: bytes) -> None:
    started = time.perf_counter()
    try:
        require_few_values(b"," * 10_000 + text, INPUTS, LIMITS)
    except Refusal as refusal:
        assert refusal.status == 413
    assert time.perf_counter() - started < 3


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_count_is_never_above_what_is_there(value: Any) -> None:
    def values(tree: Any) -> int:
        if isinstance(tree, dict | list):
            return 1 + sum(values(inner) for inner in (tree.values() if isinstance(tree, dict) else tree))
        return 1

    spec, limits = [TensorSpec("x", "FP32", (-1,))], Limits(batch=max(1, values(value)))
    require_few_values(json.dumps([value, "," * 5000]).encode(), spec, limits)
