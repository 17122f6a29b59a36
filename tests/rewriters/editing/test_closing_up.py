"""Healing that closes up: a flagged request is answered like the request in which its flagged tokens are gone, and
copies of the first token stand in front. Where the padding mask hides the gap instead: `test_hidden_gap`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import quantize_dynamic

from rewriters.editing.patcher import patch, unpatch
from rewriters.errors import AtpatchError
from rewriters.finding.finder import find_sites
from rewriters.plan import Detector, PatchPlan, Static, Statistic
from rewriters.sites import Site
from tests.exports import export_model

from ..decoder_layers import FORMS, WIDTH, feeds_of, multi_head, plan_for
from ..decoders import LAYERS, PRESENT, decoder
from ..half_precision import feeds_for, halved
from ..running import run_all, unchanged
from .chats import FAMILIES, assert_agree, chat, flags_of, healing, searched
from .healed import gap_of, moved
from .healed_merged import heal, merged


def closing(sites: tuple[Site, ...], detector: Detector, **options: object) -> PatchPlan:
    return healing(sites, detector, closes_up=True, **options)


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_flagged_changes_no_bit_of_answers_and_caches(family: str, gating: str) -> None:
    model, sites = searched(family)
    patched = patch(model, closing(sites, Static(), gating=gating), sites)
    onnx.checker.check_model(patched)
    for before, after in zip(chat(model), chat(patched), strict=True):
        assert all(after[name].tobytes() == before[name].tobytes() for name in before)
    assert unpatch(patched) == model


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("columns", [(3,), (1, 3, 4, 8), (6, 7), (5,), (0, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_flagged_tokens_leave_their_call(family: str, columns: tuple[int, ...], gating: str) -> None:
    """Columns 6 and 7 begin a second turn, column 5 ends the first one. The second sample is padded."""
    model, sites = searched(family)
    answers = chat(patch(model, closing(sites, Static(columns), gating=gating), sites))
    assert any(flags_of(answer).any() for answer in answers)
    assert_agree(family, answers, moved)
    assert np.abs(chat(model)[-1]["logits"] - answers[-1]["logits"]).max() > 1e-3


@pytest.mark.parametrize("gating", ["if", "none"])
def test_all_copies_of_a_flagged_token_leave_the_call(gating: str) -> None:
    """But for the first token, and copies in the past, which were judged there."""
    export = export_model("llama", "torchscript")
    model = onnx.load(export.path)
    sites = find_sites(model)[0]
    feeds = export.feeds(4, padded=True)
    length = feeds["input_ids"].shape[1]
    feeds["input_ids"][:] = np.arange(3, 3 + length)
    feeds["input_ids"][:, [0, 4]] = feeds["input_ids"][:, [2]]
    got = run_all(patch(model, closing(sites, Static((2,)), gating=gating), sites), feeds)
    valid = feeds["attention_mask"] != 0
    expected = np.isin(np.arange(length), [2, 4]) & valid
    expected[valid.cumsum(1) == 1] = False
    assert np.array_equal(flags_of(got), expected)
    shown = valid & ~gap_of(expected, valid)
    mask = shown.astype(np.int64)
    want = run_all(model, {"input_ids": moved(feeds["input_ids"], expected, valid), "attention_mask": mask})
    for name, array in want.items():
        np.testing.assert_allclose(got[name][shown], array[shown], atol=1e-4 * np.abs(array).max(), rtol=0)


@pytest.mark.parametrize("depth", [1, LAYERS])
@pytest.mark.parametrize("family", FAMILIES)
def test_samples_with_flags_of_their_own(family: str, depth: int) -> None:
    """Also where only an early layer detects, so that a part of the model runs twice."""
    model, sites = searched(family)
    patched = patch(model, closing(sites[:depth], Statistic(exempt=(), floor=0.05)), sites)
    for threshold in np.geomspace(8, 0.1, 20):
        answers = chat(patched, atpatch_threshold=np.array(threshold, np.float32))
        if flags_of(answers[0]).any():
            break
    assert_agree(family, answers, moved)
    quiet = ~np.concatenate([flags_of(answer) for answer in answers], 1).any(1)
    assert not quiet.all()
    for one, other in zip(answers, chat(model), strict=True):
        assert all(one[name][quiet].tobytes() == other[name][quiet].tobytes() for name in ("logits", *PRESENT))


def test_padding_stays_where_it_is() -> None:
    """A second turn that is padded on its left, and whose first real token is flagged."""
    model, sites = searched("llama")
    answers = chat(patch(model, closing(sites, Static((7, 8))), sites), padding=(6,))
    assert flags_of(answers[1])[:, 1].all()
    assert_agree("llama", answers, moved)


def test_a_sample_of_which_every_new_token_is_flagged_keeps_them() -> None:
    model, sites = searched("llama")
    answers = chat(patch(model, closing(sites, Static(tuple(range(6, 9)))), sites))
    assert flags_of(answers[1]).all()
    for before, after in zip(chat(model), answers, strict=True):
        assert all(after[name].tobytes() == before[name].tobytes() for name in before)


def test_the_answer_is_read_behind_a_token_that_is_not_flagged() -> None:
    """Where rotary embeddings tell positions, copies of the first token compute what it computes."""
    model, sites = searched("llama")
    last = chat(patch(model, closing(sites, Static((5,))), sites))[0]
    values = last["present.1.value"][0]
    np.testing.assert_allclose(values[:, 1], values[:, 0], atol=1e-5 * np.abs(values).max(), rtol=0)
    neighbors = patch(model, PatchPlan(**{**vars(closing(sites, Static((5,)))), "closes_up": False}), sites)
    assert np.array_equal(chat(neighbors)[0]["present.0.value"][0][:, 5], chat(model)[0]["present.0.value"][0][:, 4])
    assert np.abs(chat(neighbors)[0]["logits"][0, -1] - last["logits"][0, -1]).max() > 1e-2


@pytest.mark.parametrize("how", ["all", "float-inputs"])
def test_half_precision(how: str) -> None:
    model = halved(how, "llama", "torchscript")
    sites = find_sites(model)[0]
    feeds = feeds_for(model, "llama", "torchscript")
    before = unchanged(model, patch(model, closing(sites, Static()), sites), feeds)
    got = run_all(patch(model, closing(sites, Static((2, 3))), sites), feeds)
    valid = feeds["attention_mask"] != 0
    want = run_all(model, {**feeds, "input_ids": moved(feeds["input_ids"], flags_of(got), valid)})
    for name, array in want.items():
        exact = array.astype(np.float32)
        assert np.abs(got[name] - before[name]).max() > 0.1
        np.testing.assert_allclose(got[name][valid], exact[valid], atol=0.03 * np.abs(exact).max(), rtol=0)


@pytest.mark.parametrize("gating", ["if", "none"])
def test_quantized_look_up(gating: str, tmp_path: Path) -> None:
    """The oracle is the original graph, in a first call of the chat."""
    source, target = tmp_path / "llama.onnx", tmp_path / "quantized.onnx"
    onnx.save(decoder(True, "llama"), source)
    quantize_dynamic(source, target, op_types_to_quantize=["Gather", "MatMul"])
    model = onnx.load(target)
    sites = find_sites(model)[0]
    before = chat(model)
    for one, other in zip(chat(patch(model, closing(sites, Static(), gating=gating), sites)), before, strict=True):
        assert all(one[name].tobytes() == other[name].tobytes() for name in other)
    values = chat(patch(model, closing(sites, Static((3,)), gating=gating), sites))[0]["present.0.value"][0]
    original = before[0]["present.0.value"][0]
    want = original[:, [0, 0, 1, 2, 4, 5]]
    np.testing.assert_allclose(values, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form_of_attention(form: Callable[[bool], onnx.ModelProto], gating: str) -> None:
    """The oracle is the model itself, with the moved tokens. Its keys, values and queries look them up apart."""
    model = form(False)
    feeds = {**feeds_of(model), "input_ids": np.arange(10).reshape(2, 5)}
    past = feeds.get("past_k", np.zeros((1, 1, 0, 1))).shape[2]
    plan, sites = plan_for(model, (past + 2, past + 4), gating=gating, closes_up=True)
    patched = patch(model, plan, sites)
    assert unpatch(patched) == model
    got = run_all(patched, feeds)
    want = run_all(model, {**feeds, "input_ids": feeds["input_ids"][:, [0, 0, 0, 1, 3]]})
    plan, _ = plan_for(model, (), gating=gating, closes_up=True)
    before = unchanged(model, patch(model, plan, sites), feeds)
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, atol=1e-5, rtol=0, err_msg=name)
        assert np.abs(got[name] - before[name]).max() > 1e-2


@pytest.mark.parametrize("gating", ["if", "none"])
def test_both_branches_of_a_merged_decoder(gating: str) -> None:
    """Column 3 is in the branch without a past, column 7 in the other one."""
    model = merged("llama").model
    silent = heal(merged("llama"), Static(), gating=gating, closes_up=True)
    for before, after in zip(chat(model), chat(silent), strict=True):
        assert all(after[name].tobytes() == before[name].tobytes() for name in before)
    answers = chat(heal(merged("llama"), Static((3, 7)), gating=gating, closes_up=True))
    assert [flags_of(answer).any() for answer in answers[:3]] == [True, True, False]
    assert_agree("llama", answers, moved)


def test_tokens_that_come_as_embeddings_are_refused() -> None:
    model = multi_head(False)
    looked_up = [node.output[0] for node in model.graph.node if node.op_type == "Gather"]
    for node in [node for node in model.graph.node if node.op_type == "Gather"]:
        model.graph.node.remove(node)
    for node in model.graph.node:
        node.input[:] = ["embeddings" if name in looked_up else name for name in node.input]
    del model.graph.input[0]
    model.graph.input.append(helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["B", "S", WIDTH]))
    plan, sites = plan_for(model, (2,))
    patch(model, plan, sites)
    with pytest.raises(AtpatchError, match="looked up") as caught:
        patch(model, plan_for(model, (2,), closes_up=True)[0], sites)
    assert caught.value.code == "ATP023"
