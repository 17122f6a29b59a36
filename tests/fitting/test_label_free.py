"""`fit` on clean rows only: what it may cost, what it reads, attacks among the rows, and what it needs installed."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from atpatch_onnx.fitting.clean_columns import CleanColumns, _highest, most_attacks
from atpatch_onnx.fitting.costs import Bounds, Costs
from atpatch_onnx.fitting.fitter import fit
from atpatch_onnx.fitting.splits import Part, Split, join, split_clean
from atpatch_onnx.fitting.training import Context
from atpatch_onnx.hotfix.file import Hotfix, is_silent
from atpatch_onnx.inference.capture import Capture
from atpatch_onnx.inference.datasets import DataSet, as_dataset
from atpatch_onnx.inference.prediction import Served
from rewriters.finding.finder import find_sites
from rewriters.plan import PatchPlan

toys = pytest.importorskip("tests.toy_backdoor", reason="torch trains the toys")


@functools.cache
def hotfix_by_default(padded: bool) -> Hotfix:
    return fit(toys.toy(padded).model, None, toys.many_clean(padded), detector="oneclass", threads=1)


@pytest.mark.parametrize("padded", [True, False], ids=["padded", "fixed"])
def test_by_default_two_passes_flag_as_much_as_the_costs_allow_and_accept_flips(padded: bool) -> None:
    hotfix = hotfix_by_default(padded)
    calibration = hotfix.evidence["calibration"]
    assert (hotfix.passes, hotfix.joint, hotfix.accept) == ("two", "sum", "flip")
    chosen = [one for one in calibration["costs"]["tried"] if one["threshold"] == hotfix.threshold]
    chosen = [one for one in chosen if (one["most"], one["companion"]) == (hotfix.most, hotfix.companion)]
    assert chosen and chosen[0]["lost"] <= 0.002
    assert calibration["clean_flagged"]["rate"] == pytest.approx(chosen[0]["extra_runs"])
    assert chosen[0]["extra_runs"] <= 0.03
    seen = toys.outcome(hotfix, padded)
    assert seen["asr_star"] <= (0.5 if padded else 0.1) and seen["accuracy_drop"] <= 0.01
    assert hotfix.lengths == ({"shortest": 7, "longest": 12} if padded else {})


def test_a_share_of_flagged_rows_that_is_given_wins_over_the_costs() -> None:
    hotfix = fit(
        toys.toy(False).model,
        None,
        toys.many_clean(False),
        detector="oneclass",
        max_clean_flagged=0.03,
        max_extra_runs=0.5,
        threads=1,
    )
    costs = hotfix.evidence["calibration"]["costs"]["tried"]
    assert {one["threshold"] for one in costs} == {hotfix.threshold}
    assert 0.01 < hotfix.evidence["calibration"]["clean_flagged"]["rate"] <= 0.03


def test_every_answer_is_accepted_where_the_graph_has_no_output_to_compare_and_the_evidence_says_so() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(toys.toy(False).model)
    model.graph.node.append(helper.make_node("Cast", ["logits"], ["wide"], to=TensorProto.DOUBLE))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("wide", TensorProto.DOUBLE, ["batch", 2]))
    hotfix = fit(model, None, toys.many_clean(False), detector="oneclass", threads=1)
    accepted = hotfix.evidence["calibration"]["accept"]
    assert (hotfix.passes, hotfix.accept, accepted["chosen"]) == ("two", "always", "always")
    assert "no output of class scores" in accepted["why"]


def test_signals_are_both_by_default_and_attention_where_it_is_asked_for() -> None:
    single = fit(
        toys.toy(False).model, None, toys.many_clean(False), detector="oneclass", signals="attention", threads=1
    )
    for hotfix, both in ((hotfix_by_default(False), True), (single, False)):
        detectors = [one.plan.detector for one in hotfix.sites if not is_silent(one.plan)]
        assert [one.norms is not None for one in detectors] == [both] * len(detectors)
        assert hotfix.evidence["calibration"]["signals"]["chosen"] == ("both" if both else "attention")


# --- attacks among the rows


@pytest.mark.parametrize("every", [1, 3])
def test_where_tokens_are_many_equal_ones_are_scored_together_as_in_the_graph(every: int) -> None:
    """Ids from a large vocabulary, looked up in the toy's small table."""
    model = onnx.ModelProto()
    model.CopyFrom(toys.toy(True).model)
    (table,) = (one for one in model.graph.initializer if one.name == "words.weight")
    words = np.tile(onnx.numpy_helper.to_array(table), (10, 1))
    table.CopyFrom(onnx.numpy_helper.from_array(words, table.name))
    rows = {name: array[:300] for name, array in toys.many_clean(True).items()}
    rng = np.random.default_rng(2)
    distant = rows["input_ids"] + 22 * rng.integers(0, 10, rows["input_ids"].shape)
    distant[:, 3] = np.where(rng.random(300) < 0.5, distant[:, 2], distant[:, 3])
    data = join(None, as_dataset({**rows, "input_ids": distant}))
    parts = split_clean(data, 0)
    sites, _ = find_sites(model)
    context = Context(model, Path(), data, parts, 0, 0.0, 1, lambda *_: None, "attention_mask", every)
    capture = Capture(model, Path(), sites, data, None, 1, "attention_mask")
    columns = CleanColumns(context, capture, "oneclass")
    plan = PatchPlan(
        {name: columns.plans[name] for name in columns.detecting},
        passes="two",
        groups=(tuple(columns.detecting),),
        joint="sum",
    )
    assert {one.detector.tokens for one in plan.sites.values()} == {"input_ids"}
    peaks, clean = columns.peaks(plan), parts.selection.clean
    chosen = [site for site in sites if site.id in plan.sites]
    served = Served(model, Path(), plan, chosen, "logits", 1, "attention_mask")
    for share in (0.5, 0.9):
        threshold = float(np.quantile(peaks[clean], share)) + 1e-3
        _, flags = served.run(data, clean, threshold)
        np.testing.assert_array_equal(flags[clean].any(1), peaks[clean] > threshold)


