"""Smoothing of attention rows, against a numpy oracle that writes the map out, with constants of its own."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import onnx
import pytest

from rewriters.editing.patcher import patch, unpatch
from rewriters.errors import AtpatchError
from rewriters.finding.finder import find_sites
from rewriters.plan import PatchPlan, SitePlan, Smoothing, Static
from rewriters.sites import Site
from tests.exports import export_model

from ..decoders import PAST, PRESENT, decoder, decoder_feeds, merged_decoder
from ..graphs import attention_block, run, session
from ..half_precision import half
from ..microsoft import GROUPED, Case
from ..running import run_all, with_outputs

PROMPTS = [case for case in GROUPED if case.truth.map.shape[2] > 3 and case.id != "gqa-further-prompt"]
LOW = Smoothing(tail=0.34, weak=0.2, strong=0.5, rows=2, floor=0.5)
"""For maps of six columns."""
UNSEEN, NO_MASS, SIGMA = 1e-30, 1e-6, 1.4826


def oracle(
    a: np.ndarray, v: np.ndarray, valid: np.ndarray, detector: Smoothing, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The output (B, H, Q, D), suspicious rows (B, H, Q) and the columns of their peaks (B, K), row by row."""
    a = a.astype(np.float64)
    batch, heads, rows, columns = a.shape
    v = np.broadcast_to(v.astype(np.float64), (batch, heads, columns, v.shape[-1]))
    out, hits, marked = a @ v, np.zeros((batch, heads, rows), bool), np.zeros((batch, columns), bool)
    for b in range(batch):
        sink = int(np.flatnonzero(valid[b])[0])
        seen = (a[b].mean(0) > UNSEEN) & valid[b]
        content = seen & (np.arange(columns) != sink)
        judged = (content.sum(1) >= detector.rows) & valid[b][columns - rows :]
        if judged.sum() < detector.rows:
            continue
        peaks = np.zeros((heads, rows))
        for h in range(heads):
            for i in np.flatnonzero(judged):
                on = np.where(content[i], a[b, h, i], 0)
                peaks[h, i] = on.max() / max(on.sum(), NO_MASS) * content[i].sum()
        size = max(int(np.ceil(np.float32(judged.sum()) * np.float32(detector.tail))), 1)
        top = -np.sort(-peaks, 1)[:, :size]
        tails = top.mean(1)
        center = np.median(tails)
        z = (tails - center) / (SIGMA * np.median(np.abs(tails - center)) + detector.floor)
        for h in np.flatnonzero(z > threshold):
            for i in np.flatnonzero(judged & (peaks[h] >= top[h, -1])):
                row, on = a[b, h, i], np.where(content[i], a[b, h, i], 0)
                spread = np.where(
                    content[i], (1 - detector.weak) * row + detector.weak * on.sum() / content[i].sum(), row
                )
                even = row.sum() * seen[i] / seen[i].sum()
                out[b, h, i] = ((1 - detector.strong) * spread + detector.strong * even) @ v[b, h]
                hits[b, h, i] = True
                marked[b, int(on.argmax())] = True
    return out, hits, marked


def plan_of(sites: tuple[Site, ...], detector: Smoothing, threshold: float = 0.0, **options: object) -> PatchPlan:
    plans = {site.id: SitePlan(detector) for site in sites}
    return PatchPlan(plans, threshold, **{"telemetry": True, **options})  # type: ignore[arg-type]


def real_columns(case: Case) -> np.ndarray:
    batch, _, _, columns = case.truth.map.shape
    if "seqlens_k" in case.feeds:
        return np.asarray(np.arange(columns) <= case.feeds["seqlens_k"].reshape(-1, 1))
    return np.ones((batch, columns), bool) if case.valid is None else case.valid.astype(bool)


