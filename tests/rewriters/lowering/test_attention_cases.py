"""Every attention case of onnx's own backend tests, as operator and as function body: found, silent to the bit, right
when it fires.

A case that onnxruntime cannot run is judged with onnx's reference evaluator. The table in `COUNTS` is the whole result:
a case that changes sides shows.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.backend.test.case import node as cases_of_operators
from onnx.backend.test.case.test_case import TestCase
from onnx.reference import ReferenceEvaluator

from rewriters.editing.patcher import patch, unpatch
from rewriters.finding.finder import find_sites
from rewriters.plan import BenignPair, PatchPlan, SitePlan, Static
from rewriters.sites import Rejection, Site
from tests import oracle

from ..graphs import session
from ..running import with_outputs

pytestmark = pytest.mark.slow

COUNTS = {
    "passed on onnxruntime": 186,
    "passed on the reference evaluator, onnxruntime cannot run it": 11,
    "refused: no-map": 14,
    "refused: fused, onnxruntime cannot run it": 11,
    "no Softmax in it": 14,
}

OUTSIDE_ITS_OWN_TOLERANCE = {
    "test_attention_4d_causal_fp16",  # one unit in the last place
    "test_attention_4d_with_past_and_present_qk_matmul_bias_3d_mask_causal",  # the lowest float where the case has -inf
    "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal",
}
"""Cases that unpatched onnxruntime misses."""

COLUMN = 1
TOLERANCE = {TensorProto.FLOAT16: 2e-3, TensorProto.BFLOAT16: 1e-2}
"""Largest difference to the oracle in units of the largest output; 1e-5 for all other types."""

Feeds = dict[str, np.ndarray]
Runner = Callable[[onnx.ModelProto, Feeds, list[str]], dict[str, np.ndarray]]


@dataclass
class Judged:
    """One case: who could run it, what the finder said, and all that went wrong."""

    name: str
    runner: str | None
    sites: tuple[Site, ...]
    rejected: tuple[Rejection, ...]
    softmaxes: int
    problems: list[str] = field(default_factory=list)
    reference_missed: bool = False
    fired: bool = False

    @property
    def verdict(self) -> str:
        elsewhere = "" if self.runner == "onnxruntime" else ", onnxruntime cannot run it"
        if self.problems:
            return "wrong"
        if self.sites:
            return (
                f"passed on {'onnxruntime' if self.runner == 'onnxruntime' else 'the reference evaluator'}{elsewhere}"
            )
        if self.rejected:
            return f"refused: {', '.join(rejection.code for rejection in self.rejected)}{elsewhere}"
        return f"{self.softmaxes or 'no'} Softmax in it{elsewhere}"


@pytest.fixture(scope="module")
def judged() -> list[Judged]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # A file makes its cases when it is imported; those of all operators would take five seconds.
        for file in pkgutil.iter_modules(cases_of_operators.__path__, f"{cases_of_operators.__name__}."):
            if "attention" in file.name:
                importlib.import_module(file.name)
        cases = {case.name: case for case in cases_of_operators._NodeTestCases if "attention" in case.name}
        return [judge(case, cases.get(f"{case.name}_expanded", case)) for case in cases.values()]


def test_counts(judged: list[Judged]) -> None:
    wrong = {case.name: case.problems for case in judged if case.problems}
    assert not wrong
    assert Counter(case.verdict for case in judged) == COUNTS
    assert sum(COUNTS.values()) == 236


def test_one_site_or_a_reason(judged: list[Judged]) -> None:
    """Linear attention has no map; of FlexAttention, which onnxruntime does not know, the function body is a site."""
    for case in judged:
        linear, flex = "linear_attention" in case.name, "flexattention" in case.name and "expanded" not in case.name
        assert len(case.sites) == (0 if linear or flex else 1), case.name
        if linear and "expanded" not in case.name:
            assert [rejection.reason for rejection in case.rejected] == [
                "the operator carries a state from token to token instead of weighing columns, so it has no attention"
                " map (LinearAttention)"
            ]
        elif flex:
            assert "with its function body inlined (onnx.inliner) it can be patched" in case.rejected[0].reason
        else:
            assert not case.rejected, case.name


def test_only_known_cases_are_missed_by_onnxruntime_itself(judged: list[Judged]) -> None:
    assert {case.name for case in judged if case.reference_missed} == OUTSIDE_ITS_OWN_TOLERANCE


def test_all_but_two_cases_fire(judged: list[Judged]) -> None:
    """Column 1 is out of every row's sight there."""
    calm = {case.name.removesuffix("_expanded") for case in judged if case.sites and not case.fired}
    assert calm == {"test_attention_causal_boolmask_nan_robustness", "test_attention_local_window_with_past"}