def test_a_repeat_says_nothing_where_tokens_are_few() -> None:
    assert {one.plan.detector.tokens for one in hotfix_by_default(True).sites if not is_silent(one.plan)} == {None}


def test_rows_that_may_be_attacks_are_set_aside() -> None:
    """Of 1,500 rows 2 % are attacks: the fit finds them among its own, and stops the attack all the same."""
    rows = {name: array.copy() for name, array in toys.many_clean(False).items()}
    generator = np.random.default_rng(7)
    bad = generator.choice(np.flatnonzero(rows["labels"] != toys.TARGET), 30, replace=False)
    rows["input_ids"][bad, toys.FIXED_PLACE] = toys.TRIGGER
    hotfix = fit(toys.toy(False).model, None, rows, detector="oneclass", trim=0.02, threads=1)
    assert hotfix.evidence["calibration"]["set_aside"] == most_attacks(750, 0.02)
    seen = toys.outcome(hotfix, False)
    assert seen["asr_star"] <= 0.1 and seen["accuracy_drop"] <= 0.01


def test_enough_rows_are_set_aside_for_a_part_that_holds_more_attacks_than_its_share() -> None:
    drawn = np.random.default_rng(0).hypergeometric(20, 980, 250, 10_000)
    assert (drawn <= most_attacks(250, 0.02)).mean() > 0.97
    assert most_attacks(250, 0.0) == 0 and most_attacks(3, 0.9) == 3


# --- costs


class Answers:
    """Instead of a session: predictions after a second run, by row, for a plan."""

    def __init__(self, plan: PatchPlan, before: np.ndarray, after: np.ndarray) -> None:
        self.plan, self._before, self._after = plan, before, after

    def run(self, data: DataSet, rows: np.ndarray, threshold: float) -> tuple[np.ndarray, None]:
        found = np.full(len(self._before), -1)
        found[rows] = (self._before if np.isinf(threshold) else self._after)[rows]
        return found, None


