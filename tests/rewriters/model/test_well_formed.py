"""`rewriters.model.well_formed` and `rewriters.model.boundary`: malformed models are refused with a code.

That happens before anything of ours relies on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from atpatch_onnx import inspect_model, patch_model
from rewriters.errors import INVALID_MODEL, AtpatchError
from rewriters.finding.finder import find_sites
from rewriters.model import boundary, io as model_io
from rewriters.model.well_formed import check_well_formed
from tests.tiny import attention_model

CALLS = """
<ir_version: 9, opset_import: ["" : 17, "local" : 1]>
calls (float[b,4,4] x) => (float[b,4,4] y) {{ {0} }}
<domain: "local", opset_import: ["" : 17, "local" : 1]> F (a) => (b) {{ {1} }}
<domain: "local", opset_import: ["" : 17, "local" : 1]> G (a) => (b) {{ {2} }}
"""


def calls(*bodies: str) -> onnx.ModelProto:
    return parser.parse_model(CALLS.format(*bodies))


def many_calls(depth: int) -> onnx.ModelProto:
    """Each function calls the next one twice, so there are 2^depth calls."""
    model = attention_model()
    model.opset_import.append(helper.make_opsetid("local", 1))
    for level in range(depth):
        inner = f"f{level + 1}" if level + 1 < depth else "Relu"
        domain = "local" if level + 1 < depth else ""
        nodes = [helper.make_node(inner, [a], [b], domain=domain) for a, b in (("a", "m"), ("m", "b"))]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
        model.functions.append(helper.make_function("local", f"f{level}", ["a"], ["b"], nodes, opsets))
    model.graph.node.insert(0, helper.make_node("f0", ["x"], ["called"], domain="local"))
    return model


def named(model: onnx.ModelProto, old: str, new: bytes) -> bytes:
    """The file with a name replaced by bytes of the same length."""
    data = model.SerializeToString()
    assert len(old) == len(new)
    assert old.encode() in data
    return data.replace(old.encode(), new)


def tensor(**fields: object) -> Callable[[], onnx.ModelProto]:
    def make() -> onnx.ModelProto:
        model = attention_model()
        model.graph.initializer.append(TensorProto(name="odd", **fields))
        return model

    return make


def duplicate_output(unsorted: bool) -> onnx.ModelProto:
    model = attention_model()
    model.graph.node.append(helper.make_node("Identity", ["x"], ["layers.0.q_flat"]))
    if unsorted:
        model.graph.node.insert(0, helper.make_node("Identity", ["layers.0.scaled"], ["early"]))
    return model


def initializer_twice() -> onnx.ModelProto:
    model = attention_model()
    model.graph.initializer.append(model.graph.initializer[0])
    return model


def initializer_made_by_a_node() -> onnx.ModelProto:
    model = attention_model()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "layers.0.q_flat"))
    return model


F32 = TensorProto.FLOAT
CASES: dict[str, Callable[[], onnx.ModelProto]] = {
    "value made twice": lambda: duplicate_output(False),
    "value made twice, nodes unsorted": lambda: duplicate_output(True),
    "initializer twice": initializer_twice,
    "initializer that a node makes": initializer_made_by_a_node,
    "unknown tensor type": tensor(data_type=99, dims=[1], raw_data=b"1234"),
    "undefined tensor type": tensor(data_type=0, dims=[1], raw_data=b"1234"),
    "negative dimension": tensor(data_type=F32, dims=[-1], raw_data=b"1234"),
    "short raw data": tensor(data_type=TensorProto.INT64, dims=[2], raw_data=b"12345678"),
    "long raw data": tensor(data_type=F32, dims=[1], raw_data=b"12345678"),
    "short typed data": tensor(data_type=TensorProto.INT64, dims=[3], int64_data=[1, 2]),
    "no data": tensor(data_type=F32, dims=[3]),
    "short strings": tensor(data_type=TensorProto.STRING, dims=[2], string_data=[b"x"]),
    "short half bytes": tensor(data_type=TensorProto.INT4, dims=[5], raw_data=b"12"),
    "unknown external type": tensor(data_type=99, dims=[1], data_location=TensorProto.EXTERNAL),
    "function that calls itself": lambda: calls("y = local.F (x)", "b = local.F (a)", "b = Relu (a)"),
    "functions in a circle": lambda: calls("y = local.F (x)", "b = local.G (a)", "b = local.F (a)"),
    "functions written out without end": lambda: many_calls(40),
}
SOUND: dict[str, Callable[[], onnx.ModelProto]] = {
    "functions": lambda: calls("y = local.F (x)", "b = local.G (a)", "b = Relu (a)"),
    "sixteen thousand nodes when written out": lambda: many_calls(13),
    "complex": tensor(data_type=TensorProto.COMPLEX64, dims=[2], float_data=[1, 2, 3, 4]),
    "half bytes": tensor(data_type=TensorProto.INT4, dims=[5], raw_data=b"123"),
    "half bytes as numbers": tensor(data_type=TensorProto.INT4, dims=[5], int32_data=[1, 2, 3]),
    "half precision as numbers": tensor(data_type=TensorProto.FLOAT16, dims=[2], int32_data=[1, 2]),
    "empty": tensor(data_type=F32, dims=[0], raw_data=b""),
    "empty, no field": tensor(data_type=F32, dims=[0]),
    "strings": tensor(data_type=TensorProto.STRING, dims=[], string_data=[b"\xff"]),
}


def refusals(model: onnx.ModelProto, tmp_path) -> set[str]:
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    found = set()
    for action in (
        lambda: model_io.load(tmp_path / "m.onnx"),
        lambda: inspect_model(model),
        lambda: patch_model(model, detector="statistic"),
        lambda: patch_model(tmp_path / "m.onnx", detector="statistic"),
    ):
        with pytest.raises(AtpatchError) as caught:
            action()
        found.add(caught.value.code)
        assert len(str(caught.value)) < 700
    return found


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_malformed_models_are_refused_in_every_form(tmp_path, make):
    assert refusals(make(), tmp_path) == {"ATP005"}


@pytest.mark.parametrize("make", SOUND.values(), ids=SOUND)
def test_sound_ones_pass(make):
    check_well_formed(make())


@pytest.mark.parametrize("name", ["layers.0.scores", "batch", "tiny", "scale"])
def test_names_that_are_not_text(tmp_path, atpatch, name):
    """Of values, dimensions, the producer, tensors."""
    (tmp_path / "m.onnx").write_bytes(named(attention_model(), name, b"\xff\xfe" + name.encode()[2:]))
    for arguments in (["inspect"], ["patch", "--detector", "statistic"], ["diff", tmp_path / "m.onnx"]):
        run = atpatch(arguments[0], tmp_path / "m.onnx", *arguments[1:])
        assert (run.code, run.err.split(":")[0], run.out) == (2, "error ATP001", "")


def test_libraries_errors_become_the_innermost_cause():
    def library() -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise RuntimeError("outer") from error

    with pytest.raises(AtpatchError, match="it failed: 'inner'"):
        boundary.call(INVALID_MODEL, "it failed", library)


def test_a_fault_of_our_own_stays_one(monkeypatch):
    """The boundary is around calls into libraries only."""
    monkeypatch.setattr("rewriters.finding.finder.build_view", lambda model: {}["bug"])
    with pytest.raises(KeyError, match="bug"):
        inspect_model(attention_model())


def test_values_that_are_no_numbers():
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[b,2,s,4] q, float[b,2,4,s] k, float[b,2,s,4] v) => (string[b,2,s,4] o)
    { s = MatMul (q, k) p = Softmax <axis = -1> (s) c = Cast <to = 8> (p) o = MatMul (c, v) }""")
    with pytest.raises(AtpatchError, match=r"ATP010|ATP023"):
        patch_model(model, detector="static", columns=(1,))


