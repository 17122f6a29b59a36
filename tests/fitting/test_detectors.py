"""Features and training of the `profile` detector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from atpatch_onnx.fitting.detectors.features import (
    Columns,
    norm_features,
    profile_features,
    profile_logits,
    profile_scores,
)
from rewriters.plan import BenignPair, Dense, PatchPlan, Profile, SitePlan, ValueNorms
from tests import oracle

torch = pytest.importorskip("torch")
from atpatch_onnx.fitting.detectors.contrastive import SupervisedContrastive  # noqa: E402
from atpatch_onnx.fitting.detectors.profile import anchor, train_profile  # noqa: E402


def maps(
    batch: int = 3, heads: int = 2, length: int = 6, padding: int = 0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Attention maps whose last columns are padding in all but the first sample, and the valid columns."""
    scores = np.random.default_rng(seed).standard_normal((batch, heads, length, length)) * 2
    valid = np.ones((batch, length), bool)
    valid[1:, length - padding :] = False
    scores = np.where(valid[:, None, None, :], scores, -np.inf)
    weights = np.exp(scores - scores.max(3, keepdims=True))
    return (weights / weights.sum(3, keepdims=True)).astype(np.float32), valid


def random_profile(features: int, probes: tuple[int, ...], seed: int = 1, every: int = 1) -> Profile:
    r = np.random.default_rng(seed)
    layers = tuple(
        Dense(r.standard_normal(shape).astype(np.float32), r.standard_normal(shape[1]).astype(np.float32))
        for shape in ((features, 5), (5, 1))
    )
    return Profile(
        layers, r.random(features).astype(np.float32), (r.random(features) + 0.5).astype(np.float32), probes, every
    )


def test_features_of_a_map_worked_by_hand():
    a = np.float32([[[[0.25, 0.75], [0.5, 0.5]], [[1.0, 0.0], [0.2, 0.8]]]])
    expected = np.log1p(2 * np.array([[[0.375, 0.6, 0.25, 1.0], [0.625, 0.4, 0.75, 0.0]]]))
    np.testing.assert_allclose(profile_features(a), expected, rtol=1e-6)


@pytest.mark.parametrize("probes", [(), (0,), (0, 3)])
@pytest.mark.parametrize("self_attention", [True, False])
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("every", [1, 2, 5])
def test_scores_agree_with_the_oracle(padding, self_attention, probes, every):
    a, valid = maps(padding=padding)
    detector = random_profile(2 * (1 + len(probes)), probes, every=every)
    ours = profile_scores(
        detector, profile_features(a, valid, self_attention=self_attention, probes=probes, every=every)
    )
    theirs = oracle.profile(a, valid, detector, self_attention)
    np.testing.assert_allclose(ours[valid], theirs[valid], atol=1e-6)


def test_norms_worked_by_hand():
    values = np.float32([[[[3, 4], [0, 0]]]])
    of_values = norm_features(values, ValueNorms(), batch=2, heads=1)
    np.testing.assert_allclose(of_values, np.log([[[5 + 1e-4], [1e-4]]] * 2), rtol=1e-6)
    factor = np.float32([[[2], [0]], [[0], [1]]])
    projected = norm_features(values, ValueNorms(factor), batch=1, heads=2)
    np.testing.assert_allclose(projected, np.log(np.add([[[6, 4], [0, 0]]], 1e-4)), rtol=1e-6)


@pytest.mark.parametrize("factor", [None, (2, 4, 4), (1, 4, 3)], ids=str)
@pytest.mark.parametrize("shape", [(3, 2), (3, 1), (1, 2), (1, 1)], ids=str)
def test_scores_with_norms_agree_with_the_oracle(shape, factor):
    a, valid = maps(padding=2)
    r = np.random.default_rng(9)
    v = r.standard_normal((*shape, 6, 4)).astype(np.float32)
    norms = ValueNorms(None if factor is None else r.standard_normal(factor).astype(np.float32))
    detector = replace(random_profile(2 * 3, (0,)), norms=norms)
    ours = profile_scores(detector, profile_features(a, valid, values=v, norms=norms))
    np.testing.assert_allclose(ours[valid], oracle.profile(a, valid, detector, True, v)[valid], atol=1e-6)


def test_padding_changes_no_feature_of_a_real_column():
    a, valid = maps(batch=2, length=6, padding=2)
    padded = profile_features(a, valid)[1, :4]
    cropped = profile_features(a[1:, :, :4, :4])[0]
    np.testing.assert_allclose(padded, cropped, atol=1e-6)


def separable(seed: int = 0) -> Columns:
    r = np.random.default_rng(seed)
    x = r.standard_normal((2000, 6)).astype(np.float32)
    anomalous = np.zeros(2000, bool)
    anomalous[:60] = True
    # Too much in one feature or too little in another: no single linear cut finds both.
    x[:30, 0] += 6
    x[30:60, 0] -= 6
    return Columns(x, anomalous, np.zeros(2000, np.int64))


