"""Healing: keys and values of flagged tokens are those of their neighbors, in the cache too, and everything else is the
model's own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

from rewriters.editing.patcher import patch, unpatch
from rewriters.errors import AtpatchError
from rewriters.finding.finder import find_sites
from rewriters.plan import OneClass, PatchPlan, Static, Statistic
from rewriters.sites import Site
from tests.exports import EXPORTERS, build_model, export_model

from ..decoders import (
    HEADS,
    LAYERS,
    PRESENT,
    decoder,
    decoder_feeds,
    merged_decoder,
)
from ..half_precision import feeds_for, halved
from ..running import run_all, unchanged
from .chats import BATCH, FAMILIES, LENGTHS, PADDED, assert_agree, chat, healing, searched
from .healed import healed, source_of


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_flagged_changes_no_bit_of_answers_and_caches(family: str, gating: str) -> None:
    model, sites = searched(family)
    patched = patch(model, healing(sites, Static(), gating=gating), sites)
    onnx.checker.check_model(patched)
    assert (patched.ir_version, list(patched.opset_import)) == (model.ir_version, list(model.opset_import))
    for before, after in zip(chat(model), chat(patched), strict=True):
        assert all(after[name].tobytes() == before[name].tobytes() for name in before)
        assert not after["atpatch_flagged"].any()
    assert unpatch(patched) == model


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("columns", [(3,), (3, 4, 8), (6, 7), (0, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_flagged_tokens_have_the_key_and_value_of_their_neighbor(
    family: str, columns: tuple[int, ...], gating: str
) -> None:
    """Columns 6 and 7 begin a second turn: there is no healthy token to the left in that call."""
    model, sites = searched(family)
    answers = chat(patch(model, healing(sites, Static(columns), gating=gating), sites))
    flags = [answer[f"atpatch_columns/{sites[0].id}"] for answer in answers]
    assert [flag.shape for flag in flags] == [(BATCH, length) for length in LENGTHS]
    flagged = [set(np.flatnonzero(row)) for row in np.concatenate(flags, 1)]
    assert flagged[0] == {*columns} - {0}, "the first token is no trigger"
    assert flagged[1] == {*columns} - set(range(PADDED + 1)), "nor is padding, or the first token behind it"
    assert_agree(family, answers)
    assert np.abs(chat(model)[-1]["logits"] - answers[-1]["logits"]).max() > 1e-3


@pytest.mark.parametrize("joint", ["any", "sum"])
@pytest.mark.parametrize("family", FAMILIES)
def test_samples_with_flags_of_their_own(family: str, joint: str) -> None:
    model, sites = searched(family)
    patched = patch(model, healing(sites, Statistic(exempt=(), floor=0.05), joint=joint), sites)
    for threshold in np.geomspace(8, 0.1, 20):
        answers = chat(patched, atpatch_threshold=np.array(threshold, np.float32))
        flags = [answer[f"atpatch_columns/{sites[0].id}"] for answer in answers]
        if flags[0].any():
            break
    before = chat(model)
    assert not flags[0][:, 0].any() and not flags[0][1, : PADDED + 1].any(), "no sink and no padding is flagged"
    assert not any(flag.any() for flag in flags[2:]), "a decoding step judges nothing"
    assert_agree(family, answers)
    quiet = ~np.concatenate(flags, 1).any(1)
    assert flags[0].any() and (quiet.any() or family == "gpt2")
    for one, other in zip(answers, before, strict=True):
        assert all(one[name][quiet].tobytes() == other[name][quiet].tobytes() for name in ("logits", *PRESENT))


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_heals_nobody(family: str) -> None:
    """A second turn that is padded on its left, and whose first real token is flagged."""
    model, sites = searched(family)
    answers = chat(patch(model, healing(sites, Static((7,))), sites), padding=(6,))
    assert answers[1][f"atpatch_columns/{sites[0].id}"][:, 1].all()
    assert_agree(family, answers)


def test_a_sample_of_which_every_new_token_is_flagged_keeps_them() -> None:
    model, sites = searched("llama")
    answers = chat(patch(model, healing(sites, Static(tuple(range(6, 9)))), sites))
    assert answers[1][f"atpatch_columns/{sites[0].id}"].all()
    for before, after in zip(chat(model), answers, strict=True):
        assert all(after[name].tobytes() == before[name].tobytes() for name in before)


def test_controls() -> None:
    model, sites = searched("llama")
    patched = patch(model, healing(sites, Statistic(exempt=(), floor=0.05), threshold=2.0), sites)
    before = chat(model)
    for controls in ({"atpatch_enabled": np.array(False)}, {"atpatch_threshold": np.array(1e6, np.float32)}):
        for one, other in zip(chat(patched, **controls), before, strict=True):
            assert all(one[name].tobytes() == other[name].tobytes() for name in other)
    frozen = patch(model, healing(sites, Statistic(exempt=(), floor=0.05), threshold=2.0, controls="none"), sites)
    for one, other in zip(chat(patched), chat(frozen), strict=True):
        assert all(one[name].tobytes() == other[name].tobytes() for name in other)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_without_a_cache(family: str, exporter: str) -> None:
    export = export_model(family, exporter)
    model = onnx.load(export.path)
    sites = find_sites(model)[0]
    feeds = export.feeds(4, padded=True)
    unchanged(model, patch(model, healing(sites, Static()), sites), feeds)
    got = run_all(patch(model, healing(sites, Static((2, 3))), sites), feeds)
    valid = feeds["attention_mask"] != 0
    flags = got[f"atpatch_columns/{sites[0].id}"]
    module = build_model(family)
    width = module.inner.config.hidden_size
    with torch.no_grad(), healed(module, source_of(flags, valid), width):
        want = module(*(torch.from_numpy(feeds[name]) for name in ("input_ids", "attention_mask")))[0].numpy()
    name = next(name for name in got if not name.startswith("atpatch"))
    np.testing.assert_allclose(got[name][valid], want[valid], atol=1e-4 * np.abs(want).max(), rtol=0)


def refused(model: onnx.ModelProto, plan: PatchPlan, sites: tuple[Site, ...]) -> AtpatchError:
    with pytest.raises(AtpatchError) as caught:
        patch(model, plan, sites)
    return caught.value


def test_refusals_say_why() -> None:
    merged = merged_decoder()
    sites = find_sites(merged)[0][:LAYERS]
    assert refused(merged, healing(sites, Static((3,)), telemetry=False), sites).code == "ATP023"
    encoder = onnx.load(export_model("vit", "torchscript").path)
    sites = find_sites(encoder)[0]
    error = refused(encoder, healing(sites, Static((3,))), sites)
    assert error.code == "ATP023" and "tokens" in str(error) and "redistribute" in str(error)


@pytest.mark.parametrize(
    "options", [{"passes": "one"}, {"accept": "flip"}, {"groups": ()}], ids=["one pass", "flips", "outside the group"]
)
def test_plans_that_contradict_themselves(options: dict[str, object]) -> None:
    model, sites = searched("gpt2")
    plan = PatchPlan(**{**healing(sites, Static((3,))).__dict__, **options})  # type: ignore[arg-type]
    assert refused(model, plan, sites).code == "ATP024"


@pytest.mark.parametrize("how", ["all", "float-inputs"])
def test_half_precision(how: str) -> None:
    model = halved(how, "llama", "torchscript")
    sites = find_sites(model)[0]
    feeds = feeds_for(model, "llama", "torchscript")
    before = unchanged(model, patch(model, healing(sites, Static()), sites), feeds)
    whole = onnx.load(export_model("llama", "torchscript").path)
    firing, exact = (run_all(patch(one, healing(sites, Static((2, 3))), sites), feeds) for one in (model, whole))
    for name, array in before.items():
        want = exact[name].astype(np.float32)
        assert np.abs(firing[name] - array).max() > 0.1
        np.testing.assert_allclose(firing[name].astype(np.float32), want, atol=0.03 * np.abs(want).max(), rtol=0)


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("how", ["dynamic", "qdq"])
def test_quantized_projections(how: str, gating: str, tmp_path: Path) -> None:
    """Values are compared in the cache: rows of one layer's values do not depend on positions."""
    source, target = tmp_path / "llama.onnx", tmp_path / "quantized.onnx"
    onnx.save(decoder(True, "llama"), source)
    if how == "dynamic":
        quantize_dynamic(source, target)
    else:
        quantize_static(source, target, Feeds(), quant_format=QuantFormat.QDQ)
    model = onnx.load(target)
    sites = find_sites(model)[0]
    before = chat(model)
    silent, firing = (
        chat(patch(model, healing(sites, Static(columns), gating=gating), sites)) for columns in ((), (3,))
    )
    for one, other in zip(silent, before, strict=True):
        assert all(one[name].tobytes() == other[name].tobytes() for name in other)
    values, original = firing[-1]["present.0.value"], before[-1]["present.0.value"]
    assert np.array_equal(values[:, :, 3], original[:, :, 2]) and np.array_equal(values[:, :, :3], original[:, :, :3])
    assert np.abs(firing[-1]["logits"] - before[-1]["logits"]).max() > 1e-2


class Feeds(CalibrationDataReader):  # type: ignore[misc]
    """Three requests to calibrate on."""

    def __init__(self) -> None:
        self._requests = iter([decoder_feeds(True, seed=seed) for seed in range(3)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._requests, None)


@pytest.mark.parametrize("gating", ["if", "none"])
def test_detectors_that_read_the_answer_row(gating: str) -> None:
    """In a second turn too, where the row reads columns of the cache that are not judged again."""
    model, sites = searched("llama")
    mean, weight = np.zeros(HEADS, np.float32), np.ones((HEADS, 1), np.float32)
    detector = OneClass(mean, weight, squared=False, offset=0.0, probes=(), answer_row=True)
    answers = chat(patch(model, healing(sites, detector, joint="sum", threshold=3.5, gating=gating), sites))
    flags = [answer[f"atpatch_columns/{sites[0].id}"] for answer in answers]
    assert flags[0].any() and flags[1].any() and not np.concatenate(flags, 1).all(1).any()
    assert_agree("llama", answers)
