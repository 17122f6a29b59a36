"""Bytes ⇄ arrays: every datatype both ways, and a refusal for everything that is wrong."""

import gzip
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from atpatch_onnx.serve.limits import Limits, Refusal, decompress
from atpatch_onnx.serve.protocol import Wanted, parse_request, render_response
from atpatch_onnx.serve.tensors import NUMPY_TYPES, TensorSpec

NUMBERS = [datatype for datatype in NUMPY_TYPES if datatype != "BYTES"]


def parse(
    body: bytes, datatype: str = "FP32", shape: tuple[int, ...] = (-1, -1), length: str | None = None, **limits: int
) -> Any:
    specs = [TensorSpec("x", datatype, shape)]
    return parse_request(body, length, specs, [TensorSpec("y", datatype, shape)], Limits(**limits), batchable=True)


def raw(entry: dict[str, Any], data: bytes, **more: Any) -> tuple[bytes, str]:
    head = json.dumps(
        {"inputs": [{"name": "x", "parameters": {"binary_data_size": len(data)}, **entry}], **more}
    ).encode()
    return head + data, str(len(head))


@given(st.data())
def test_binary_there_and_back(data: st.DataObject) -> None:
    datatype = data.draw(st.sampled_from(NUMBERS))
    array = data.draw(hnp.arrays(NUMPY_TYPES[datatype], hnp.array_shapes(min_dims=2, max_dims=2, max_side=4)))
    body, length = raw({"datatype": datatype, "shape": list(array.shape)}, array.tobytes())
    found = parse(body, datatype, length=length, non_finite=True).feeds["x"]
    assert found.dtype == array.dtype and found.tobytes() == array.tobytes() and found.shape == array.shape
    content, split = render_response({}, {"y": found}, {"y": TensorSpec("y", datatype, (-1, -1))}, [Wanted("y", True)])
    assert content[split:] == array.tobytes()


@given(st.data())
def test_json_there_and_back(data: st.DataObject) -> None:
    datatype = data.draw(st.sampled_from(NUMBERS))
    elements = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else {}
    dtype = NUMPY_TYPES[datatype]
    array = data.draw(
        hnp.arrays(
            dtype, hnp.array_shapes(min_dims=2, max_dims=2, max_side=4), elements=hnp.from_dtype(dtype, **elements)
        )
    )
    spec = TensorSpec("y", datatype, (-1, -1))
    content, split = render_response({}, {"y": array}, {"y": spec}, [Wanted("y", False)])
    assert split is None
    flat = json.loads(content)["outputs"][0]["data"]
    for given_data in (flat, array.tolist()):
        entry = {"name": "x", "datatype": datatype, "shape": list(array.shape), "data": given_data}
        found = parse(json.dumps({"inputs": [entry]}).encode(), datatype).feeds["x"]
        assert found.dtype == array.dtype and found.tobytes() == array.tobytes()


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_strings_there_and_back(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    data = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)
    body, length = raw({"datatype": "BYTES", "shape": [len(texts), 1]}, data)
    found = parse(body, "BYTES", length=length).feeds["x"]
    assert found.ravel().tolist() == texts
    content, split = render_response({}, {"y": found}, {"y": TensorSpec("y", "BYTES", (-1, 1))}, [Wanted("y", True)])
    assert content[split:] == data


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_inputs_are_refused_unless_allowed(datatype: str, value: float) -> None:
    array = np.array([[1, value]], NUMPY_TYPES[datatype])
    as_json = json.dumps(
        {"inputs": [{"name": "x", "datatype": datatype, "shape": [1, 2], "data": array.tolist()}]}
    ).encode()
    for body, length in (raw({"datatype": datatype, "shape": [1, 2]}, array.tobytes()), (as_json, None)):
        with pytest.raises(Refusal, match="holds NaN or infinity") as refusal:
            parse(body, datatype, length=length)
        assert refusal.value.status == 400
        assert parse(body, datatype, length=length, non_finite=True).feeds["x"].tobytes() == array.tobytes()


def test_numbers_beyond_the_datatype_are_infinity_and_refused() -> None:
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1e300]}]}).encode()
    with pytest.raises(Refusal, match="holds NaN or infinity"):
        parse(body)


