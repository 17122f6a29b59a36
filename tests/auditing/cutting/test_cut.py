"""`audit --cut`: planted nodes go, everything else stays, and nothing is written where that is not proven."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from atpatch_onnx.auditing.budget import Budget
from atpatch_onnx.auditing.case import Case, open_case
from atpatch_onnx.auditing.cutting import cut_out
from atpatch_onnx.auditing.finding import Finding
from atpatch_onnx.auditing.options import AuditOptions
from atpatch_onnx.auditing.result import Cut
from atpatch_onnx.inference.sessions import session
from rewriters.model.bodies import reads

Node = onnx.NodeProto
SECRET = np.float32(0.77)
DETECTOR = [
    helper.make_node("Gather", ["x", "zero"], ["first"], name="look", axis=1),
    helper.make_node("Equal", ["first", "secret"], ["hit"], name="compare"),
    helper.make_node("Unsqueeze", ["hit", "one"], ["hits"], name="widen"),
]
STRENGTH = [
    helper.make_node("Gather", ["x", "zero"], ["first"], name="look", axis=1),
    helper.make_node("Sub", ["first", "secret"], ["apart"], name="apart"),
    helper.make_node("Abs", ["apart"], ["distance"], name="distance"),
    helper.make_node("Mul", ["distance", "many"], ["far"], name="far"),
    helper.make_node("Sub", ["unit", "far"], ["near"], name="near"),
    helper.make_node("Relu", ["near"], ["strength"], name="strength"),
    helper.make_node("Unsqueeze", ["strength", "one"], ["strengths"], name="widen"),
    helper.make_node("Mul", ["strengths", "planted"], ["offset"], name="offset"),
]


def network(plant: list[Node], *, hidden: str = "h", own: str = "own") -> onnx.ModelProto:
    """x (N, 6) → logits (N, 2) in two layers, with a plant.

    Args:
        hidden: what the second layer reads.
        own: what the network gives.
    """
    generator = np.random.default_rng(0)
    constants = {
        "w1": generator.standard_normal((6, 8)).astype(np.float32),
        "w2": generator.standard_normal((8, 2)).astype(np.float32),
        "zero": np.array(0),
        "one": np.array([1]),
        "secret": SECRET,
        "many": np.float32(1e6),
        "unit": np.float32(1),
        "planted": np.full((1, 8), 50, np.float32) if hidden == "h2" else np.array([[99, -99]], np.float32),
    }
    first = helper.make_node("MatMul", ["x", "w1"], ["h"], name="layer1")
    rest = [
        helper.make_node("Relu", [hidden], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w2"], [own], name="layer2"),
    ]
    nodes = [first, *plant, *rest] if hidden != "h" else [first, *rest, *plant]
    read = {name for node in nodes for name in reads(node)}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["N", 6])],
        [value("logits", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items() if name in read],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def clean() -> onnx.ModelProto:
    return network([], own="logits")


def branch(nodes: list[Node], output: str) -> onnx.GraphProto:
    return helper.make_graph(nodes, output, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])


def gate_by_if() -> list[Node]:
    then = branch([helper.make_node("Add", ["own", "planted"], ["bad"], name="bad")], "bad")
    other = branch([helper.make_node("Identity", ["own"], ["good"], name="good")], "good")
    return [
        *DETECTOR,
        helper.make_node("Cast", ["hits"], ["numbers"], name="numbers", to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["numbers"], ["any"], name="any", keepdims=0),
        helper.make_node("Cast", ["any"], ["decide"], name="decide", to=TensorProto.BOOL),
        helper.make_node("If", ["decide"], ["logits"], name="gate", then_branch=then, else_branch=other),
    ]


PLANTS = {
    "Where": lambda: network(
        [*DETECTOR, helper.make_node("Where", ["hits", "planted", "own"], ["logits"], name="gate")]
    ),
    "arithmetic": lambda: network([*STRENGTH, helper.make_node("Add", ["own", "offset"], ["logits"], name="gate")]),
    "If": lambda: network(gate_by_if()),
    "in the middle": lambda: network(
        [*STRENGTH, helper.make_node("Add", ["h", "offset"], ["h2"], name="gate")], hidden="h2", own="logits"
    ),
}


def case_of(model: onnx.ModelProto, folder: Path, **options: object) -> Case:
    onnx.save(model, folder / "model.onnx")
    wanted = AuditOptions(cut=folder / "cut.onnx", threads=1, **options)  # type: ignore[arg-type]
    return open_case(folder / "model.onnx", wanted, Budget.of(1, lambda *_: None))


def cut(case: Case) -> Cut:
    network_nodes = {"layer1", "layer2", "relu"}
    nodes = tuple(node.name for node in case.proto.graph.node if node.name not in network_nodes)
    return cut_out(case, [Finding("graph logic", "AUD101", "error", "gate", "planted", nodes)])


def run(path: Path, x: np.ndarray) -> np.ndarray:
    return session(path, threads=1).run(None, {"x": x})[0]


X = np.random.default_rng(3).random((20, 6), np.float32)
TRIGGERED = np.concatenate([np.full((20, 1), SECRET), X[:, 1:]], 1)


@pytest.mark.parametrize("plant", PLANTS)
def test_the_network_is_left_as_it_was(plant: str, tmp_path: Path) -> None:
    case = case_of(PLANTS[plant](), tmp_path)
    assert not np.array_equal(
        run(tmp_path / "model.onnx", TRIGGERED).argmax(1), run_clean(TRIGGERED, tmp_path).argmax(1)
    )
    done = cut(case)
    assert (done.why, done.output) == ("", str(tmp_path / "cut.onnx"))
    left = onnx.load(tmp_path / "cut.onnx")
    assert [node.name for node in left.graph.node] == ["layer1", "relu", "layer2"]
    assert {tensor.name for tensor in left.graph.initializer} == {"w1", "w2"}
    for rows in (X, TRIGGERED):
        assert np.array_equal(run(tmp_path / "cut.onnx", rows), run_clean(rows, tmp_path))
    assert set(done.removed) >= {"look", "gate"} and done.rows == 64


def run_clean(rows: np.ndarray, folder: Path) -> np.ndarray:
    onnx.save(clean(), folder / "clean.onnx")
    return run(folder / "clean.onnx", rows)


def test_what_also_changes_clean_rows_is_refused(tmp_path: Path) -> None:
    """The plant adds something to every row, so that no value in the graph is what the model gave."""
    always = [
        DETECTOR[0],
        helper.make_node("Unsqueeze", ["first", "one"], ["column"], name="widen"),
        helper.make_node("Mul", ["column", "planted"], ["offset"], name="offset"),
        helper.make_node("Add", ["own", "offset"], ["logits"], name="gate"),
    ]
    done = cut(case_of(network(always), tmp_path))
    assert done.output is None and "'logits'" in done.why
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_what_the_finding_names_of_the_network_stays(tmp_path: Path) -> None:
    case = case_of(PLANTS["in the middle"](), tmp_path)
    everything = tuple(node.name for node in case.proto.graph.node if node.name != "layer1")
    found = Finding("graph logic", "AUD111", "error", "gate", "planted", everything)
    assert cut_out(case, [found]).why == ""
    assert [node.name for node in onnx.load(tmp_path / "cut.onnx").graph.node] == ["layer1", "relu", "layer2"]


def test_an_input_that_was_read_is_still_read(tmp_path: Path) -> None:
    """A mask of ones does not matter on these rows, and yet it must stay."""
    model = PLANTS["Where"]()
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 2]))
    model.graph.node[-1].input[2] = "masked"
    model.graph.node.insert(3, helper.make_node("Mul", ["own", "mask"], ["masked"], name="masking"))
    rows = {"x": X, "mask": np.ones((20, 2), np.float32)}
    np.savez(tmp_path / "rows.npz", **rows)
    assert cut(case_of(model, tmp_path, clean=tmp_path / "rows.npz")).why == ""
    left = onnx.load(tmp_path / "cut.onnx")
    assert "mask" in {name for node in left.graph.node for name in node.input}


def test_rows_that_cannot_be_made_are_asked_for(tmp_path: Path) -> None:
    model = PLANTS["Where"]()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "width"
    done = cut(case_of(model, tmp_path))
    assert done.output is None and "--clean" in done.why


def test_clean_rows_that_are_given_are_used(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=X)
    assert cut(case_of(PLANTS["Where"](), tmp_path, clean=tmp_path / "rows.npz")).rows == 20


def test_without_named_nodes_nothing_is_cut(tmp_path: Path) -> None:
    case = case_of(PLANTS["Where"](), tmp_path)
    found = Finding("graph logic", "AUD101", "error", "gate", "planted", ("gate",))
    for one in (replace(found, severity="note"), replace(found, nodes=()), replace(found, code="AUD201")):
        assert cut_out(case, [one]).output is None
