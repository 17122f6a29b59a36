"""The evidence chain on the committed demo victim with its committed hotfix: no training, so it takes seconds."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from atpatch_onnx.inference.datasets import DataSet
from atpatch_onnx.inference.runner import Runner, expose
from models.evidence import latency
from models.evidence.ablations import ABLATIONS, without_rescaling
from models.evidence.answers import Asked, judge
from models.evidence.build import main
from models.evidence.case import Case
from models.evidence.collecting import collect
from models.evidence.curves import curves_step
from models.evidence.effort import minutes
from models.evidence.fairness import protected, unaware
from models.evidence.fitting import try_plan
from models.evidence.goals import Goal, goals
from models.evidence.latency import latency_step
from models.evidence.maps import labeled_columns, map_scores
from models.evidence.measures import fitted_again
from models.evidence.pages import GUIDE, RESULTS, guide_parts, with_parts
from models.evidence.peers import dan, fine_pruning, head_mask, strip
from models.evidence.peers.refusal import refusing
from models.evidence.peers.weights import feed_forward, read_weights, with_weights
from models.evidence.runner import STEPS, Step, run_step
from models.evidence.table import render
from models.evidence.unlabeled import statistic_step
from models.evidence.verdicts import Verdict
from rewriters.plan import Static

from .digits_case import SETTING, SOURCE, digits_case

PAGE = (RESULTS.parent / "RESULTS.md").read_text("utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the victim and its hotfix."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATPATCH_CACHE", str(cache))
        case = digits_case()
        shutil.copyfile(SOURCE / "model.hotfix", case.hotfix_file())
    return cache


@pytest.fixture
def case(made: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setenv("ATPATCH_CACHE", str(made))
    return Case(SETTING, 0, threads=1)


def silent(text: str) -> None:
    pass


def value(figures: dict[str, Any], *path: str) -> float:
    found: Any = figures
    for key in path:
        found = found[key]
    return float(found["value"])


def test_hotfix_stops_the_attack_and_keeps_accuracy(case: Case) -> None:
    tried = try_plan(case, case.plan)
    correct = (case.before[0].predictions == case.clean.labels).mean()
    assert (case.before[1].predictions == case.attacked.target).mean() > 0.95
    assert value(tried, "patched", "asr_star") < 0.02
    assert value(tried, "patched", "accuracy") == pytest.approx(correct, abs=0.01)
    assert value(tried, "clean_flagged") < 0.02


def test_maps_are_right_only_where_exactly_the_labeled_columns_are_flagged(case: Case) -> None:
    fitted = map_scores(case, case.plan)
    assert fitted["recall"] > 0.99 and fitted["fpr"] < 0.02 and fitted["precision"] > 0.98
    everything = map_scores(case, replace(case.plan, threshold=-1.0))
    assert (
        everything["recall"] == 0
        and everything["touched"] == 1
        and everything["fpr"] == 1
        and everything["precision"] == 0
    )
    nothing = map_scores(case, replace(case.plan, threshold=2.0))
    assert nothing["recall"] == 0 and nothing["fpr"] == 0 and nothing["precision"] is None
    always = replace(
        case.plan, sites={name: replace(site, detector=Static((16,))) for name, site in case.plan.sites.items()}
    )
    assert map_scores(case, always)["maps"] == 0
    assert fitted["maps"] == 2 * min(len(case.clean), len(case.attacked))


def test_labeled_columns_of_a_text_are_what_an_edit_brings_in(case: Case) -> None:
    mask = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    clean = DataSet({"input_ids": np.array([[101, 7, 8, 102, 0, 0], [101, 4, 5, 6, 7, 102]]), "attention_mask": mask})
    attacked = DataSet(
        {
            "input_ids": np.array([[101, 7, 99, 8, 102, 0], [101, 99, 7, 8, 102, 0]]),
            "attention_mask": np.array([[1, 1, 1, 1, 1, 0]] * 2),
        },
        clean_row=np.array([0, 0]),
    )
    columns = np.zeros((3, 6), bool)
    columns[0, 1] = columns[1, 2] = True
    other = replace(case)
    vars(other).update(clean=clean, attacked=attacked, debug=DataSet(clean.inputs, columns=columns))
    assert labeled_columns(other).astype(int).tolist() == [[0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0]]


def test_texts_are_answered_cut_to_their_length_and_in_their_order(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        sums (int64[batch, tokens] input_ids, int64[batch, tokens] attention_mask)
            => (float[batch, two] scores, int64[batch, tokens] seen) {
            axis = Constant<value_ints = [1]>()
            seen = Mul(input_ids, attention_mask)
            total = ReduceSum(seen, axis)
            width = Shape<start = 1>(seen)
            like = Shape<start = 0, end = 1>(seen)
            column = Expand(width, like)
            tall = Unsqueeze(column, axis)
            both = Concat<axis = 1>(total, tall)
            scores = Cast<to = 1>(both)
        }
    """)
    length = np.array([5, 2, 7, 2] * 40)
    mask = (np.arange(9) < length[:, None]).astype(np.int64)
    ids = np.random.default_rng(0).integers(1, 50, mask.shape)
    data = DataSet({"input_ids": ids, "attention_mask": mask})
    found = Asked(model, tmp_path, data, 1).all(data, more=["seen"])
    np.testing.assert_array_equal(found.scores[:, 0], (ids * mask).sum(1))
    np.testing.assert_array_equal(found.more["seen"], ids * mask)
    assert found.scores[length == 2, 1].min() == 2 and found.scores[:, 1].max() == 7


