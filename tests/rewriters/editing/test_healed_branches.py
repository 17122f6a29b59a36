"""The early layers of a merged decoder run once where nothing is flagged, in both of its branches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from rewriters.editing.patcher import patch, unpatch
from rewriters.finding.cache_branches import MergedDecoder
from rewriters.finding.key_value import HealingPlaces, healing_places
from rewriters.model.bodies import body_at, walk_bodies
from rewriters.plan import PatchPlan, SitePlan, Static
from tests.merged import MERGED, seq2seq

from ..decoders import LAYERS, PRESENT
from ..graphs import session
from .chats import assert_agree, chat
from .healed_merged import merged, read
from .kernels import LATER, PROJECTIONS, call, runs

Feeds = dict[str, np.ndarray]
CALLS = {"a prompt": (6, 0), "a second turn": (6, 5), "a step of generation": (1, 5)}
"""New tokens, and those in the cache."""


def healing(of: MergedDecoder, depth: int, columns: tuple[int, ...] = (3,), **options: object) -> onnx.ModelProto:
    """A patch that heals where the first `depth` sites flag; the last of them alone has the columns."""
    places = healing_places(of.prompts.model)
    assert isinstance(places, HealingPlaces)
    group = places.judged[:depth]
    plans = {name: SitePlan(Static((0,) if name != group[-1] else columns)) for name in group}
    plan = PatchPlan(plans, passes="two", groups=(group,), mend="heal", **options)  # type: ignore[arg-type]
    return patch(of.model, of.spread(plan), of.sites)


def merged_call(length: int, past: int) -> Feeds:
    return {**call(length, past), "use_cache_branch": np.array([past > 0])}


@pytest.mark.parametrize("depth", [1, LAYERS])
def test_what_runs_twice(depth: int, tmp_path: Path) -> None:
    """Up to the product of map and values of the last site that detects, and where a token is flagged only."""
    once = dict.fromkeys(PROJECTIONS, LAYERS)
    twice = {name: LAYERS + depth - (name in LATER) for name in PROJECTIONS}
    silent, firing = healing(merged("llama"), depth, ()), healing(merged("llama"), depth, (3, 7))
    for what, sizes in CALLS.items():
        several = sizes[0] > 1
        assert runs(silent, merged_call(*sizes), tmp_path) == once, f"{what} without a flag"
        assert runs(firing, merged_call(*sizes), tmp_path) == (twice if several else once), f"{what} with a flag"
    off = {**merged_call(6, 0), "atpatch_enabled": np.array(False)}
    assert runs(firing, off, tmp_path) == once, "switched off"


@pytest.mark.parametrize("depth", [1, LAYERS])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_wherever_the_part_ends(family: str, depth: int) -> None:
    model = merged(family).model
    silent, firing = healing(merged(family), depth, ()), healing(merged(family), depth, (3, 4, 7), telemetry=True)
    onnx.checker.check_model(firing, full_check=True)
    for before, after in zip(chat(model), chat(silent), strict=True):
        assert all(after[name].tobytes() == before[name].tobytes() for name in before)
    assert_agree(family, chat(firing))
    assert unpatch(firing) == model


def test_products_lie_where_their_weights_are_packed() -> None:
    """onnxruntime packs weights of the main graph one level below it, not two. Packed ones round differently."""
    for model in (merged("llama").model, healing(merged("llama"), LAYERS)):
        weights = {tensor.name for tensor in model.graph.initializer}
        bodies = ((len(where), node) for where, body in walk_bodies(model) for node in body.node)
        assert {depth for depth, node in bodies if node.op_type == "MatMul" and weights & {*node.input}} == {1}


@pytest.mark.parametrize("depth", [1, LAYERS])
def test_a_step_copies_no_cache(depth: int) -> None:
    """Caches of early layers are outputs of the last early part, in its branch that computes them."""
    model = healing(merged("llama"), depth)
    *_, early, late = model.graph.node
    own = [name for name in early.output if name in PRESENT]
    assert own == PRESENT[: 2 * depth] and [*late.output] == ["logits", *PRESENT[2 * depth :]]
    graph = body_at(model, ((len(model.graph.node) - 2, "then_branch"),))
    made = {name: node.op_type for node in graph.node for name in node.output}
    outputs = dict(zip(early.output, graph.output, strict=True))
    assert {made[outputs[name].name] for name in own} == {"Concat"}


def ask(model: onnx.ModelProto) -> list[Feeds]:
    """First tokens and further ones, of a decoder that reads what an encoder says."""
    live, rng = session(model), np.random.default_rng(0)
    shapes = {value.name: value.shape for value in live.get_inputs()}
    names = [value.name for value in live.get_outputs()]
    given = {
        "encoder_hidden_states": rng.normal(size=(2, 6, shapes["encoder_hidden_states"][2])).astype(np.float32),
        "encoder_attention_mask": np.ones((2, 6), np.int64),
    }
    past = {
        name: np.zeros((2, shape[1], 0, shape[3]), np.float32)
        for name, shape in shapes.items()
        if name.startswith("past")
    }
    answers = list[Feeds]()
    for length in (6, 1, 4):
        feeds = {**given, **past, "input_ids": rng.integers(3, 90, (2, length))}
        feeds["use_cache_branch"] = np.array([bool(answers)])
        found = live.run(names, {name: array for name, array in feeds.items() if name in shapes})
        answers.append(dict(zip(names, found, strict=True)))
        made = {name: answers[-1][name.replace("past_key_values", "present")] for name in past}
        past = {name: made[name] if len(made[name]) else past[name] for name in past}
    return answers


def test_what_only_one_early_part_makes() -> None:
    """Keys of the encoder's states: the branch with a past reads them from the cache."""
    of = read(onnx.load(seq2seq("t5") / MERGED))
    silent, firing = healing(of, LAYERS, ()), healing(of, LAYERS)
    assert "present.0.decoder.key" in firing.graph.node[-2].output
    assert "present.0.encoder.key" in firing.graph.node[-1].output
    before, after = ask(of.model), ask(firing)
    for one, other in zip(ask(silent), before, strict=True):
        assert all(one[name].tobytes() == other[name].tobytes() for name in other)
    was, now = (said[-1]["present.0.decoder.value"] for said in (before, after))
    assert np.array_equal(now[:, :, 3], was[:, :, 2]) and np.array_equal(now[:, :, :3], was[:, :, :3])
    assert after[0]["present.0.encoder.value"].tobytes() == before[0]["present.0.encoder.value"].tobytes()