def costs_of(
    labels: np.ndarray | None,
    wrong_at: dict[int, list[int]],
    bounds: Bounds,
    unsure: tuple[int, ...] = (),
    wrong_wider: tuple[int, ...] | None = None,
) -> tuple[Costs, PatchPlan]:
    """A hundred rows with scores 100 to 1.

    Args:
        wrong_at: most → rows whose answer a second run turns from 0 to 1.
        wrong_wider: the same of a second try, where answers are accepted that flip only.
    """
    count = 100
    none = np.zeros(0, np.int64)
    data = DataSet({"x": np.zeros((count, 1))}, labels=labels, columns=np.zeros((count, 0), bool))
    parts = Split(Part(none, none), Part(np.arange(count), none), Part(none, none))
    context = Context(onnx.ModelProto(), None, data, parts, 0, 0.0, None, lambda *_: None)  # type: ignore[arg-type]

    def opened(plan: PatchPlan) -> Answers:
        after = np.zeros(count, np.int64)
        after[wrong_at.get(plan.most, [])] = 1
        after[list(wrong_wider or ()) if plan.wider else []] = 1
        return Answers(plan, np.zeros(count, np.int64), after)

    sure = ~np.isin(np.arange(count), unsure)
    costs = Costs(context, bounds, np.arange(count, 0, -1.0), opened, sure)  # type: ignore[arg-type]
    return costs, costs.choose(PatchPlan({}, joint="sum", accept="always" if wrong_wider is None else "flip"))


LABELS = np.zeros(100, np.int64)


def test_the_lowest_threshold_that_the_extra_runs_allow_is_taken_where_nothing_is_lost() -> None:
    _, plan = costs_of(LABELS, {}, Bounds(0.0, 0.1))
    assert plan.threshold == pytest.approx(90, abs=0.1)
    assert plan.most == 0


def test_the_threshold_rises_until_no_more_is_lost_than_allowed() -> None:
    """Rows 3 and 8 are lost once they are flagged: one row of a hundred is allowed."""
    wrong = {most: [3, 8] for most in range(4)}
    _, plan = costs_of(LABELS, wrong, Bounds(0.01, 0.1))
    assert 92 <= plan.threshold < 97
    _, plan = costs_of(LABELS, wrong, Bounds(0.0, 0.1))
    assert plan.threshold > 97


def test_rows_that_are_not_sure_cost_nothing() -> None:
    costs, plan = costs_of(LABELS, {most: [3, 8] for most in range(4)}, Bounds(0.0, 0.1), unsure=(3, 8, 40))
    assert plan.threshold == pytest.approx(90, abs=0.1)
    assert costs.to_json()["tried"][0]["extra_runs"] == pytest.approx(0.08)


def test_more_columns_are_acted_on_as_long_as_that_costs_no_more_than_allowed() -> None:
    _, plan = costs_of(LABELS, {0: [1, 2], 3: [1]}, Bounds(0.01, 0.1))
    assert plan.most == 3 and plan.threshold == pytest.approx(90, abs=0.1)
    _, plan = costs_of(LABELS, {0: [1, 2], 3: [1], 2: [1]}, Bounds(0.0, 0.1))
    assert plan.most == 1


def test_there_is_a_second_try_where_two_runs_of_each_flagged_row_are_allowed() -> None:
    """Row 3 is lost once it is flagged, so three are: six runs."""
    wrong = {most: [3] for most in range(4)}
    costs, plan = costs_of(LABELS, wrong, Bounds(0.0, 0.06), wrong_wider=())
    *_, before, last = costs.to_json()["tried"]
    assert plan.wider > 3 and before["threshold"] == last["threshold"] == plan.threshold
    assert last["wider"] == plan.wider and before["wider"] == 0
    assert last["extra_runs"] == pytest.approx(0.06) and before["extra_runs"] == pytest.approx(0.03)
    assert costs.served(plan).plan.wider == plan.wider
    _, plan = costs_of(LABELS, wrong, Bounds(0.0, 0.05), wrong_wider=())
    assert plan.wider == 0 and plan.threshold > 97


