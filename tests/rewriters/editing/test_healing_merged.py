"""Healing a merged decoder: each branch does what the file that it was merged of does when that is healed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import quantize_dynamic

from rewriters.editing.observe import observe
from rewriters.editing.patcher import patch, unpatch
from rewriters.errors import AtpatchError
from rewriters.finding.cache_branches import MergedDecoder
from rewriters.finding.finder import find_sites
from rewriters.plan import OneClass, PatchPlan, SitePlan, Static, Statistic
from tests.merged import merged_of

from ..decoders import HEADS, PRESENT, decoder, merged_decoder
from ..graphs import session
from .chats import BATCH, FAMILIES, LENGTHS, PADDED, assert_agree, chat
from .healed_merged import heal, merged, read

Feeds = dict[str, np.ndarray]
BARS = np.geomspace(8, 0.1, 20)


def flags_of(answer: Feeds) -> np.ndarray:
    """(B, S), the same at the sites of both branches."""
    masks = [array for name, array in answer.items() if name.startswith("atpatch_columns/")]
    assert len(masks) > 2 and all(np.array_equal(mask, masks[0]) for mask in masks)
    return masks[0]


@pytest.mark.parametrize(("family", "gating"), [*((family, "if") for family in FAMILIES), ("llama", "none")])
def test_nothing_flagged_changes_no_bit_of_answers_and_caches(family: str, gating: str) -> None:
    model = merged(family).model
    patched = heal(merged(family), Static(), gating=gating)
    onnx.checker.check_model(patched, full_check=True)
    assert [value.name for value in patched.graph.output if not value.name.startswith("atpatch")] == [
        value.name for value in model.graph.output
    ]
    for before, after in zip(chat(model), chat(patched), strict=True):
        assert all(after[name].tobytes() == before[name].tobytes() for name in before)
        assert not flags_of(after).any() and not after["atpatch_flagged"].any()
    assert unpatch(patched) == model


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize(
    ("family", "columns"),
    [("gpt2", (3, 4, 8)), ("llama", (3,)), ("llama", (6, 7)), ("llama", (0, 1, 2, 3)), ("qwen3", (3, 6, 7))],
    ids=str,
)
def test_flagged_tokens_have_the_key_and_value_of_their_neighbor(
    family: str, columns: tuple[int, ...], gating: str
) -> None:
    """Columns 6 to 8 are of a second turn: several new tokens in the branch with a past."""
    answers = chat(heal(merged(family), Static(columns), gating=gating))
    assert [flags_of(answer).shape for answer in answers] == [(BATCH, length) for length in LENGTHS]
    flagged = [set(np.flatnonzero(row)) for row in np.concatenate([*map(flags_of, answers)], 1)]
    assert flagged[0] == {*columns} - {0}, "the first token is no trigger"
    assert flagged[1] == {*columns} - set(range(PADDED + 1)), "nor is padding, or the first token behind it"
    assert_agree(family, answers)


@pytest.mark.parametrize("joint", ["any", "sum"])
def test_samples_with_flags_of_their_own(joint: str) -> None:
    patched = heal(merged("llama"), Statistic(exempt=(), floor=0.05), joint=joint)
    tried = (chat(patched, atpatch_threshold=np.array(bar, np.float32)) for bar in BARS)
    answers = next(found for found in tried if flags_of(found[0]).any())
    assert not any(flags_of(answer).any() for answer in answers[2:]), "a decoding step judges nothing"
    assert_agree("llama", answers)
    quiet = ~np.concatenate([*map(flags_of, answers)], 1).any(1)
    assert quiet.any()
    for one, other in zip(answers, chat(merged("llama").model), strict=True):
        assert all(one[name][quiet].tobytes() == other[name][quiet].tobytes() for name in ("logits", *PRESENT))


def test_detectors_that_read_the_answer_row() -> None:
    mean, weight = np.zeros(HEADS, np.float32), np.ones((HEADS, 1), np.float32)
    detector = OneClass(mean, weight, squared=False, offset=0.0, probes=(), answer_row=True)
    answers = chat(heal(merged("llama"), detector, joint="sum", threshold=3.5))
    assert flags_of(answers[0]).any() and flags_of(answers[1]).any()
    assert_agree("llama", answers)


def test_controls_reach_into_the_branches() -> None:
    before = chat(merged("llama").model)
    patched = heal(merged("llama"), Static((3, 7)))
    frozen = chat(heal(merged("llama"), Static((3, 7)), controls="none"))
    for one, other in zip(chat(patched, atpatch_enabled=np.array(False)), before, strict=True):
        assert all(one[name].tobytes() == other[name].tobytes() for name in other)
    for one, other in zip(chat(patched), frozen, strict=True):
        assert all(one[name].tobytes() == other[name].tobytes() for name in other)


def test_flags_can_be_observed_without_telemetry() -> None:
    patched = heal(merged("gpt2"), Static((3,)), telemetry=False)
    seen = observe(patched)
    assert seen.reason == "" and len(seen.sites) == 4
    assert flags_of(chat(seen.model)[0])[0].tolist() == [False] * 3 + [True] + [False] * 2


def half() -> MergedDecoder:
    """In float16, both branches."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    parts = []
    for with_past in (False, True):
        part = onnx.ModelProto()
        part.CopyFrom(decoder(with_past, "llama"))
        parts.append(convert_float_to_float16(part))
    return read(merged_of(*parts))