def test_weights_in_a_branch() -> None:
    """Optimum leaves small ones there."""
    model = onnx.ModelProto()
    model.CopyFrom(merged("llama").model)
    for branch in (one.g for one in model.graph.node[0].attribute):
        constants = [node for node in branch.node if node.op_type == "Constant"]
        for node in constants:
            branch.initializer.add().CopyFrom(node.attribute[0].t)
            branch.initializer[-1].name = node.output[0]
        others = [node for node in branch.node if node.op_type != "Constant"]
        del branch.node[:]
        branch.node.extend(others)
        assert len(constants) > 20
    patched = healing(read(model), 1, telemetry=True)
    onnx.checker.check_model(patched, full_check=True)
    for one, other in zip(chat(patched), chat(healing(merged("llama"), 1)), strict=True):
        assert all(one[name].tobytes() == other[name].tobytes() for name in ("logits", *PRESENT))


def test_branches_that_stay_whole() -> None:
    """Without branches in the patch, and where an early part would round differently: see the rules of `early_part`."""
    model = onnx.ModelProto()
    model.CopyFrom(merged("llama").model)
    for branch in (one.g for one in model.graph.node[0].attribute):
        at, product = next((at, one) for at, one in enumerate(branch.node) if one.op_type == "MatMul")
        quantized = [
            onnx.helper.make_node("QuantizeLinear", [product.input[0], "scale"], ["quantized"], "quantize"),
            onnx.helper.make_node("DequantizeLinear", ["quantized", "scale"], ["dequantized"], "dequantize"),
        ]
        product.input[0] = "dequantized"
        nodes = [*branch.node]
        nodes[at:at] = quantized
        del branch.node[:]
        branch.node.extend(nodes)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.1, np.float32), "scale"))
    for whole in (healing(read(model), 1), healing(merged("llama"), 1, gating="none")):
        assert [node.op_type for node in whole.graph.node] == ["If"]
