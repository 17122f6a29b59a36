"""The early part of a decoder runs once where nothing is flagged: the model goes on from what the probe computed."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rewriters.editing.early_part import early_part
from rewriters.editing.patcher import patch, unpatch
from rewriters.finding.finder import find_sites
from rewriters.finding.key_value import HealingPlaces, healing_places
from rewriters.names import is_inserted
from rewriters.plan import PatchPlan, SitePlan, Static

from ..decoders import LAYERS, decoder
from ..half_precision import halved
from .chats import assert_agree, chat
from .kernels import LATER, PROJECTIONS, call, runs

FLAGGED, SILENT = np.array(0.5, np.float32), np.array(2.0, np.float32)


def healing(model: onnx.ModelProto, depth: int, columns: tuple[int, ...] = (3,)) -> onnx.ModelProto:
    """A patch that heals where the first `depth` sites flag; the last of them alone has the columns."""
    sites = find_sites(model)[0][:depth]
    group = tuple(site.id for site in sites)
    plans = {name: SitePlan(Static((0,) if name != group[-1] else columns)) for name in group}
    return patch(model, PatchPlan(plans, passes="two", groups=(group,), mend="heal", telemetry=True), sites)


@pytest.mark.parametrize("depth", [1, LAYERS])
def test_what_runs_twice(depth: int, tmp_path: Path) -> None:
    """Up to the product of map and values of the last site that detects, and where a token is flagged only."""
    model = decoder(True, "llama")
    once = dict.fromkeys(PROJECTIONS, LAYERS)
    twice = {name: LAYERS + depth - (name in LATER) for name in PROJECTIONS}
    silent, firing = healing(model, depth, ()), healing(model, depth)
    assert runs(model, call(6), tmp_path) == once
    assert runs(silent, call(6), tmp_path) == once, "a prompt without a flag"
    assert runs(firing, call(6), tmp_path) == twice, "a prompt with a flag"
    assert runs(firing, call(1, past=5), tmp_path) == once, "a step of generation"
    assert runs(firing, {**call(6), "atpatch_enabled": np.array(False)}, tmp_path) == once, "switched off"


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_the_part_ends_in_the_middle_of_the_model(family: str) -> None:
    model = decoder(True, family)
    silent, firing = healing(model, 1, ()), healing(model, 1, (3, 4))
    for before, after in zip(chat(model), chat(silent), strict=True):
        assert all(after[name].tobytes() == before[name].tobytes() for name in before)
    assert_agree(family, chat(firing))
    assert unpatch(firing) == model


def places_in(model: onnx.ModelProto) -> HealingPlaces:
    found = healing_places(model)
    assert isinstance(found, HealingPlaces)
    return found


def test_nodes_that_stay_in_the_graph() -> None:
    """Sizes, masks and the look-up of embeddings stay; of the others none that comes before the last site does."""
    model = decoder(True, "llama")
    last = find_sites(model)[0][-1].product
    part = early_part(model.graph, places_in(model), [last])
    assert part is not None
    patched = healing(model, LAYERS)
    left = [node.name for node in patched.graph.node if not is_inserted(node.name)]
    gone = [node for node in model.graph.node if node.name not in left]
    assert last in gone[-1].output and {model.graph.node[index].name for index in part.nodes} == {
        node.name for node in gone
    }
    assert {*part.leaving} >= {f"present.{layer}.{kind}" for layer in range(LAYERS - 1) for kind in ("key", "value")}
    assert not any("embed_tokens" in node.name for node in gone)


def test_half_precision_and_unknown_types_keep_their_nodes() -> None:
    half = halved("float-inputs", "llama", "torchscript")
    assert early_part(half.graph, places_in(half), [find_sites(half)[0][0].product]) is None
    model = decoder(True, "llama")
    places, last = places_in(model), find_sites(model)[0][0].product
    types = {name: kind for name, kind in places.types.items() if name != last}
    assert places.types[last] == TensorProto.FLOAT
    assert early_part(model.graph, replace(places, types=types), [last]) is None


def test_what_comes_behind_is_fused_as_before() -> None:
    """onnxruntime takes a factor into the product behind it, where it knows the shape there. T5 has one at its end."""
    model = copy.deepcopy(decoder(True, "llama"))
    head = next(node for node in reversed(model.graph.node) if node.op_type == "MatMul")
    factor = helper.make_tensor("factor", TensorProto.FLOAT, [], [0.3])
    made = [
        helper.make_node("Constant", [], ["factor"], value=factor),
        helper.make_node("Mul", [head.input[0], "factor"], ["scaled"], "scale"),
    ]
    head.input[0] = "scaled"
    nodes = [*model.graph.node]
    nodes[nodes.index(head) : nodes.index(head)] = made
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for before, after in zip(chat(model), chat(healing(model, LAYERS, ())), strict=True):
        assert after["logits"].tobytes() == before["logits"].tobytes()


def test_outputs_and_inputs_that_are_left_out_are_no_values() -> None:
    """As in graphs of onnxruntime-genai: norms without their statistics, calls without a bias."""
    model = copy.deepcopy(decoder(True, "llama"))
    early = next(node for node in model.graph.node if node.op_type == "MatMul" and "layers.0" in node.name)
    early.output.append("")
    late = model.graph.node[-1]
    late.output[0], result = "before_the_end", late.output[0]
    model.graph.node.append(helper.make_node("Clip", ["before_the_end", "", ""], [result], "end"))
    part = early_part(model.graph, places_in(model), [find_sites(model)[0][0].product])
    assert part is not None and early.name in {model.graph.node[index].name for index in part.nodes}
    assert "" not in {*part.leaving, *part.handed}