def judge(case: TestCase, body: TestCase) -> Judged:
    """`body`: the same case with its function inlined, or the case itself; the oracle's map and values are taken from
    there.
    """
    assert case.model is not None and case.data_sets
    inputs, expected = case.data_sets[0]
    feeds = dict(zip([value.name for value in case.model.graph.input], inputs, strict=True))
    names = [value.name for value in case.model.graph.output]
    sites, rejected = find_sites(case.model)
    softmaxes = sum(node.op_type == "Softmax" for node in case.model.graph.node)
    label, run, before = original(case.model, feeds, names)
    result = Judged(case.name, label, sites, rejected, softmaxes)
    if run is None:
        return result
    result.reference_missed = not within_tolerance(case, before, expected)
    if sites:
        try:
            silent(case, sites, run, feeds, before, result)
            firing(case, body, sites[0], run, feeds, result)
        # onnxruntime refuses what was written; the other cases are worth knowing all the same
        except Exception as error:
            result.problems.append(f"patched: {error}")
    return result


def original(
    model: onnx.ModelProto, feeds: Feeds, names: list[str]
) -> tuple[str | None, Runner | None, dict[str, np.ndarray]]:
    runners: dict[str, Runner] = {
        "onnxruntime": lambda m, f, n: dict(zip(n, session(m).run(n, f), strict=True)),
        "reference": lambda m, f, n: dict(zip(n, ReferenceEvaluator(m).run(n, f), strict=True)),
    }
    for label, run in runners.items():
        try:
            return label, run, run(model, feeds, names)
        except Exception:  # onnxruntime has no kernel, or refuses the operator, the opset or the mask
            continue
    return None, None, {}


def within_tolerance(case: TestCase, got: dict[str, np.ndarray], expected: list[np.ndarray]) -> bool:
    return all(
        np.allclose(mine.astype(np.float64), np.asarray(want, np.float64), case.rtol, case.atol, equal_nan=True)
        for mine, want in zip(got.values(), expected, strict=True)
    )


def silent(
    case: TestCase, sites: tuple[Site, ...], run: Runner, feeds: Feeds, before: dict[str, np.ndarray], result: Judged
) -> None:
    """Bit-identical to the unpatched run, hence as near to the case's outputs as that is."""
    for gating in ("if", "none"):
        patched = patch(case.model, PatchPlan({site.id: SitePlan(Static()) for site in sites}, gating=gating), sites)
        onnx.checker.check_model(patched)
        after = run(patched, feeds, list(before))
        if any(before[name].tobytes() != after[name].tobytes() for name in before):
            result.problems.append(f"silent, {gating}: differs")
        if unpatch(patched) != case.model:
            result.problems.append(f"silent, {gating}: not undone")


def firing(case: TestCase, body: TestCase, site: Site, run: Runner, feeds: Feeds, result: Judged) -> None:
    """Against the joint redistribution in float64, on map and values of the function body."""
    a, v = body_map_and_values(body, run, feeds)
    valid = (a > 1e-30).any((1, 2))
    mask = np.zeros_like(valid)
    mask[:, COLUMN] = valid[:, COLUMN]
    rng = np.random.default_rng(0)
    pair = BenignPair(np.array([0.5], np.float32), rng.normal(size=(1, 1, v.shape[-1])).astype(np.float32))
    want = oracle.joint(a, v, mask, valid, pair)
    scale = max(1.0, np.abs(want).max())
    result.fired = not np.allclose(want, a @ v, atol=1e-3, rtol=0)
    for gating in ("if", "none"):
        plan = PatchPlan({site.id: SitePlan(Static((COLUMN,)), pair)}, gating=gating, telemetry=True)
        patched = with_outputs(patch(case.model, plan, [site]), [site.product], site.dtype)
        got = run(patched, feeds, [site.product, f"atpatch_columns/{site.id}"])
        out, columns = got[site.product].astype(np.float64), got[f"atpatch_columns/{site.id}"]
        if out.ndim == 3:
            out = out.reshape(*out.shape[:2], site.heads, -1).transpose(0, 2, 1, 3)
        if not np.array_equal(columns, mask):
            result.problems.append(f"firing, {gating}: flags {columns.tolist()}, not {mask.tolist()}")
        difference = np.abs(out - want).max() / scale
        if not difference <= TOLERANCE.get(site.dtype, 1e-5):
            result.problems.append(f"firing, {gating}: {difference:.1e} off")


def body_map_and_values(body: TestCase, run: Runner, feeds: Feeds) -> tuple[np.ndarray, np.ndarray]:
    (site,), _ = find_sites(body.model)
    names = [site.probabilities, site.values]
    got = run(with_outputs(body.model, names, site.dtype), feeds, names)
    return got[site.probabilities].astype(np.float64), got[site.values].astype(np.float64)