def test_bool_bytes_become_true_bools() -> None:
    body, length = raw({"datatype": "BOOL", "shape": [1, 3]}, b"\x00\x01\xff")
    assert parse(body, "BOOL", length=length).feeds["x"].view(np.uint8).tolist() == [[0, 1, 1]]


def test_several_inputs_mixed_and_unaligned() -> None:
    specs = [TensorSpec("a", "UINT8", (-1,)), TensorSpec("b", "FP64", (-1,)), TensorSpec("c", "INT64", (-1,))]
    entries = [
        {"name": "a", "datatype": "UINT8", "shape": [3], "parameters": {"binary_data_size": 3}},
        {"name": "c", "datatype": "INT64", "shape": [3], "data": [1, 2, 3]},
        {"name": "b", "datatype": "FP64", "shape": [3], "parameters": {"binary_data_size": 24}},
    ]
    head = json.dumps({"id": "7", "inputs": entries}).encode()
    body = head + bytes([1, 2, 3]) + np.array([1.5, 2.5, 3.5]).tobytes()
    found = parse_request(body, str(len(head)), specs, specs, Limits(), batchable=True)
    assert found.id == "7" and found.samples == 3
    assert found.feeds["b"].tolist() == [1.5, 2.5, 3.5] and found.feeds["b"].flags.aligned
    assert found.wanted == (Wanted("a", False), Wanted("b", False), Wanted("c", False))