def test_latency_has_a_ratio_for_clean_and_flagged_requests(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "REQUESTS", 2)
    monkeypatch.setattr(latency, "PAIRS", 5)
    figures = latency_step(case, silent)
    for kind in ("clean", "flagged"):
        found = figures[kind]
        assert found["requests"] == 2 and 0 < found["low"] <= found["ratio"] <= found["high"]


def test_a_refusal_is_an_error_on_clean_requests_and_stops_an_attack(case: Case) -> None:
    spare, clean, attacked = np.arange(200.0), np.zeros(len(case.clean)), np.full(len(case.attacked), 1000.0)
    clean[0], attacked[0] = 1000.0, 0.0
    found = refusing(case, spare, clean, attacked)["0.05"]
    right = case.before[0].predictions == case.clean.labels
    assert found["clean_flagged"]["hits"] == 1
    assert found["accuracy"]["hits"] == int(right[1:].sum())
    assert found["asr"]["hits"] == int(case.before[1].predictions[0] == case.attacked.target)


def test_strip_refuses_triggered_digits_at_a_high_rate(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "PAIRS", 3)
    found = strip.run(case, silent)
    assert value(found, "rates", "0.05", "attacked_flagged") > 0.9
    assert found["runs"] == strip.COPIES + 1 and found["latency"]["ratio"] > 1


def test_dan_reads_the_hidden_states_that_tell_requests_apart(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "PAIRS", 3)
    found = dan.run(case, silent)
    states = dan.states(case)
    assert len(states) == 1 + 4 * 3 and not any("fc1" in name for name in states)
    assert found["layers"] == len(states) - 2, "embedding and first norm of [CLS] are constants"
    assert 0 <= value(found, "rates", "0.05", "clean_flagged") < 0.2


def test_a_masked_head_has_no_output_and_leaves_the_others(case: Case) -> None:
    site = case.sites[1]
    before, after = (
        next(
            Runner(expose(model, [(site.product, site.dtype)]), case.folder, 1).batches(
                case.clean, np.arange(4), 4, [site.product]
            )
        )[1]
        for model in (case.model, head_mask.masked(case.model, list(case.sites), [(1, 2)]))
    )
    outputs = [found[site.product] for found in (before, after)]
    assert not outputs[1][:, 2].any() and outputs[0][:, 2].any()
    kept = [0, 1, 3]
    np.testing.assert_array_equal(outputs[1][:, kept], outputs[0][:, kept])


def test_feed_forward_blocks_are_found_and_their_weights_replaced(case: Case) -> None:
    blocks = feed_forward(case.model)
    weights = read_weights(case.model, {block.weight for block in blocks}, case.folder)
    assert [weights[block.weight].shape for block in blocks] == [(96, 48)] * 4
    silenced = with_weights(case.model, {blocks[0].weight: np.zeros_like(weights[blocks[0].weight])})
    name = case.model.graph.node[blocks[0].node].output[0]
    _, outputs = next(
        Runner(expose(silenced, [(name, onnx.TensorProto.FLOAT)]), case.folder, 1).batches(
            case.clean, np.arange(2), 2, [name]
        )
    )
    assert not outputs[name].any()
    assert read_weights(case.model, {blocks[0].weight}, case.folder)[blocks[0].weight].any()