@pytest.mark.parametrize("op_type", ["Concat", "Mul"])
def test_contents_of_shapes_are_followed_only_while_they_stay_small(op_type):
    """A chain of Concat doubles them at every step, one of Mul squares them; both took minutes and gigabytes."""
    model = attention_model()
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**62, 3], np.int64), "s0"))
    for step in range(40):
        axis = {"axis": 0} if op_type == "Concat" else {}
        model.graph.node.insert(step, helper.make_node(op_type, [f"s{step}"] * 2, [f"s{step + 1}"], **axis))
    started = time.monotonic()
    patch_model(model, detector="statistic")
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    "body",
    [
        "t = Transpose <perm = [0, 1, 3]> (q) s = MatMul (q, k)",
        "t = Transpose <perm = [0, 9, 3, 1]> (q) s = MatMul (q, k)",
        "t = Unsqueeze <axes = [1, 1]> (q) s = MatMul (q, k)",
        "t = ReduceSum <axes = [3], keepdims = 0> (q) u = ReduceMax <axes = [7]> (t) s = MatMul (q, k)",
        "t = com.microsoft.GroupQueryAttention <num_heads = 0, kv_num_heads = 0> (q, '', '') s = MatMul (q, k)",
        "t = com.microsoft.Attention <qkv_hidden_sizes = [1]> (q, k) s = MatMul (q, k)",
    ],
)
def test_nonsense_off_the_way_leaves_sites_findable(body):
    """Axes and sizes that no runtime would take give unknown shapes, not an exception."""
    text = f"""<ir_version: 8, opset_import: ["" : 12, "com.microsoft" : 1]>
    g (float[b,2,s,4] q, float[b,2,4,s] k, float[b,2,s,4] v) => (float[b,2,s,4] o)
    {{ {body} p = Softmax <axis = 3> (s) o = MatMul (p, v) }}"""
    model = parser.parse_model(text.replace("''", ""))
    assert len(find_sites(model)[0]) == 1


@pytest.mark.parametrize("text", ["y = GatherND<batch_dims = -3>(x, i)", "y = Split<num_outputs = 2147483648>(x)"])
def test_numbers_on_which_shape_inference_crashes_or_hangs_are_refused(text: str) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> g (float[2,2] x, int64[1] i) => (float[a] y) {{ {text} }}'
    )
    with pytest.raises(AtpatchError, match="ATP005"):
        check_well_formed(model)