GOOD: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
WRONG: dict[str, tuple[Any, int, str]] = {
    "not JSON": (b"{", 400, "not JSON"),
    "not UTF-8": (b"\xff\xfe{}", 400, "not JSON"),
    "endless nesting": (b"[" * 200_000, 400, "not JSON"),
    "a number": (b"1", 400, "must be a JSON object"),
    "no inputs": ({}, 400, "'inputs' must be"),
    "inputs no list": ({"inputs": {"x": 1}}, 400, "'inputs' must be"),
    "input without a name": ({"inputs": [{**GOOD, "name": 3}]}, 400, "with a name"),
    "unknown input": ({"inputs": [{**GOOD, "name": "y"}]}, 400, "no input 'y'"),
    "input twice": ({"inputs": [GOOD, GOOD]}, 400, "twice"),
    "missing input": ({"inputs": []}, 400, "x is missing"),
    "datatype": ({"inputs": [{**GOOD, "datatype": "INT64"}]}, 400, "is FP32, not INT64"),
    "datatype of another kind": ({"inputs": [{**GOOD, "datatype": ["FP32"]}]}, 400, "is FP32"),
    "rank": ({"inputs": [{**GOOD, "shape": [2]}]}, 400, "has shape"),
    "fixed dimension": ({"inputs": [{**GOOD, "shape": [2, 1]}]}, 400, "has shape [-1, 2]"),
    "zero": ({"inputs": [{**GOOD, "shape": [0, 2], "data": []}]}, 400, "positive"),
    "negative": ({"inputs": [{**GOOD, "shape": [-1, 2]}]}, 400, "positive"),
    "fraction": ({"inputs": [{**GOOD, "shape": [1.0, 2]}]}, 400, "positive"),
    "true for 1": ({"inputs": [{**GOOD, "shape": [True, 2]}]}, 400, "positive"),
    "too few": ({"inputs": [{**GOOD, "data": [1]}]}, 400, "does not have shape"),
    "ragged": ({"inputs": [{**GOOD, "data": [[1], [1, 2]]}]}, 400, "ragged"),
    "nested otherwise": ({"inputs": [{**GOOD, "data": [[1], [2]]}]}, 400, "does not have shape"),
    "half nested": ({"inputs": [{**GOOD, "data": [[1], 2]}]}, 400, "ragged"),
    "text for numbers": ({"inputs": [{**GOOD, "data": ["1", "2"]}]}, 400, "no FP32"),
    "null": ({"inputs": [{**GOOD, "data": [1, None]}]}, 400, "no FP32"),
    "truth for numbers": ({"inputs": [{**GOOD, "data": [1, True]}]}, 400, "no FP32"),
    "number too large": ({"inputs": [{**GOOD, "data": [10**400, 1]}]}, 400, "cannot"),
    "no data": ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2]}]}, 400, "must be a list"),
    "data no list": ({"inputs": [{**GOOD, "data": "12"}]}, 400, "must be a list"),
    "id no string": ({"id": 3, "inputs": [GOOD]}, 400, "'id'"),
    "id too long": ({"id": "x" * 2000, "inputs": [GOOD]}, 400, "'id'"),
    "parameters no object": ({"parameters": [], "inputs": [GOOD]}, 400, "parameters"),
    "shared memory": ({"inputs": [{**GOOD, "parameters": {"shared_memory_region": "r"}}]}, 400, "not supported"),
    "unknown output": ({"inputs": [GOOD], "outputs": [{"name": "z"}]}, 400, "no output 'z'"),
    "classification": (
        {"inputs": [GOOD], "outputs": [{"name": "y", "parameters": {"classification": 2}}]},
        400,
        "not supported",
    ),
    "binary_data no bool": (
        {"inputs": [GOOD], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
        400,
        "true or false",
    ),
    "size without bytes": ({"inputs": [{**GOOD, "parameters": {"binary_data_size": 8}}]}, 400, "0 are left"),
    "both": ({"inputs": [{**GOOD, "parameters": {"binary_data_size": 0}}]}, 400, "both"),
    "batch": ({"inputs": [{**GOOD, "shape": [65, 2], "data": [0] * 130}]}, 413, "64 are allowed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_refused(case: str) -> None:
    given_body, status, words = WRONG[case]
    body = given_body if isinstance(given_body, bytes) else json.dumps(given_body).encode()
    with pytest.raises(Refusal) as refusal:
        parse(body, shape=(-1, 2))
    assert refusal.value.status == status and words in refusal.value.message


@pytest.mark.parametrize("length", ["-1", "x", "999", "٣", "1e1", "9" * 30])
def test_wrong_header_length(length: str) -> None:
    with pytest.raises(Refusal, match="Inference-Header-Content-Length"):
        parse(json.dumps({"inputs": [GOOD]}).encode(), length=length)


@pytest.mark.parametrize(("data", "words"), [(b"1234567", "needs 8 bytes"), (b"123456789", "needs 8 bytes")])
def test_binary_of_the_wrong_size(data: bytes, words: str) -> None:
    body, length = raw({"datatype": "FP32", "shape": [1, 2]}, data)
    with pytest.raises(Refusal, match=words):
        parse(body, length=length)


def test_binary_cut_off_and_left_over() -> None:
    body, length = raw({"datatype": "FP32", "shape": [1, 2]}, b"12345678")
    with pytest.raises(Refusal, match="7 are left"):
        parse(body[:-1], length=length)
    with pytest.raises(Refusal, match="1 bytes of the body belong to no input"):
        parse(body + b"x", length=length)


@pytest.mark.parametrize("data", [b"\x05\0\0\0abc", b"\x01\0", b"\x02\0\0\0\xff\xff", b"\xff\xff\xff\xff"])
def test_wrong_strings(data: bytes) -> None:
    body, length = raw({"datatype": "BYTES", "shape": [1, 1]}, data)
    with pytest.raises(Refusal) as refusal:
        parse(body, "BYTES", length=length)
    assert refusal.value.status == 400


def test_json_limit() -> None:
    with pytest.raises(Refusal, match="send large tensors raw"):
        parse(json.dumps({"inputs": [GOOD]}).encode(), json=10)


def test_compressed_bodies() -> None:
    plain = b"a" * 1000
    assert decompress(gzip.compress(plain), "gzip", 1000) == plain == decompress(zlib.compress(plain), "deflate", 1000)
    for body, encoding, status in [
        (gzip.compress(plain), "gzip", 413),
        (b"junk", "gzip", 400),
        (gzip.compress(plain)[:-9], "gzip", 400),
        (gzip.compress(plain) + b"x", "gzip", 400),
        (plain, "br", 415),
    ]:
        with pytest.raises(Refusal) as refusal:
            decompress(body, encoding, 999 if status == 413 else 10_000)
        assert refusal.value.status == status