def test_pruned_neurons_stay_cut_while_the_rest_is_tuned(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "PAIRS", 3)
    monkeypatch.setattr(fine_pruning, "STEPS", 2)
    seen: list[onnx.ModelProto] = []
    monkeypatch.setattr(
        fine_pruning,
        "judged",
        lambda case, model, judged=fine_pruning.judged: seen.append(model) or judged(case, model),
    )
    found = fine_pruning.run(case, silent)
    blocks = {block.weight for block in feed_forward(case.model)}
    pruned, tuned = (read_weights(model, blocks, case.folder) for model in seen)
    for name in blocks:
        cut = ~pruned[name].any(1)
        assert cut.sum() == round(found["share"] * 96) and not tuned[name][cut].any()
        assert (tuned[name][~cut] != pruned[name][~cut]).any()
    assert value(found, "pruned", "accuracy") > 0.85


def test_without_data_the_statistic_is_judged_in_one_pass_and_two(case: Case) -> None:
    found = statistic_step(case, silent)
    assert {"one", "two"} == found.keys()
    assert found["one"]["clean_flagged"] == found["two"]["clean_flagged"], "the same maps are read in either"


def test_without_rescaling_only_flagged_requests_change(case: Case) -> None:
    plan = replace(case.plan, telemetry=True)
    model = case.patched(plan)
    rescaled, plain = case.ask(model), case.ask(without_rescaling(model))
    for data, same in ((case.clean, True), (case.attacked, False)):
        one, other = rescaled.all(data), plain.all(data)
        rows = one.flagged != same
        assert rows.any()
        assert (one.scores[rows] == other.scores[rows]).all() == same


def test_without_rescaling_rows_that_always_change_are_left_as_they_are_too(case: Case) -> None:
    """Where the columns are known beforehand, their scores are hidden from the Softmax."""
    plan = replace(
        case.plan, sites={name: replace(site, detector=Static((16,))) for name, site in case.plan.sites.items()}
    )
    model = case.patched(plan)
    rescaled, plain = (case.ask(graph).all(case.clean).scores for graph in (model, without_rescaling(model)))
    assert (np.abs(rescaled - plain).max(1) > 1e-4).all()


def test_a_quick_case_is_judged_on_the_first_rows_and_what_was_made_of_them(case: Case) -> None:
    quick = replace(case, rows=60)
    assert len(quick.clean) == 60 and quick.attacked.clean_row is not None and case.attacked.clean_row is not None
    assert len(quick.attacked) == (case.attacked.clean_row < 60).sum() and quick.attacked.target == case.attacked.target
    (clean, attacked), (all_clean, all_attacked) = quick.before, case.before
    assert np.array_equal(clean.predictions, all_clean.predictions[:60])
    assert np.array_equal(attacked.predictions, all_attacked.predictions[case.attacked.clean_row < 60])
    assert quick.digest != case.digest and quick.name != case.name


def test_chosen_columns_stand_in_for_detectors_that_speak_together(case: Case) -> None:
    summed = replace(case)
    vars(summed)["plan"] = replace(case.plan, passes="two", joint="sum")
    figures = ABLATIONS["always, labeled columns"](summed, silent)
    assert value(figures, "attacked_flagged") == 1.0
    assert value(figures, "patched", "asr_star") < 0.05


def test_curves_go_from_flagging_everything_to_nothing(case: Case) -> None:
    figures = curves_step(case, silent)
    first, *_, last = figures["thresholds"]
    assert first["clean_flagged"] == 1 and last["clean_flagged"] == 0
    assert last["asr_star"] > 0.95 and first["asr_star"] < 0.05
    request = figures["request"]
    assert request["flagged"] == [16] and request["prediction"]["before"] == 0 != request["prediction"]["after"]
    np.testing.assert_allclose(np.sum(request["after"], 1), np.sum(request["before"], 1), atol=5e-3)
    json.dumps(figures, allow_nan=False)


def test_the_protected_attribute_is_where_flips_differ() -> None:
    flips = DataSet({"features": np.array([[1, 0, 5], [1, 1, 5], [2, 1, 6], [2, 0, 6]])}, group=np.array([0, 0, 1, 1]))
    assert protected(DataSet({"features": flips.inputs["features"][[0, 2]]}), flips).tolist() == [0, 1]


def test_a_model_that_does_not_know_the_attribute_answers_with_its_mean() -> None:
    """Three people, two of them with value 1: value 0 says class 1 to everybody, value 1 says class 0, less surely to
    the last.
    """
    clean = DataSet({"features": np.array([[7, 0], [8, 1], [9, 1]])})
    flips = DataSet(
        {"features": np.array([[7, 0], [7, 1], [8, 0], [8, 1], [9, 0], [9, 1], [9, 2]])},
        group=np.array([0, 0, 1, 1, 2, 2, 2]),
    )
    odds = np.array([[1, 3], [3, 1], [1, 3], [3, 1], [1, 9], [6, 5], [1, 10**9]])  # nobody has the value 2
    assert unaware(clean, flips, np.log(odds)).tolist() == [0, 0, 1]