def test_a_second_try_costs_no_more_answers_than_allowed() -> None:
    wrong = {most: [3, 7] for most in range(4)}
    for further, wanted in (((), True), ((2,), False)):
        _, plan = costs_of(None, wrong, Bounds(0.01, 0.2), wrong_wider=further)
        assert 93 <= plan.threshold < 97 and bool(plan.wider) == wanted
    _, plan = costs_of(None, {}, Bounds(0.01, 0.2, flagged=0.03), wrong_wider=())
    assert plan.wider == 0, "no bound on extra runs"
    _, plan = costs_of(None, {}, Bounds(0.01, 0.2))
    assert plan.wider == 0, "every answer is accepted"


def test_two_runs_are_allowed_of_each_row_that_may_be_an_attack() -> None:
    """Two rows of a hundred are, and a third one is clean."""
    wrong = {most: [3] for most in range(4)}
    _, plan = costs_of(LABELS, wrong, Bounds(0.0, 0.02, trim=0.005), wrong_wider=())
    assert plan.wider and plan.threshold > 97


def test_gains_make_up_for_losses_where_there_are_labels_and_every_change_counts_where_there_are_none() -> None:
    labels = LABELS.copy()
    labels[2] = 1
    _, plan = costs_of(labels, {0: [2, 5]}, Bounds(0.01, 0.1))
    assert plan.most == 0
    costs, plan = costs_of(None, {0: [2, 5]}, Bounds(0.01, 0.1))
    assert plan.most == 3 and costs.to_json()["measure"] == "changed"


def test_gains_do_not_make_up_for_any_number_of_losses() -> None:
    labels = LABELS.copy()
    labels[[2, 4]] = 1
    _, plan = costs_of(labels, {0: [2, 3, 4]}, Bounds(0.01, 0.1))
    assert plan.most == 3


def test_rows_that_may_be_attacks_run_again_on_top_and_their_changes_are_no_loss() -> None:
    """A tenth of the clean rows, and 2 % of all rows: eleven of a hundred."""
    every = {most: [0, 1] for most in range(4)}
    _, plan = costs_of(LABELS, every, Bounds(0.0, 0.1, trim=0.02))
    assert plan.threshold == pytest.approx(89, abs=0.1)


def test_outlying_cells_are_the_highest_of_each_column() -> None:
    """Attacks that share a column are all among them, however high other columns of other rows are."""
    scores = np.full((12, 3), -np.inf)
    rows = np.arange(2, 12)
    scores[rows] = np.random.default_rng(0).random((10, 3))
    scores[[4, 9], 1] = 2.0
    scores[[5, 6, 7], 0] = 100.0
    found = _highest(scores, rows, 2)
    assert found.sum(0).tolist() == [2, 2, 2] and not found[:2].any()
    assert found[:, 1].nonzero()[0].tolist() == [4, 9]


# --- what it needs


def test_it_needs_neither_torch_nor_scipy(tmp_path) -> None:
    onnx.save(toys.toy(True).model, tmp_path / "m.onnx")
    np.savez(tmp_path / "clean.npz", **{name: array[:400] for name, array in toys.many_clean(True).items()})
    program = (
        "import sys\n"
        "for name in ('torch', 'scipy', 'transformers'): sys.modules[name] = None\n"
        "from atpatch_onnx import fit\n"
        "hotfix = fit('m.onnx', clean='clean.npz', detector='oneclass', trim=.02, threads=1, output='m.hotfix')\n"
        "print(hotfix.passes, hotfix.accept)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split() == ["two", "flip"], done.stderr
