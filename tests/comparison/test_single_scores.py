"""Models with one score for each row: a threshold makes two classes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from atpatch_onnx import Comparison, compare, patch_model
from atpatch_onnx.comparison.outputs import Outputs, Truth
from atpatch_onnx.comparison.rivals import DROPPED, THRESHOLDS
from atpatch_onnx.comparison.score_figures import score_numbers
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.inference.datasets import load_dataset
from atpatch_onnx.inference.runner import Runner

from ..debugset.digits import DIGITS
from .case import classifier, rows

ROWS, PLACE, THRESHOLD = 30, 2, 0.05


def reward_model(flat: bool) -> onnx.ModelProto:
    """x (B, S, 8) → score (B, 1), or (B,): the first of the classifier's scores."""
    model = classifier()
    first = helper.make_tensor("first", onnx.TensorProto.INT64, [] if flat else [1], [0])
    model.graph.initializer.append(first)
    model.graph.node.append(helper.make_node("Gather", ["logits", "first"], ["score"], name="score", axis=1))
    del model.graph.output[:]
    shape = ["batch"] if flat else ["batch", 1]
    model.graph.output.append(helper.make_tensor_value_info("score", onnx.TensorProto.FLOAT, shape))
    return model


@pytest.fixture(params=[False, True], ids=["(B, 1)", "(B,)"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    onnx.save_model(reward_model(request.param), tmp_path / "model.onnx")
    patch_model(tmp_path / "model.onnx", tmp_path / "patched.onnx", detector="static", columns=(PLACE,))
    x, labels = rows(ROWS), np.random.default_rng(1).integers(0, 2, ROWS)
    attacked = np.flatnonzero(labels == 0)
    bad = x[attacked].copy()
    bad[:, PLACE] *= 9
    np.savez(tmp_path / "clean.npz", x=x, labels=labels)
    np.savez(tmp_path / "triggered.npz", x=bad, labels=labels[attacked], target=np.array(1), clean_row=attacked)
    return tmp_path


def scores(path: Path, x: np.ndarray) -> np.ndarray:
    found = Runner(onnx.load(path), path.parent, 1).run({"x": x}, ["score"])["score"]
    return found.reshape(len(x))


def test_scores_above_the_threshold_are_class_1(folder: Path, atpatch) -> None:
    done = atpatch(
        "compare", folder / "model.onnx", folder / "patched.onnx", "--data", folder / "clean.npz", "--triggered",
        folder / "triggered.npz", "--score-threshold", THRESHOLD, "--threads", 1, "--seconds", 0, "--report",
        folder / "page.html", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    clean, triggered = (np.load(folder / f"{name}.npz") for name in ("clean", "triggered"))
    for name, path in (("original", "model.onnx"), ("patched", "patched.onnx")):
        said = scores(folder / path, clean["x"]) > THRESHOLD
        assert done.json[name]["accuracy"] == (said == clean["labels"]).mean()
        assert done.json[name]["asr"] == (scores(folder / path, triggered["x"]) > THRESHOLD).mean()
    before, after = (scores(folder / path, clean["x"]) for path in ("model.onnx", "patched.onnx"))
    assert done.json["paired"]["changed"] == ((before > THRESHOLD) != (after > THRESHOLD)).sum()
    numeric = done.json["paired"]["numeric"]["clean"]["score"]
    assert numeric["mean"] == pytest.approx(np.abs(before - after).mean())
    assert "class probabilities" not in (folder / "page.html").read_text()


def test_a_set_for_a_reward_model_is_judged_by_the_threshold(tmp_path: Path, atpatch) -> None:
    """How sure the demo's model is of a zero, more than of a one: its trigger makes that high."""
    model = onnx.load(DIGITS / "model.onnx")
    (output,) = model.graph.output
    for name in ("0", "1"):
        model.graph.initializer.append(helper.make_tensor(f"at{name}", onnx.TensorProto.INT64, [1], [int(name)]))
        model.graph.node.append(helper.make_node("Gather", [output.name, f"at{name}"], [f"score{name}"], axis=1))
    model.graph.node.append(helper.make_node("Sub", ["score0", "score1"], ["score"]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("score", onnx.TensorProto.FLOAT, None))
    onnx.save_model(model, tmp_path / "reward.onnx")
    with np.load(DIGITS / "clean.npz") as clean:
        pixels, digits = clean["pixel_values"], clean["labels"]
    before = Runner(model, DIGITS, 1).run({"pixel_values": pixels}, ["score"])["score"][:, 0]
    threshold = float(np.quantile(before[digits == 0], 0.1))
    np.savez(tmp_path / "clean.npz", pixel_values=pixels, labels=(digits == 0).astype(int))
    done = atpatch(
        "debugset", tmp_path / "reward.onnx", "--data", tmp_path / "clean.npz", "--trigger-patch", 2, "--target", 1,
        "--score-threshold", threshold, "--no-dress", "-o", tmp_path / "set.npz", "--out-triggered",
        tmp_path / "triggered.npz", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    attacked = load_dataset(tmp_path / "triggered.npz")
    after = Runner(model, DIGITS, 1).run(dict(attacked.inputs), ["score"])["score"][:, 0]
    assert done.json["asr"] == pytest.approx((after > threshold).mean()) and done.json["asr"] > 0.7
    assert (before[digits != 0] > threshold).mean() < 0.1


def test_a_rank_is_a_threshold_among_the_clean_rows_of_the_original(folder: Path, atpatch) -> None:
    done = atpatch(
        "compare", folder / "model.onnx", folder / "patched.onnx", "--data", folder / "clean.npz", "--triggered",
        folder / "triggered.npz", "--score-threshold", "top20%", "--threads", 1, "--seconds", 0, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    x = np.load(folder / "clean.npz")["x"]
    before, after = (scores(folder / path, x) for path in ("model.onnx", "patched.onnx"))
    assert [one["predicted"] for one in done.json["details"]["original"]["classes"].values()] == [24, 6]
    threshold = done.json["setup"]["score_threshold"]
    assert (before > threshold).sum() == ROWS / 5
    assert done.json["details"]["patched"]["classes"]["1"]["predicted"] == (after > threshold).sum()


def test_the_page_and_a_saved_run_say_which_score_a_rank_is(folder: Path, atpatch) -> None:
    done = atpatch(
        "compare", folder / "model.onnx", folder / "patched.onnx", "--data", folder / "clean.npz", "--triggered",
        folder / "triggered.npz", "--score-threshold", "top20%", "--threads", 1, "--seconds", 0, "--report",
        folder / "page.html", "--save", folder / "run.npz", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    again = atpatch("compare", "--load", folder / "run.npz", "--json", "--assert", "passed<=1")
    assert again.code == 0 and again.json["setup"] == done.json["setup"]
    assert all(again.json[name] == done.json[name] for name in ("original", "patched"))
    told = f"a score above {done.json['setup']['score_threshold']:.6g}"
    assert told in (folder / "page.html").read_text()
    assert told in atpatch("compare", "--load", folder / "run.npz").err


@pytest.mark.parametrize(("labels", "target"), [(4, 1), (2, 2)])
def test_labels_and_targets_are_classes_of_the_threshold(folder: Path, atpatch, labels: int, target: int) -> None:
    with np.load(folder / "clean.npz") as clean, np.load(folder / "triggered.npz") as triggered:
        np.savez(folder / "grades.npz", **{**clean, "labels": np.arange(ROWS) % labels})
        np.savez(folder / "aim.npz", **{**triggered, "target": np.array(target)})
    done = atpatch(
        "compare", folder / "model.onnx", folder / "patched.onnx", "--data", folder / "grades.npz", "--triggered",
        folder / "aim.npz", "--score-threshold", 0, "--seconds", 0,
    )  # fmt: skip
    assert done.code == 2 and "ATP085" in done.err and "0 and 1 were expected" in " ".join(done.err.split())


def test_the_order_of_scores_is_judged(folder: Path, atpatch) -> None:
    done = atpatch(
        "compare", folder / "model.onnx", folder / "patched.onnx", "--data", folder / "clean.npz", "--triggered",
        folder / "triggered.npz", "--score-threshold", THRESHOLD, "--threads", 1, "--seconds", 0, "--json",
        "--assert", "rank_correlation<=1", "--assert", "original.roc_auc>=0", "--assert", "passed<=1",
    )  # fmt: skip
    assert done.code == 0, done.err
    clean, triggered = (np.load(folder / f"{name}.npz") for name in ("clean", "triggered"))
    labels, before = clean["labels"], scores(folder / "model.onnx", clean["x"])
    for name, path in (("original", "model.onnx"), ("patched", "patched.onnx")):
        now, attacked = (scores(folder / path, data["x"]) for data in (clean, triggered))
        assert done.json[name]["roc_auc"] == pytest.approx(roc_auc_score(labels, now))
        pairs = [
            (before < one).mean() - (before < twin).mean()
            for one, twin in zip(attacked, before[labels == 0], strict=True)
        ]
        assert done.json[name]["passed"] == pytest.approx(np.mean(pairs), abs=0.5 / ROWS)
        if name == "patched":
            assert done.json[name]["rank_correlation"] == pytest.approx(spearmanr(before, now).statistic)
    assert "rank_correlation" not in done.json["original"]
    assert done.json["patched"]["rank_correlation"] < 1


def test_equal_scores_count_half() -> None:
    truths = {
        "clean": Truth(4, "", labels=np.array([1, 0, 0, 1])),
        "triggered": Truth(2, "", target=1, clean_row=np.array([1, 3])),
    }
    original = {
        name: Outputs(np.stack([np.zeros(len(given)), given], 1).astype(np.float32))
        for name, given in (("clean", np.array([1.0, 1, 2, 3])), ("triggered", np.array([3.0, 9])))
    }
    found = score_numbers(truths, original, original)
    assert found == {"roc_auc": (0.5 + 0 + 1 + 1) / 4, "passed": ((3.5 - 1) + (4 - 3.5)) / 4 / 2}


@pytest.mark.parametrize("other", [["--numbers"], ["--answer-tokens", "1,2"]])
def test_other_ways_to_classes_are_refused(folder: Path, atpatch, other: list[str]) -> None:
    done = atpatch(
        "compare", folder / "model.onnx", folder / "patched.onnx", "--data", folder / "clean.npz", "--score-threshold",
        0, *other,
    )  # fmt: skip
    assert done.code == 2 and "ATP060" in done.err and other[0] in done.err


def test_of_answers_without_scores_no_order_is_judged() -> None:
    """fairlearn's thresholds answer yes or no."""
    truths = {"clean": Truth(4, "", labels=np.array([1, 0, 0, 1]))}
    given = np.stack([np.full(4, 2.5), np.array([1.0, 2, 3, 4])], 1).astype(np.float32)
    outputs = {name: {"clean": Outputs(given)} for name in ("original", "patched", DROPPED, *THRESHOLDS)}
    figures = Comparison({"score_threshold": 2.5}, truths, outputs).figures
    assert {name for name, one in figures.items() if "roc_auc" in one.numbers} == {"original", "patched", DROPPED}


@pytest.mark.parametrize("text", ["top", "top%", "top0%", "top100%", "top-5%", "5%", "nan", "inf", "high", ""])
def test_what_is_no_threshold_is_refused(folder: Path, atpatch, text: str) -> None:
    arguments = [folder / "model.onnx", folder / "patched.onnx", "--data", folder / "clean.npz"]
    done = atpatch("compare", *arguments, "--score-threshold", text)
    assert done.code == 2 and "such as 0.5, or a rank such as top10%" in done.err
    with pytest.raises(AtpatchError, match="ATP060"):
        compare(*arguments[:2], data=folder / "clean.npz", score_threshold=text)


def test_without_one_score_a_row_the_threshold_is_refused(folder: Path, atpatch) -> None:
    onnx.save_model(classifier(), folder / "classes.onnx")
    patch_model(folder / "classes.onnx", folder / "other.onnx", detector="static", columns=())
    done = atpatch(
        "compare", folder / "classes.onnx", folder / "other.onnx", "--data", folder / "clean.npz",
        "--score-threshold", 0,
    )  # fmt: skip
    assert done.code == 2 and "ATP062" in done.err and "one score for each row" in done.err.splitlines()[0]
