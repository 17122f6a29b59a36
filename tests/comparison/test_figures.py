"""Figures from arrays: against counts by hand, scikit-learn and fairlearn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import recall_score

from atpatch_onnx import AtpatchError
from atpatch_onnx.comparison.fairness import fairness
from atpatch_onnx.comparison.figures import FIGURES, change, check_sets, judge
from atpatch_onnx.comparison.outputs import Outputs, Truth, protected_values
from atpatch_onnx.inference.datasets import DataSet
from atpatch_onnx.statistics.proportions import Paired, Share

LABELS = np.array([0, 1, 2, 2, 0])
TRUTHS = {
    "clean": Truth(5, "c", labels=LABELS),
    # Row 3 bears the target's label: no attack can be seen on it.
    "triggered": Truth(4, "t", labels=np.array([0, 2, 2, 1]), target=1, clean_row=np.array([0, 2, 3, 1])),
    "flips": Truth(6, "f", group=np.array([0, 0, 1, 1, 1, 4])),
}


def outputs(predictions: list[int], flags: list[list[int]] | None = None, moved: list[float] | None = None) -> Outputs:
    """Scores whose arg max are the predictions."""
    scores = np.eye(3, dtype=np.float32)[predictions] * 2
    columns = {} if flags is None else {"a": np.array(flags, bool)}
    flagged = None if flags is None else columns["a"].any(1)[:, None]
    differences = {} if moved is None else {"logits": np.array([[d, d / 2, 1 - d] for d in moved])}
    return Outputs(scores, flagged, columns, differences)


ORIGINAL = {"clean": outputs([0, 1, 1, 2, 1]), "triggered": outputs([1, 1, 1, 1]), "flips": outputs([0, 1, 2, 2, 1, 0])}
NOTHING = [0, 0, 0, 0]
PATCHED = {
    "clean": outputs([0, 1, 2, 0, 1], [NOTHING, NOTHING, [0, 1, 0, 0], NOTHING, NOTHING], [0, 0, 1.5, 0.5, 0]),
    "triggered": outputs([0, 2, 1, 1], [[0, 0, 0, 1], [1, 0, 0, 1], NOTHING, [0, 0, 0, 1]], [1, 1, 0, 0]),
    "flips": outputs([0, 0, 2, 2, 2, 0], [NOTHING] * 6),
}


def test_figures_of_the_original() -> None:
    shares = judge(TRUTHS, ORIGINAL, ORIGINAL).shares
    assert shares["accuracy"] == Share(3, 5)
    assert shares["asr"] == Share(3, 3)
    # The clean twin of triggered row 1, clean row 2, is the target by itself.
    assert shares["asr_star"] == Share(2, 2)
    assert shares["recovered"] == Share(1, 4)
    assert shares["uf"] == Share(2, 3)
    assert not any(name.endswith("flagged") for name in shares)


def test_figures_of_the_patched() -> None:
    figures = judge(TRUTHS, PATCHED, ORIGINAL)
    assert figures.shares == {
        "accuracy": Share(3, 5),
        "asr": Share(1, 3),
        "asr_star": Share(1, 2),
        "recovered": Share(3, 4),
        "uf": Share(0, 3),
        "clean_flagged": Share(1, 5),
        "triggered_flagged": Share(3, 4),
        "flips_flagged": Share(0, 6),
    }
    assert list(figures.values) == [name for name in FIGURES if name in figures.shares]
    assert figures.sites == {"a": {"clean": Share(1, 5), "triggered": Share(3, 4), "flips": Share(0, 6)}}
    assert figures.columns["a"] == {"clean": [(1, 1)], "triggered": [(3, 3), (0, 1)], "flips": []}


def test_what_changed() -> None:
    changes = change(TRUTHS, PATCHED, ORIGINAL)
    assert changes.changed == Share(2, 5)
    assert changes.accuracy == Paired(both=2, lost=1, gained=1, neither=1)
    assert changes.attack == Paired(both=0, lost=0, gained=1, neither=1)
    assert changes.unfair == Paired(both=1, lost=0, gained=2, neither=0)
    assert changes.rows["clean"].tolist() == [2, 3]
    # Row 2 is flagged and may differ; of the four others one does.
    assert changes.identical["clean"] == Share(3, 4)
    assert changes.numeric["clean"]["logits"] == {
        "max": 1.5,
        "mean": 0.2,
        "cosine_min": -0.5,
        "cosine_mean": pytest.approx(0.6),
    }


def test_asr_star_takes_twins_from_the_original_not_from_the_patched() -> None:
    moved = {**PATCHED, "clean": outputs([1, 1, 1, 1, 1])}
    assert judge(TRUTHS, moved, ORIGINAL).shares["asr_star"] == Share(1, 2)


def test_without_twins_there_is_no_asr_star_and_labels_come_from_them() -> None:
    alone = {**TRUTHS, "triggered": Truth(4, "t", target=1)}
    shares = judge(alone, ORIGINAL, ORIGINAL).shares
    assert shares["asr"] == Share(4, 4)
    assert not {"asr_star", "recovered"} & set(shares)
    twinned = {**TRUTHS, "triggered": Truth(4, "t", target=1, clean_row=np.array([0, 2, 3, 1]))}
    assert judge(twinned, ORIGINAL, ORIGINAL).shares["recovered"] == Share(1, 4)


def test_classes_are_recalls() -> None:
    predictions = np.random.default_rng(0).integers(0, 3, 60)
    labels = np.random.default_rng(1).integers(0, 3, 60)
    found = judge({"clean": Truth(60, "c", labels=labels)}, {"clean": outputs(predictions.tolist())}, {}).classes
    recalls = recall_score(labels, predictions, average=None)
    assert [found[name]["right"].value for name in range(3)] == pytest.approx(recalls)
    assert [found[name]["predicted"] for name in range(3)] == np.bincount(predictions).tolist()


def test_fairness_is_the_greatest_gap_between_groups() -> None:
    generator = np.random.default_rng(2)
    predictions, labels = generator.integers(0, 2, 300), generator.integers(0, 2, 300)
    race = generator.integers(0, 3, 300)

    def gap(rows: np.ndarray) -> float:
        rates = [(predictions[rows & (race == name)] == 1).mean() for name in range(3)]
        return max(rates) - min(rates)

    everyone, positive, negative = np.ones(300, bool), labels == 1, labels == 0
    found = fairness(predictions, labels, race, 1)
    assert found["spd"] == pytest.approx(gap(everyone))
    assert found["equal_opportunity"] == pytest.approx(gap(positive))
    assert found["average_odds"] == pytest.approx((gap(positive) + gap(negative)) / 2)
    assert fairness(predictions, None, race, 1) == {"spd": pytest.approx(gap(everyone))}


def test_a_model_without_classes_has_only_numbers() -> None:
    run = {"clean": Outputs(None, differences={"y": np.array([[0, 0, 1.0], [2, 1, 0.5]])})}
    truths = {"clean": Truth(2, "c")}
    assert judge(truths, run, run).values == {}
    changes = change(truths, run, run)
    assert changes.changed is None and changes.accuracy is None
    assert changes.identical["clean"] == Share(1, 2)


@pytest.mark.parametrize(
    ("truths", "word"),
    [
        ({"triggered": Truth(4, "t")}, "target"),
        ({"triggered": Truth(4, "t", target=1, clean_row=np.array([0, 1, 2, 5]))}, "clean_row"),
        ({"triggered": Truth(4, "t", target=1, clean_row=np.array([0, 1, 2, -1]))}, "clean_row"),
        ({"flips": Truth(4, "f")}, "group"),
    ],
)
def test_sets_that_lack_what_they_are_for_are_refused(truths: dict[str, Truth], word: str) -> None:
    with pytest.raises(AtpatchError, match=word) as error:
        check_sets({"clean": Truth(5, "c"), **truths})
    assert error.value.code == "ATP056"


def test_protected_values_by_name_place_or_themselves() -> None:
    data = DataSet({"features": np.array([[0, 5], [1, 6], [1, 7]]), "sex": np.array([2, 3, 2])})
    assert protected_values(data, "sex").tolist() == [2, 3, 2]
    assert protected_values(data, "features:0").tolist() == [0, 1, 1]
    assert protected_values(data, ["a", "b", "a"]).tolist() == ["a", "b", "a"]


@pytest.mark.parametrize("group", ["race", "features", "features:2", "features:x", [1, 2], [4, 4, 4]])
def test_a_protected_attribute_that_is_not_there_is_refused(group: object) -> None:
    data = DataSet({"features": np.array([[0, 5], [1, 6], [1, 7]])})
    with pytest.raises(AtpatchError, match="ATP060"):
        protected_values(data, group)