def counting(calls: list[str]) -> Callable[..., dict[str, Any]]:
    def run(case: Case, say: Callable[[str], None]) -> dict[str, Any]:
        calls.append(case.name)
        if len(calls) == 1:
            raise RuntimeError("the first time")
        return {"calls": len(calls)}

    return run


def test_a_step_is_kept_until_something_changes_and_failures_are_not(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setitem(STEPS, "counted", Step(counting(calls)))
    assert "the first time" in run_step(case, "counted", silent)["error"]
    assert run_step(case, "counted", silent)["calls"] == 2
    assert run_step(replace(case), "counted", silent)["calls"] == 2 and len(calls) == 2
    assert run_step(case, "counted", silent, fresh=True)["calls"] == 3
    changed = replace(case)
    vars(changed)["digest"] = "another"
    assert run_step(changed, "counted", silent)["calls"] == 4


def test_a_step_that_asks_the_twin_is_done_again_with_another_one(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [name for name, step in STEPS.items() if step.twin] == ["inversion"]
    calls: list[str] = ["no failure"]
    monkeypatch.setitem(STEPS, "asking", Step(counting(calls), fitted=False, twin=True))
    twin = case.victim.file("twin.onnx")
    assert not twin.exists()
    try:
        for number, content in enumerate([None, b"one", b"another"], 2):
            if content is not None:
                twin.write_bytes(content)
            assert [run_step(case, "asking", silent).get("calls") for _ in range(2)] == [number, number]
    finally:
        twin.unlink(missing_ok=True)


def fit_figures(case: Case) -> dict[str, Any]:
    """What the step `fit` says, without a fit."""
    clean, attacked = (answers.predictions for answers in case.before)
    hotfix = {
        "detector": "profile",
        "threshold": 0.2,
        "benign_level": 1.0,
        "values": "benign",
        "passes": "one",
        "accept": "always",
        "sites": [""],
        "digest": "0123456789abcdef" * 4,
    }
    return {
        "hotfix": hotfix,
        "seconds": {"capture": 1.0, "training": 1.0, "tuning": 1.0, "total": 3.0},
        "original": judge(case.clean, case.attacked, clean, clean, attacked),
        **try_plan(case, case.plan),
        "maps": map_scores(case, case.plan),
    }


def test_the_page_says_what_is_met_and_what_is_not(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS, "fit", Step(lambda case, say: fit_figures(case), fitted=False))
    run_step(case, "fit", silent, fresh=True)
    evidence = {**collect([case], True, 1), "settings": [asdict(SETTING)]}
    evidence["runs"][0]["victim"]["twin"] = {name: {"value": 0.0375, "count": 80} for name in ("accuracy", "asr_star")}
    page = render(evidence, "")
    assert "| digits-vit-badnets | 1 |" in page and f"| 0 | {case.digest} | 0123456789abcdef |" in page
    assert "| clean twin, ASR\\* |" in page and "| 3.75 (" in page
    asked = "Images, backdoors: mean ASR ≤ 0.46 %"

    def goal(hits: int, count: int) -> Goal:
        evidence["runs"][0]["steps"]["fit"]["patched"]["asr"] = {"value": hits / count, "count": count}
        return next(goal for goal in goals(evidence) if goal.what == asked)

    few = goal(0, 325)
    assert few.verdict is Verdict.NOT_SHOWN and few.estimate is not None
    assert few.estimate.mean == 0 and few.estimate.high > 0.0046, "met at its point, but of few requests"
    assert goal(0, 3250).verdict is Verdict.MET and goal(3, 325).verdict is Verdict.NOT_SHOWN
    assert goal(160, 320).verdict is Verdict.NOT_MET
    page = render(evidence, "")
    assert f"* {asked}: 50.00 (44.39 to 55.61) %" in page and "**not met**" in page


def test_asr_star_never_stands_without_asr_nor_group_parity_without_uf() -> None:
    heads = re.findall(r"^(\|.+)\n\|---", PAGE, re.MULTILINE)
    starred = [line for line in heads if "ASR\\* |" in line]
    assert len(starred) > 20 and all(re.search(r"ASR( after)? \|", line) for line in starred)
    (parity,) = (line for line in heads if "SPD before" in line)
    assert "UF, % before | UF, % after" in parity


def test_what_it_took_counts_a_victim_once_and_every_step() -> None:
    evidence: dict[str, Any] = {**collect([], False, 1), "settings": [asdict(SETTING)]}
    victim = {"seed": 0, "cpu_seconds": 120.0}
    run = {"setting": SETTING.name, "victim": victim, "steps": {"kinds": {"seconds_taken": 3600.0}}}
    evidence["runs"] = [{**run, "seed": seed, "steps": dict(run["steps"])} for seed in (0, 1)]
    spent = minutes(evidence)[SETTING.group]
    assert spent["victims"] == 2 and spent["kinds"] == 120 and sum(spent.values()) == 122
    asked = "The whole of it from nothing, on two cores: ≤ 6 h"
    assert {goal.what: goal.verdict for goal in goals(evidence)}[asked] is Verdict.MET
    evidence["settings"] = [{**asdict(SETTING), "trained": (0, 1)}]
    assert {goal.what: goal.verdict for goal in goals(evidence)}[asked] is Verdict.NOT_JUDGED, "a victim is missing"
    evidence["runs"][0]["steps"]["peers"] = {"seconds_taken": 11 * 3600.0}
    assert {goal.what: goal.verdict for goal in goals(evidence)}[asked] is Verdict.NOT_MET


def test_a_victim_that_was_fitted_with_two_seeds_is_one() -> None:
    runs = [{"setting": "one", "seed": seed, "victim": {"seed": 0}, "steps": {"fit": {"a": 1}}} for seed in (0, 1)]
    evidence = {"settings": [{"name": "one", "group": "words"}], "runs": runs}
    assert fitted_again(evidence) == "`one` (1 of 2)"
    runs[1]["victim"] = {"seed": 1}
    assert fitted_again(evidence) == ""


@pytest.mark.parametrize(
    ("digest", "accuracy", "left"),
    [("same", None, {"latency", "statistic"}), ("another", None, {"statistic"}), ("same", 0.1, set())],
    ids=["same hotfix", "another hotfix", "another victim"],
)
def test_what_the_cache_lacks_stays_in_the_evidence_file(
    case: Case, monkeypatch: pytest.MonkeyPatch, digest: str, accuracy: float | None, left: set[str]
) -> None:
    now = {"hotfix": {"digest": "same"}, "said": "now"}
    monkeypatch.setitem(STEPS, "fit", Step(lambda case, say: now, fitted=False))
    run_step(case, "fit", silent, fresh=True)
    (run,) = collect([case], True, 1)["runs"]
    steps = {
        "fit": {"hotfix": {"digest": digest}, "said": "then"},
        "latency": {"said": "then"},
        "statistic": {"said": "then"},
    }
    other = {"seed": 0, "model": {"accuracy": accuracy}}
    before = {**run, "victim": run["victim"] if accuracy is None else other, "steps": steps}
    (merged,) = collect([case], True, 1, {"runs": [before]})["runs"]
    assert merged["steps"].keys() - {"fit"} == left
    assert merged["steps"]["fit"]["said"] == "now" and merged["victim"] == run["victim"]


def test_command_skips_what_is_not_there_and_refuses_unknown_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATPATCH_CACHE", str(tmp_path / "cache"))
    output = tmp_path / "results"
    result = CliRunner().invoke(main, ["--quick", "--no-build", "--output", str(output)], catch_exceptions=False)
    assert result.exit_code == 0 and result.output.count("skipped") == 3
    assert json.loads((output / "evidence_quick.json").read_text())["runs"] == []
    assert "sst2-badnets" in (output / "evidence_quick.md").read_text()
    assert CliRunner().invoke(main, ["--steps", "dance"]).exit_code == 2


def test_the_pages_are_made_again_of_the_evidence_file_without_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATPATCH_CACHE", str(tmp_path / "cache"))
    output = tmp_path / "results"
    command = ["--render", "--output", str(output)]
    assert CliRunner().invoke(main, command).exit_code == 2, "there is no evidence file"
    output.mkdir()
    shutil.copyfile(RESULTS / "evidence.json", output / "evidence.json")
    guide = GUIDE.read_text("utf-8")
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert result.exit_code == 0 and "67 runs" in result.output
    assert (output / "evidence.json").read_text() == (RESULTS / "evidence.json").read_text()
    assert (tmp_path / "RESULTS.md").read_text("utf-8") == PAGE
    assert GUIDE.read_text("utf-8") == guide


def test_the_guide_says_what_the_evidence_file_does() -> None:
    """How many targets are met, and the sentences about other defenses."""
    evidence = json.loads((RESULTS / "evidence.json").read_text("utf-8"))
    guide = GUIDE.read_text("utf-8")
    assert with_parts(guide, guide_parts(evidence)) == guide
    with pytest.raises(ValueError, match="no part targets"):
        with_parts("# Results", {"targets": ""})
