"""`statistic` where attention sinks are: columns that few rows see, and columns whose values are next to nothing.

The oracle here is written from the definitions, with constants of its own.
"""

from __future__ import annotations

import numpy as np
import pytest

from rewriters.editing.patcher import patch
from rewriters.plan import BenignPair, PatchPlan, SitePlan, Statistic

from ..graphs import attention_block, feeds, run
from .random_detectors import separating

KEYS = 24


def oracle(a: np.ndarray, v: np.ndarray, rows: int, by_values: bool, exempt: tuple[int, ...]) -> np.ndarray:
    """Scores (B, K) of maps (B, H, Q, K) with values (B, H, K, D); a column without any mass is padding."""
    a, v = a.astype(np.float64), v.astype(np.float64)
    out = np.full(a.shape[::3], -np.inf)
    for b, (maps, values) in enumerate(zip(a, v, strict=True)):
        real = [k for k in range(maps.shape[2]) if maps[:, :, k].max() > 0]
        sees = maps.mean(0) > 0
        enough = [k for k in real if sees[:, k].sum() >= min(rows, len(real))]
        norms = np.sqrt((values**2).sum(-1))
        norms = norms / norms[:, real].mean(1, keepdims=True)
        scores = []
        for weights in [np.ones_like(norms), norms][: 1 + by_values]:
            mass = {}
            for k in enough:
                looking = [q for q in range(maps.shape[1]) if sees[q, k]]
                mass[k] = np.mean([(maps[:, q, k] * weights[:, k]).mean() * sees[q].sum() for q in looking])
            middle = np.median(list(mass.values()))
            spread = np.median([abs(x - middle) for x in mass.values()])
            scores.append([(mass[k] - middle) / (1.4826 * spread + 0.25) for k in enough])
        out[b, enough] = np.min(scores, 0)
        for place in exempt:
            out[b, real[place]] = -np.inf
    return out


def causal(queries: int) -> np.ndarray:
    """Bias of the last query rows of a causal map."""
    return np.where(np.arange(KEYS) > np.arange(KEYS - queries, KEYS)[:, None], -np.inf, 0).astype(np.float32)


def with_sinks(queries: int, *, mask: bool = True, padded: slice = slice(0, 0)) -> dict[str, np.ndarray]:
    """Column 9 draws much in every head and writes little; the first real one too."""
    data = feeds(queries=queries, keys=KEYS, seed=3)
    data["bias"] = data["bias"] + (causal(queries) if mask else 0)
    data["bias"][1:, ..., padded] = -np.inf
    for column in (0, 9):
        data["bias"][..., column] += 5.0
        data["v"][:, :, column] *= 0.02
    return data


def columns(
    detector: Statistic, data: dict[str, np.ndarray], threshold: float, **options: object
) -> dict[str, np.ndarray]:
    block = attention_block()
    plan = PatchPlan({block.site.id: SitePlan(detector, BenignPair())}, threshold, telemetry=True, **options)  # type: ignore[arg-type]
    got = run(patch(block.model, plan, [block.site]), data)
    return {"p": got["p"], "out": got["out"], "columns": got[f"atpatch_columns/{block.site.id}"]}


@pytest.mark.parametrize("gating", ["if", "none"])
@pytest.mark.parametrize("exempt", [(), (0, -1)], ids=str)
@pytest.mark.parametrize(("rows", "by_values"), [(8, False), (1, True), (8, True)], ids=["rows", "values", "both"])
@pytest.mark.parametrize(
    "case",
    [
        {"queries": KEYS},
        {"queries": 12},
        {"queries": KEYS, "mask": False},
        {"queries": KEYS, "mask": False, "padded": slice(17, None)},
    ],
    ids=["causal", "behind a cache", "all rows alike", "padded"],
)
def test_against_the_oracle(case, rows, by_values, exempt, gating):
    data = with_sinks(**case)
    a = run(attention_block().model, data)["p"]
    scores = oracle(a, data["v"], rows, by_values, exempt)
    threshold = separating(scores)
    detector = Statistic(exempt, rows=rows, by_values=by_values)
    np.testing.assert_array_equal(columns(detector, data, threshold, gating=gating)["columns"], scores > threshold)


def test_a_sink_is_a_trigger_by_its_mass_and_none_by_what_it_writes():
    data = with_sinks(KEYS, mask=False)
    assert columns(Statistic(), data, 8.0)["columns"][:, 9].all()
    assert not columns(Statistic(by_values=True), data, 8.0)["columns"].any()


def test_a_column_that_draws_and_writes_is_still_a_trigger():
    data = with_sinks(KEYS, mask=False)
    data["v"][:, :, 9] *= 50
    flags = columns(Statistic(rows=8, by_values=True), data, 8.0)["columns"]
    assert flags[:, 9].all() and flags.sum() == len(flags)


@pytest.mark.parametrize("queries", [1, 3])
def test_a_few_rows_behind_a_cache_judge_nothing(queries):
    data = with_sinks(queries)
    data["v"][:, :, 9] *= 50
    assert columns(Statistic(by_values=True), data, 8.0)["columns"].any()
    assert not columns(Statistic(rows=8, by_values=True), data, 8.0)["columns"].any()


def test_a_short_text_is_judged_by_all_its_rows():
    """Three tokens have three rows, and no more can be asked for."""
    data = feeds(queries=3, keys=3)
    data["bias"][..., 1] += 8.0
    assert columns(Statistic((), rows=8), data, 3.0)["columns"][:, 1].all()


@pytest.mark.parametrize("gating", ["if", "none"])
def test_what_is_not_flagged_is_bit_identical_whatever_the_batch_holds(gating):
    data = with_sinks(KEYS, mask=False)
    data["v"][0, :, 9] *= 50  # the first sample has a trigger
    together = columns(Statistic(rows=8, by_values=True), data, 8.0, gating=gating)
    assert together["columns"].any(1).tolist() == [True, False, False]
    original = run(attention_block().model, data)["out"]
    assert together["out"][1:].tobytes() == original[1:].tobytes()
    alone = columns(
        Statistic(rows=8, by_values=True), {name: array[:1] for name, array in data.items()}, 8.0, gating=gating
    )
    np.testing.assert_array_equal(alone["columns"], together["columns"][:1])


def test_values_that_are_all_zero_are_no_trouble():
    data = with_sinks(KEYS, mask=False)
    data["v"][:] = 0
    assert not columns(Statistic(rows=8, by_values=True), data, 8.0)["columns"].any()
