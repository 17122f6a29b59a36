"""Silent and firing patches on real exports: every family, both exporters, padded batches, both gates."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from rewriters.editing.patcher import patch, unpatch
from rewriters.finding.finder import find_sites
from rewriters.model.io import load
from rewriters.plan import BenignPair, PatchPlan, SitePlan, Static, Statistic
from rewriters.sites import Site
from tests import oracle
from tests.exports import EXPORTERS, FAMILIES, export_model

from .graphs import session
from .running import canonical, run_all, same_plan, with_outputs

CASES = [(family, exporter) for family in FAMILIES for exporter in EXPORTERS]
each_export = pytest.mark.parametrize(
    ("family", "exporter"), CASES, ids=[f"{family}-{exporter}" for family, exporter in CASES]
)


@each_export
def test_silent_patch_is_bit_identical_and_undone_exactly(family: str, exporter: str) -> None:
    export = export_model(family, exporter)
    model = load(export.path)
    sites, _ = find_sites(model)
    assert len(sites) == export.expected_sites
    for gating in ("if", "none"):
        patched = patch(model, same_plan(sites, SitePlan(Static()), gating=gating), sites)
        onnx.checker.check_model(patched)
        for padded in (False, True):
            feeds = export.feeds(3, padded)
            before, after = run_all(model, feeds), run_all(patched, feeds)
            for name, array in before.items():
                assert array.tobytes() == after[name].tobytes(), (gating, padded, name)
        assert unpatch(patched) == model


@pytest.mark.parametrize("columns", [(1,), (1, 3)], ids=["one", "two"])
@each_export
def test_firing_patch_agrees_with_the_oracle_at_every_site(
    family: str, exporter: str, columns: tuple[int, ...]
) -> None:
    export = export_model(family, exporter)
    model = load(export.path)
    sites, _ = find_sites(model)
    rng = np.random.default_rng(0)
    plans = {
        site.id: SitePlan(
            Static(columns),
            BenignPair(
                np.array([0.5], np.float32),
                rng.normal(size=(1, 1, site.head_dim)).astype(np.float32) if site.head_dim else None,
            ),
        )
        for site in sites
    }
    names = [name for site in sites for name in (site.probabilities, site.values, site.product)]
    for gating, padded in (("if", True), ("none", False)):
        patched = with_outputs(patch(model, PatchPlan(plans, gating=gating, telemetry=True), sites), names)  # type: ignore[arg-type]
        got = run_all(patched, export.feeds(3, padded))
        for site in sites:
            a = canonical(site, got[site.probabilities], site.layout.probabilities)
            v = canonical(site, got[site.values], site.layout.values)
            mask = got[f"atpatch_columns/{site.id}"]
            valid = _valid(site, a, export.feeds(3, padded))
            expected = np.zeros_like(mask)
            expected[:, [c for c in columns if c < mask.shape[1]]] = True
            np.testing.assert_array_equal(mask, expected & valid)
            want = oracle.joint(a, v, mask, valid, plans[site.id].benign)
            out = canonical(site, got[site.product], site.layout.output)
            np.testing.assert_allclose(out, want, atol=1e-5 * max(1.0, np.abs(want).max()), rtol=0)


def _valid(site: Site, a: np.ndarray, feeds: dict[str, np.ndarray]) -> np.ndarray:
    if site.key_mask is not None:
        return feeds[site.key_mask].astype(bool)
    return (a > 1e-30).any((1, 2))


@each_export
def test_unflagged_samples_of_a_mixed_batch_are_bit_identical(family: str, exporter: str) -> None:
    export = export_model(family, exporter)
    model = load(export.path)
    sites, _ = find_sites(model)
    feeds = export.feeds(4, False)
    calm = run_all(model, feeds)
    # The first site's scores decide the threshold, so that some samples fire there and some nowhere.
    patched = patch(model, same_plan(sites[:1], SitePlan(Statistic(exempt=())), telemetry=True), sites)
    live, split = session(patched), None
    accepted = {value.name for value in live.get_inputs()}
    given = {k: v for k, v in feeds.items() if k in accepted}
    for threshold in np.linspace(0.2, 6, 80):
        flags = live.run(["atpatch_flagged"], {**given, "atpatch_threshold": np.array(threshold, np.float32)})[0][:, 0]
        if 0 < flags.sum() < len(flags):
            split = threshold
            break
    assert split is not None
    wanted = list(calm)
    after = dict(
        zip(wanted, live.run(wanted, {**given, "atpatch_threshold": np.array(split, np.float32)}), strict=True)
    )
    changed = False
    for name, before in calm.items():
        if before.shape[:1] != (len(flags),):
            continue
        for sample, hit in enumerate(flags):
            if hit:
                changed |= not np.array_equal(before[sample], after[name][sample])
            else:
                assert before[sample].tobytes() == after[name][sample].tobytes(), (name, sample)
    assert changed


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("family", ["bert", "vit", "llama"])
def test_columns_are_carried_to_later_sites_of_a_group(family: str, exporter: str) -> None:
    """The first site flags, the second tells nothing by itself: grouped, they do what two flagging sites do."""
    export = export_model(family, exporter)
    model = load(export.path)
    (first, second), _ = find_sites(model)
    flag, silent = SitePlan(Static((1,))), SitePlan(Static())
    plans = {"carried": {first.id: flag, second.id: silent}, "both": {first.id: flag, second.id: flag}}
    carried = patch(model, PatchPlan(plans["carried"], groups=((first.id, second.id),)), (first, second))
    both = patch(model, PatchPlan(plans["both"]), (first, second))
    alone = patch(model, PatchPlan(plans["carried"]), (first, second))
    feeds = export.feeds(3, True)
    got, want, without = (run_all(patched, feeds) for patched in (carried, both, alone))
    for name, array in want.items():
        assert got[name].tobytes() == array.tobytes() != without[name].tobytes()
    assert unpatch(carried) == model
