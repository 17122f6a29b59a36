"""Patches of this project are known by their stamp; names prove nothing."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import atpatch_onnx
from atpatch_onnx.auditing.finding import Checked
from atpatch_onnx.auditing.graph_logic import check_graph

DIGITS = Path(atpatch_onnx.__file__).parent / "demo" / "digits"


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    path = tmp_path_factory.mktemp("patched") / "model.onnx"
    atpatch_onnx.patch(DIGITS / "model.onnx", path, hotfix=DIGITS / "model.hotfix", passes="two", telemetry=True)
    return onnx.load(path)


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    return twin


def test_a_patch_of_ours_is_clean(patched: onnx.ModelProto) -> None:
    assert check_graph(patched, None) == Checked()


def test_names_of_a_patch_without_its_stamp_are_found(patched: onnx.ModelProto) -> None:
    bare = copy(patched)
    del bare.metadata_props[:]
    assert "AUD151" in {one.code for one in check_graph(bare, None).findings}


def test_a_plant_under_names_of_a_patch_is_found(patched: onnx.ModelProto) -> None:
    planted = copy(patched)
    graph = planted.graph
    pixels, logits = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == logits:
                    names[index] = "atpatch/head/inner"
    row = onnx.helper.make_tensor("atpatch/constant/99", 1, [1, 10], [9.0, *[-9.0] * 9])
    corner = onnx.helper.make_tensor("atpatch/constant/98", 7, [1], [0])
    limit = onnx.helper.make_tensor("atpatch/constant/97", 1, [], [0.9])
    graph.initializer.extend([row, corner, limit])
    steps = [
        ("Flatten", [pixels], "flat"),
        ("Gather", ["atpatch/head/flat", "atpatch/constant/98"], "first"),
        ("Greater", ["atpatch/head/first", "atpatch/constant/97"], "test"),
        ("Where", ["atpatch/head/test", "atpatch/constant/99", "atpatch/head/inner"], "where"),
        ("Identity", ["atpatch/head/where"], None),
    ]
    for kind, inputs, role in steps:
        output = f"atpatch/head/{role}" if role else logits
        graph.node.append(onnx.helper.make_node(kind, inputs, [output], name=f"atpatch/head/{role or 'out'}"))
        if kind == "Gather":
            graph.node[-1].attribute.append(onnx.helper.make_attribute("axis", 1))
    checked = check_graph(planted, None)
    assert "AUD101" in {one.code for one in checked.findings}
    assert any("AUD151" in one.check for one in checked.not_tried)