def test_training_finds_over_and_under_attention_that_it_has_not_seen():
    detector = train_profile(separable(0), probes=(), seed=3)
    unseen = separable(1)
    logits = profile_logits(detector, unseen.features)
    assert (logits[unseen.anomalous] > 0).mean() >= 0.95
    assert (logits[~unseen.anomalous] > 0).mean() <= 0.03
    assert detector.layers[0].weight.dtype == np.float32


def told_by_three_signs(seed: int) -> Columns:
    """A column is anomalous where the sign of the third feature is that of the product of the first two."""
    r = np.random.default_rng(seed)
    x = r.standard_normal((6000, 6)).astype(np.float32)
    signs = r.choice([-1, 1], (150, 2))
    x[:150, :3] = 1.6 * np.column_stack([signs, signs.prod(1)]) + 0.3 * r.standard_normal((150, 3))
    return Columns(x, np.arange(6000) < 150, np.zeros(6000, np.int64))


def test_thorough_training_finds_more_above_the_same_bar():
    seen, unseen = told_by_three_signs(0), told_by_three_signs(1)
    found = []
    for thorough in (False, True):
        logits = profile_logits(train_profile(seen, probes=(), seed=3, thorough=thorough), unseen.features)
        bar = np.sort(logits[~unseen.anomalous])[-30]  # half a percent of the clean columns
        found.append((logits[unseen.anomalous] > bar).mean())
    assert found[1] >= 1.5 * found[0] > 0


def test_training_is_repeatable_and_leaves_torch_as_it_was():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    first, second = (train_profile(separable(), probes=(), seed=3) for _ in range(2))
    other = train_profile(separable(), probes=(), seed=4)
    for a, b in zip(first.layers, second.layers, strict=True):
        assert a.weight.tobytes() == b.weight.tobytes() and a.bias.tobytes() == b.bias.tobytes()
    assert first.layers[0].weight.tobytes() != other.layers[0].weight.tobytes()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_contrastive_loss_falls_when_classes_come_together():
    label = torch.tensor([1.0, 1.0, 0.0, 0.0])
    apart = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    together = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    assert SupervisedContrastive(label)(together) < SupervisedContrastive(label)(apart)


def test_contrastive_loss_by_hand():
    inner = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 1.0]])
    expected = np.log((np.exp(1 / 0.2) + 2 * np.exp(0)) / np.exp(1 / 0.2))
    assert SupervisedContrastive(torch.tensor([1.0, 1.0, 0.0, 0.0]))(inner).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("positives", "negatives"), [(5, 9), (1, 6)])
def test_contrastive_loss_is_that_of_its_definition(positives: int, negatives: int) -> None:
    """In float64, anchor by anchor; a class of one is no anchor. Features of nothing but 0 have no direction."""
    inner = np.maximum(np.random.default_rng(0).normal(size=(positives + negatives, 4)), 0)
    inner[1] = 0
    label = np.repeat([1, 0], [positives, negatives])
    direction = inner / np.maximum(np.linalg.norm(inner, axis=1, keepdims=True), 1e-6)
    likeness = np.exp(direction @ direction.T / 0.2)
    losses = []
    for anchor_row in range(len(label)):
        others = np.arange(len(label)) != anchor_row
        same = others & (label == label[anchor_row])
        if same.any():
            losses.append(-np.log(likeness[anchor_row, same].sum() / likeness[anchor_row, others].sum()))
    loss = SupervisedContrastive(torch.from_numpy(label.astype(np.float32)))
    features = torch.from_numpy(inner.astype(np.float32)).requires_grad_()
    assert loss(features).item() == pytest.approx(np.mean(losses), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss(features), [features])
    assert torch.isfinite(gradient).all()


def test_anchor_moves_the_center_to_one_half_and_keeps_the_order():
    detector = random_profile(6, ())
    x = separable().features
    before = profile_logits(detector, x)
    after = profile_logits(anchor(detector, 1.5, 2.0), x)
    np.testing.assert_allclose(after, (before - 1.5) * 2.0, atol=1e-4)


def test_the_graph_flags_what_the_reference_scores_above_the_threshold():
    from tests.rewriters.graphs import attention_block, run

    block = attention_block(queries=6) if "queries" in attention_block.__annotations__ else attention_block()
    r = np.random.default_rng(2)
    q, k, v, bias = (
        r.standard_normal(shape).astype(np.float32) * 2
        for shape in ((3, 2, 7, 4), (3, 2, 7, 4), (3, 2, 7, 4), (3, 1, 7, 7))
    )
    feeds = {"q": q, "k": k, "v": v, "bias": bias}
    a = run(block.model, feeds)["p"]
    detector = random_profile(4, (0,))
    scores = profile_scores(detector, profile_features(a, self_attention=block.site.self_attention))
    plan = PatchPlan(
        {block.site.id: SitePlan(detector, BenignPair())}, threshold=float(np.median(scores)), telemetry=True
    )
    from rewriters.editing.patcher import patch

    columns = run(patch(block.model, plan, [block.site]), feeds)[f"atpatch_columns/{block.site.id}"]
    clear = np.abs(scores - np.median(scores)) > 1e-5
    assert clear.sum() >= 19
    np.testing.assert_array_equal(columns[clear], (scores > np.median(scores))[clear])
