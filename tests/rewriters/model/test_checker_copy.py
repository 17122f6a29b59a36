"""What onnxruntime runs is usable, whatever the onnx checker says;
and one function says so for every command and form.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from atpatch_onnx import diff_models, inspect_model, patch_model, unpatch_model
from rewriters.errors import AtpatchError
from rewriters.model import io as model_io
from rewriters.model.checker_copy import RUNTIME_OPERATORS
from tests.tiny import attention_model, save_external

X = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)


def run(model: onnx.ModelProto) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    (output,) = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
        None, {"x": X}
    )
    return np.asarray(output)


def behind(op_type: str, opset: int = 17, domain: str = "", **attributes: object) -> onnx.ModelProto:
    """An attention layer whose result goes through one more operator."""
    model = attention_model(opset=opset)
    model.graph.node[-1].output[0] = "attended"
    inputs = ["attended"]
    if "Normalization" in op_type and op_type != "MeanVarianceNormalization":
        inputs += ["weight", "weight"] if op_type == "GroupNormalization" else ["weight"]
        size = 1 if op_type == "GroupNormalization" else 8
        model.graph.initializer.append(numpy_helper.from_array(np.linspace(0.5, 1.5, size, dtype=np.float32), "weight"))
    model.graph.node.append(helper.make_node(op_type, inputs, ["y"], domain=domain, **attributes))
    return model


def in_function(op_type: str, opset: int, function_opset: int) -> onnx.ModelProto:
    model = behind(op_type, opset)
    node = model.graph.node[-1]
    inner = helper.make_node(op_type, ["a", "b"], ["c"])
    model.functions.append(
        helper.make_function("local", "Norm", ["a", "b"], ["c"], [inner], [helper.make_opsetid("", function_opset)])
    )
    node.op_type, node.domain = "Norm", "local"
    model.opset_import.add(domain="local", version=1)
    return model


def edited(edit: Callable[[onnx.ModelProto], object], opset: int = 17) -> onnx.ModelProto:
    model = attention_model(opset=opset)
    edit(model)
    return model


def named_domain(node: bool, imported: bool) -> onnx.ModelProto:
    model = attention_model()
    for one in (*(model.graph.node if node else ()), *(model.opset_import if imported else ())):
        one.domain = "ai.onnx"
    return model


def below_ir_4(model: onnx.ModelProto) -> None:
    model.ir_version = 3


# id → a model that onnxruntime runs and that the onnx checker refuses
REFUSED_BY_THE_CHECKER: dict[str, Callable[[], onnx.ModelProto]] = {
    "layer-normalization-below-17": lambda: behind("LayerNormalization", 14),
    "simplified-layer-normalization": lambda: behind("SimplifiedLayerNormalization"),
    "group-normalization-deprecated": lambda: behind("GroupNormalization", 18, num_groups=1),
    "layer-normalization-below-17-in-a-newer-function": lambda: in_function("LayerNormalization", 14, 17),
    "operator-domain-written-out": lambda: named_domain(True, False),
    "both-domains-written-out": lambda: named_domain(True, True),
    "domain-not-imported": lambda: behind("Gelu", domain="com.microsoft"),
    "graph-without-a-name": lambda: edited(lambda m: m.graph.ClearField("name")),
    "output-without-a-shape": lambda: edited(lambda m: m.graph.output[0].type.tensor_type.ClearField("shape")),
    "output-without-a-type": lambda: edited(lambda m: m.graph.output[0].ClearField("type")),
    "input-without-a-shape": lambda: edited(lambda m: m.graph.input[0].type.tensor_type.ClearField("shape")),
    "ir-3-initializers-that-are-no-inputs": lambda: edited(below_ir_4),
}
each_refused = pytest.mark.parametrize("name", REFUSED_BY_THE_CHECKER)


@each_refused
@pytest.mark.parametrize("form", ["file", "external", "proto", "onnx_ir"])
def test_what_onnxruntime_runs_is_patched_and_restored(tmp_path: Path, name: str, form: str) -> None:
    model = REFUSED_BY_THE_CHECKER[name]()
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(model)
    expected = run(model)
    options = {"detector": "static", "benign": "zero"}
    if form in ("file", "external"):
        path = tmp_path / "model.onnx"
        if form == "external":
            save_external(model, path)
        else:
            onnx.save(model, path)
        assert len(inspect_model(path).sites) == 1
        patch_model(path, tmp_path / "silent.onnx", columns=(), **options)
        patch_model(path, tmp_path / "firing.onnx", columns=(1,), **options)
        unpatch_model(tmp_path / "firing.onnx", tmp_path / "back.onnx")
        assert diff_models(path, tmp_path / "back.onnx").identical
        assert (tmp_path / "back.onnx").read_bytes() == path.read_bytes()
        silent, firing = onnx.load(tmp_path / "silent.onnx"), onnx.load(tmp_path / "firing.onnx")
    else:
        held = model if form == "proto" else onnx_ir.from_proto(model)
        assert len(inspect_model(held).sites) == 1
        silent, firing = (
            made if isinstance(made, onnx.ModelProto) else onnx_ir.to_proto(made)
            for made in (patch_model(held, columns=columns, **options) for columns in ((), (1,)))
        )
    assert np.array_equal(run(silent), expected)
    assert not np.allclose(run(firing), expected)


def test_the_list_is_that_of_onnxruntime() -> None:
    """Every operator that onnxruntime has in the default domain at a version at which onnx has none, or a deprecated
    one.
    """
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    found = set()
    for schema in get_all_operator_schema():
        if schema.domain == "" and not (
            onnx.defs.has(schema.name, schema.since_version)
            and not onnx.defs.get_schema(schema.name, schema.since_version).deprecated
        ):
            found.add(schema.name)
    # those two have no kernel where onnx calls them deprecated
    assert found - {"Scatter", "Upsample"} == RUNTIME_OPERATORS


@pytest.mark.parametrize("op_type", ["SimplifiedLayerNormalisation", "LinearRegressor", "Attention_TRT"])
def test_an_operator_that_nobody_has_is_refused(op_type: str) -> None:
    model = behind(op_type)
    with pytest.raises(AtpatchError, match=op_type) as caught:
        model_io.check(model)
    assert caught.value.code == "ATP005"


def test_where_onnx_has_the_operator_the_checker_judges_it() -> None:
    """LayerNormalization needs a scale from opset 17 on."""
    model = behind("LayerNormalization", 17)
    del model.graph.node[-1].input[1]
    with pytest.raises(AtpatchError):
        model_io.check(model)


# id → a model that neither onnxruntime nor the checker takes
BROKEN: dict[str, Callable[[], onnx.ModelProto]] = {
    "unknown-operator": lambda: behind("NoSuchOperator"),
    "undefined-input": lambda: edited(lambda m: m.graph.node[3].input.__setitem__(0, "nowhere")),
    "no-ir-version": lambda: edited(lambda m: m.ClearField("ir_version")),
    "domain-not-imported-by-a-function": lambda: _function_without_import(),
}


def _function_without_import() -> onnx.ModelProto:
    model = behind("Norm", domain="local")
    inner = helper.make_node("Gelu", ["a"], ["c"], domain="com.microsoft")
    model.functions.append(helper.make_function("local", "Norm", ["a"], ["c"], [inner], [helper.make_opsetid("", 17)]))
    model.opset_import.add(domain="local", version=1)
    return model


@pytest.mark.parametrize("name", BROKEN)
def test_every_command_refuses_the_same_graphs_in_every_form(tmp_path: Path, name: str) -> None:
    model = BROKEN[name]()
    with pytest.raises(Exception, match=r"INVALID|FAIL"):
        run(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    codes = set()
    commands: list[Callable[..., object]] = [
        inspect_model,
        lambda held: patch_model(held, detector="static", columns=()),
        unpatch_model,
    ]
    for held in (path, model):
        # `diff` takes a graph in memory as it is: what is broken in it is what one looks for.
        for command in [*commands, *([lambda held: diff_models(held, held)] if held is path else [])]:
            with pytest.raises(AtpatchError) as caught:
                command(held)
            codes.add(caught.value.code)
    assert codes == {"ATP005"}


def test_the_checker_of_the_process_stays_as_it_was() -> None:
    model = behind("SimplifiedLayerNormalization")
    before = model.SerializeToString()
    model_io.check(model)
    assert model.SerializeToString() == before
    assert not onnx.defs.has("SimplifiedLayerNormalization")
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(model)


@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED"])
def test_a_graph_that_a_session_has_optimized_and_saved(tmp_path: Path, level: str) -> None:
    """onnxruntime fuses a normalization that opset 14 has to spell out, and writes LayerNormalization into the default
    domain.
    """
    model = attention_model(layers=2, opset=14)
    model.graph.node[-1].output[0] = "attended"
    value = {
        "two": np.float32(2),
        "eps": np.float32(1e-5),
        "g": np.ones(8, np.float32),
        "b": np.full(8, 0.1, np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in value.items())
    steps = [
        ("ReduceMean", ["attended"], "m"),
        ("Sub", ["attended", "m"], "c"),
        ("Pow", ["c", "two"], "s"),
        ("ReduceMean", ["s"], "v"),
        ("Add", ["v", "eps"], "e"),
        ("Sqrt", ["e"], "r"),
        ("Div", ["c", "r"], "n"),
        ("Mul", ["n", "g"], "w"),
        ("Add", ["w", "b"], "y"),
    ]
    for op_type, inputs, output in steps:
        attributes = {"axes": [-1]} if op_type == "ReduceMean" else {}
        model.graph.node.append(helper.make_node(op_type, inputs, [output], **attributes))
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    saved = onnx.load(tmp_path / "optimized.onnx")
    fused = [node for node in saved.graph.node if node.op_type == "LayerNormalization" and node.domain == ""]
    assert bool(fused) == (level == "ORT_ENABLE_EXTENDED")
    assert len(inspect_model(tmp_path / "optimized.onnx").sites) == 2
    silent = patch_model(saved, detector="static", columns=())
    assert np.array_equal(run(silent), run(saved))


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_fused_attention_is_found_under_both_names_of_the_domain(domain: str) -> None:
    shape = helper.make_tensor_value_info("q", TensorProto.FLOAT, ["B", 2, "S", 4])
    node = helper.make_node("Attention", ["q", "q", "q"], ["y"], domain=domain)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 2, "S", 4])
    model = helper.make_model(
        helper.make_graph([node], "g", [shape], [out]), opset_imports=[helper.make_opsetid("", 23)], ir_version=10
    )
    held = onnx.ModelProto.FromString(model.SerializeToString())
    feeds = {"q": np.random.default_rng(0).standard_normal((1, 2, 5, 4)).astype(np.float32)}

    def answer(of: onnx.ModelProto) -> np.ndarray:
        return np.asarray(
            ort.InferenceSession(of.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
        )

    assert [site.form for site in inspect_model(held).sites] == ["Attention"]
    silent = patch_model(held, detector="static", columns=())
    firing = patch_model(held, detector="static", columns=(1,), benign="zero")
    assert np.array_equal(answer(silent), answer(model))
    assert not np.allclose(answer(firing), answer(model))