def cast_around(model: onnx.ModelProto) -> onnx.ModelProto:
    """With float32 inputs and outputs: casts in front of the `If` and behind it."""
    cast = onnx.ModelProto()
    cast.CopyFrom(model)
    ahead, behind = [], []
    halves = [value for value in cast.graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT16]
    for value in halves:
        ahead.append(helper.make_node("Cast", [f"{value.name}.given"], [value.name], to=TensorProto.FLOAT16))
        value.name, value.type.tensor_type.elem_type = f"{value.name}.given", TensorProto.FLOAT
    (node,) = cast.graph.node
    for place, value in enumerate(cast.graph.output):
        behind.append(helper.make_node("Cast", [f"{value.name}.half"], [value.name], to=TensorProto.FLOAT))
        node.output[place], value.type.tensor_type.elem_type = f"{value.name}.half", TensorProto.FLOAT
    del cast.graph.node[:]
    cast.graph.node.extend([*ahead, node, *behind])
    return cast


def calls(model: onnx.ModelProto) -> Iterator[Feeds]:
    """A prompt, a second turn and a step, with inputs in the graph's types."""
    live = session(model)
    outputs = [value.name for value in live.get_outputs()]
    kinds = {value.name: np.float16 if "float16" in value.type else np.float32 for value in live.get_inputs()}
    shapes = {value.name: (2, HEADS, 0, 8) for value in live.get_inputs() if value.name.startswith("past")}
    past = {name: np.zeros(shape, kinds[name]) for name, shape in shapes.items()}
    ids, done = np.random.default_rng(0).integers(3, 99, (2, 9)), 0
    for length in (5, 3, 1):
        done += length
        feeds = {"input_ids": ids[:, done - length : done], "attention_mask": np.ones((2, done), np.int64)}
        feeds["use_cache_branch"] = np.array([done > length])
        found = dict(zip(outputs, live.run(outputs, {**feeds, **past}), strict=True))
        past = {name: found[name.replace("past_key_values", "present").removesuffix(".given")] for name in past}
        yield found


@pytest.mark.parametrize("around", [False, True], ids=["inputs in float16", "inputs in float32"])
def test_half_precision(around: bool) -> None:
    model = cast_around(half().model) if around else half().model
    exact = list(calls(heal(merged("llama"), Static((3, 6)))))
    silent, firing = (calls(heal(read(model), Static(columns))) for columns in ((), (3, 6)))
    for before, quiet, healed, want in zip(calls(model), silent, firing, exact, strict=True):
        assert all(quiet[name].tobytes() == array.tobytes() for name, array in before.items())
        assert np.abs(healed["logits"].astype(np.float32) - before["logits"]).max() > 0.1
        for name, array in before.items():
            scale = np.abs(want[name]).max()
            np.testing.assert_allclose(healed[name].astype(np.float32), want[name], atol=0.03 * scale, rtol=0)
            assert healed[name].dtype == array.dtype


def test_quantized_projections(tmp_path: Path) -> None:
    """Values are compared in the cache: rows of one layer's values do not depend on positions."""
    onnx.save(merged("llama").model, tmp_path / "merged.onnx")
    quantize_dynamic(tmp_path / "merged.onnx", tmp_path / "quantized.onnx", extra_options={"EnableSubgraph": True})
    model = read(onnx.load(tmp_path / "quantized.onnx"))
    assert "MatMulInteger" in {node.op_type for node in model.prompts.model.graph.node}
    before = chat(model.model)
    silent, firing = (chat(heal(model, Static(columns))) for columns in ((), (3, 7)))
    for one, other in zip(silent, before, strict=True):
        assert all(one[name].tobytes() == other[name].tobytes() for name in other)
    values, original = firing[-1]["present.0.value"], before[-1]["present.0.value"]
    assert np.array_equal(values[:, :, [3, 7]], original[:, :, [2, 6]])
    assert np.array_equal(values[:, :, :3], original[:, :, :3])


def refusal(model: onnx.ModelProto, groups: tuple[tuple[str, ...], ...]) -> AtpatchError:
    plans = {name: SitePlan(Static((3,))) for group in groups for name in group}
    with pytest.raises(AtpatchError) as caught:
        patch(model, PatchPlan(plans, passes="two", groups=groups, mend="heal"), find_sites(model)[0])
    return caught.value


def test_one_branch_is_not_healed_without_the_other() -> None:
    of = read(merged_decoder())
    for branch, other in (of.branches, of.branches[::-1]):
        error = refusal(of.model, (tuple(branch.ids.values()),))
        assert error.code == "ATP023" and str(other) in error.what and "both branches" in error.fix


def test_sites_of_both_branches_are_no_group() -> None:
    of = read(merged_decoder())
    both = tuple(site.id for site in of.sites)
    assert refusal(of.model, (both,)).code == "ATP024"
    assert refusal(of.model, tuple((name,) for name in both)).code == "ATP024"