def joined(out: np.ndarray) -> np.ndarray:
    return np.asarray(out.transpose(0, 2, 1, 3).reshape(out.shape[0], out.shape[2], -1))


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("case", PROMPTS, ids=[case.id for case in PROMPTS])
def test_next_to_group_query_attention(case: Case, gating: str) -> None:
    sites, _ = find_sites(case.model)
    patched = patch(case.model, plan_of(sites, LOW, gating=gating), sites)
    got, before = run(patched, case.feeds), run(case.model, case.feeds)
    want, hits, marked = oracle(case.truth.map, case.truth.values, real_columns(case), LOW, 0.0)
    assert hits.any() and not hits.all()
    quiet = ~hits.transpose(0, 2, 1).repeat(before["out"].shape[2] // hits.shape[1], 2)
    np.testing.assert_array_equal(got["out"][quiet], before["out"][quiet])
    np.testing.assert_allclose(got["out"], np.where(quiet, before["out"], joined(want)), atol=2e-5)
    np.testing.assert_array_equal(got[f"atpatch_columns/{sites[0].id}"], marked)
    assert all(array.tobytes() == got[name].tobytes() for name, array in before.items() if name != "out")
    assert unpatch(patched) == case.model


@pytest.mark.parametrize("case", GROUPED, ids=[case.id for case in GROUPED])
def test_a_map_of_few_rows_is_left_as_it_is(case: Case) -> None:
    """So is every step of a generation: it has one row."""
    sites, _ = find_sites(case.model)
    got, before = run(patch(case.model, plan_of(sites, Smoothing()), sites), case.feeds), run(case.model, case.feeds)
    assert all(array.tobytes() == got[name].tobytes() for name, array in before.items())
    assert not got["atpatch_flagged"].any()


def of_bert(detector: Smoothing, threshold: float, **options: object) -> tuple[dict[str, np.ndarray], ...]:
    model = onnx.load(export_model("bert", "torchscript").path)
    data = export_model("bert", "torchscript").feeds(3, padded=True)
    sites, _ = find_sites(model)
    inner = [name for site in sites[:1] for name in (site.probabilities, site.values, site.product)]
    before = run_all(with_outputs(model, inner), data)
    patched = patch(model, plan_of(sites[:1], detector, threshold, **options), sites)
    after = run_all(with_outputs(patched, [sites[0].product]), data)
    mask = next(array for name, array in data.items() if "mask" in name)
    a, v, out = (before[name] for name in inner)
    return {"a": a, "v": v, "out": out, "valid": mask != 0}, {**after, "out": after[sites[0].product]}


@pytest.mark.parametrize("threshold", [-9.0, 0.0, 0.4])
@pytest.mark.parametrize("gating", ["if", "none"])
def test_plain_operators_and_padding(gating: str, threshold: float) -> None:
    before, got = of_bert(LOW, threshold, gating=gating)
    want, hits, marked = oracle(before["a"], before["v"], before["valid"], LOW, threshold)
    assert hits.any() and not hits.all()
    np.testing.assert_array_equal(got["out"][~hits], before["out"][~hits])
    np.testing.assert_allclose(got["out"][hits], want[hits], atol=2e-5)
    (columns,) = (array for name, array in got.items() if name.startswith("atpatch_columns/"))
    np.testing.assert_array_equal(columns, marked)


@pytest.mark.parametrize(
    "change",
    [{"tail": 0.01}, {"tail": 1.0}, {"weak": 0.0}, {"weak": 0.9}, {"strong": 0.0}, {"strong": 1.0}, {"rows": 8}],
    ids=str,
)
def test_every_number_counts(change: dict[str, float]) -> None:
    detector = replace(LOW, **change)
    before, got = of_bert(detector, -9.0)
    want, hits, _ = oracle(before["a"], before["v"], before["valid"], detector, -9.0)
    usual, _, _ = oracle(before["a"], before["v"], before["valid"], LOW, -9.0)
    assert hits.any() and np.abs(want - usual).max() > 1e-3
    np.testing.assert_allclose(got["out"][hits], want[hits], atol=2e-5)


def test_a_session_moves_the_bar_through_all_heads() -> None:
    """Each z-score is met closely, so that it depends on every number in it."""
    case = PROMPTS[0]
    sites, _ = find_sites(case.model)
    live = session(patch(case.model, plan_of(sites, LOW), sites))
    counts = set()
    for threshold in np.linspace(-1.5, 3.0, 181):
        want, hits, _ = oracle(case.truth.map, case.truth.values, real_columns(case), LOW, threshold)
        (got,) = live.run(["out"], {**case.feeds, "atpatch_threshold": np.array(threshold, np.float32)})
        np.testing.assert_allclose(got, joined(want), atol=2e-5, err_msg=f"{threshold}")
        counts.add(int(hits.any(2).sum()))
    assert len(counts) > 5


def test_nothing_moves_above_every_head() -> None:
    before, got = of_bert(LOW, 1e6)
    assert got["out"].tobytes() == before["out"].tobytes()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_decoder_smooths_its_prompt_and_no_step(family: str) -> None:
    """What was smoothed is in the cache of the layers behind it."""
    prompt, step = decoder(False, family), decoder(True, family)
    detector = LOW
    data = {name: array for name, array in decoder_feeds(False).items() if name not in PAST}
    sites, _ = find_sites(prompt)
    before = run(with_outputs(prompt, [name for site in sites for name in (site.probabilities, site.values)]), data)
    got = run(patch(prompt, plan_of(sites, detector), sites), data)
    valid = data["attention_mask"] != 0
    first = sites[0]
    _, _, marked = oracle(before[first.probabilities], before[first.values], valid, detector, 0.0)
    np.testing.assert_array_equal(got[f"atpatch_columns/{first.id}"], marked)
    assert not np.array_equal(got["logits"], before["logits"])
    np.testing.assert_array_equal(got[PRESENT[0]], before[PRESENT[0]])  # nothing lies before the first layer
    assert not np.array_equal(got[PRESENT[2]], before[PRESENT[2]])
    cached = {name.replace("present", "past_key_values"): got[name] for name in PRESENT}
    mask = np.concatenate([data["attention_mask"], np.ones((3, 1), np.int64)], 1)
    further = {"input_ids": data["input_ids"][:, :1], "attention_mask": mask, **cached}
    found, _ = find_sites(step)
    original, after = run(step, further), run(patch(step, plan_of(found, detector), found), further)
    assert all(array.tobytes() == after[name].tobytes() for name, array in original.items())


@pytest.mark.parametrize("gating", ["if", "none"])
def test_the_patch_can_be_switched_off(gating: str) -> None:
    case = PROMPTS[0]
    sites, _ = find_sites(case.model)
    patched, before = patch(case.model, plan_of(sites, LOW, gating=gating), sites), run(case.model, case.feeds)
    assert run(patched, case.feeds)["out"].tobytes() != before["out"].tobytes()
    for controls in ({"atpatch_enabled": np.array(False)}, {"atpatch_threshold": np.array(1e6, np.float32)}):
        assert run(patched, case.feeds, **controls)["out"].tobytes() == before["out"].tobytes()


@pytest.mark.parametrize("case", PROMPTS[:3], ids=[case.id for case in PROMPTS[:3]])
def test_half_precision(case: Case) -> None:
    model = half(case.model)
    data = {name: x.astype(np.float16) if x.dtype == np.float32 else x for name, x in case.feeds.items()}
    sites, _ = find_sites(model)
    got, before = run(patch(model, plan_of(sites, LOW), sites), data), run(model, data)
    want, hits, _ = oracle(case.truth.map, case.truth.values, real_columns(case), LOW, 0.0)
    quiet = ~hits.transpose(0, 2, 1).repeat(before["out"].shape[2] // hits.shape[1], 2)
    assert got["out"].dtype == np.float16
    np.testing.assert_array_equal(got["out"][quiet], before["out"][quiet])
    np.testing.assert_allclose(got["out"], np.where(quiet, before["out"], joined(want)), atol=1e-2)


@pytest.mark.parametrize("what", ["cross-attention", "a branch"])
def test_rows_that_are_not_the_last_of_their_columns_are_refused(what: str) -> None:
    model = attention_block().model if what == "cross-attention" else merged_decoder()
    sites, _ = find_sites(model)
    with pytest.raises(AtpatchError) as caught:
        patch(model, plan_of(sites, LOW, telemetry=False), sites)
    assert caught.value.code == "ATP023"


@pytest.mark.parametrize(
    "change", [{"tail": 1.1}, {"weak": -0.1}, {"strong": 2.0}, {"rows": 0}, {"floor": 0.0}], ids=str
)
def test_impossible_numbers_are_refused(change: dict[str, float]) -> None:
    case = PROMPTS[0]
    sites, _ = find_sites(case.model)
    with pytest.raises(AtpatchError) as caught:
        patch(case.model, plan_of(sites, replace(LOW, **change)), sites)  # type: ignore[arg-type]
    assert caught.value.code == "ATP024"


def test_it_flags_no_columns_for_a_second_pass() -> None:
    model = decoder(False)
    sites, _ = find_sites(model)
    group = (tuple(site.id for site in sites),)
    with pytest.raises(AtpatchError) as caught:
        patch(model, plan_of(sites, LOW, passes="two", groups=group), sites)
    assert caught.value.code == "ATP024"


def test_other_sites_may_have_other_detectors() -> None:
    model = decoder(False)
    sites, _ = find_sites(model)
    data = {name: array for name, array in decoder_feeds(False).items() if name not in PAST}
    mixed = PatchPlan({sites[0].id: SitePlan(Static()), sites[1].id: SitePlan(LOW)}, 0.0, telemetry=True)
    got = run(patch(copy.deepcopy(model), mixed, sites), data)
    assert got["atpatch_flagged"][:, 1].any() and not got["atpatch_flagged"][:, 0].any()
