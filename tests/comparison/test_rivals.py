"""Plain rivals of a patch on a table, and how groups of a protected attribute are told."""

from __future__ import annotations

import numpy as np
import pytest

from atpatch_onnx.comparison.fairness import fairness
from atpatch_onnx.comparison.groups import fairness_first
from atpatch_onnx.comparison.naming import Names
from atpatch_onnx.comparison.outputs import Outputs
from atpatch_onnx.comparison.result import Comparison
from atpatch_onnx.comparison.rivals import DROPPED, THRESHOLDS, Rivals, rival_outputs
from atpatch_onnx.inference.datasets import DataSet

ROWS = 2000
rng = np.random.default_rng(0)


def table(count: int) -> tuple[DataSet, np.ndarray]:
    """x (N, 2): a merit and a group; group 1 is thought better than its merit."""
    group = rng.integers(0, 2, count)
    merit = rng.normal(size=count)
    labels = (merit + 0.3 * rng.normal(size=count) > 0).astype(np.int64)
    return DataSet({"x": np.stack([merit, group], 1).astype(np.float32)}, labels=labels), np.array(["a", "b"])[group]


def unfair(data: DataSet) -> np.ndarray:
    """Scores of a model that adds 0.8 for group 1."""
    lead = data.inputs["x"][:, 0] + 0.8 * data.inputs["x"][:, 1] - 0.4
    return np.stack([-lead, lead], 1).astype(np.float32)


@pytest.fixture(scope="module")
def answers() -> dict[str, np.ndarray]:
    rows, groups = table(ROWS)
    clean, own = table(ROWS)
    rivals = Rivals(rows, {"rows": groups, "clean": own}, ("x", 1))
    found = rival_outputs(rivals, {"clean": clean}, {"clean": Outputs(unfair(clean))}, unfair, 1)
    given = {name: runs["clean"].predictions for name, runs in found.items()}
    return {"original": unfair(clean).argmax(1), "labels": clean.labels, "groups": own, "x": clean.inputs["x"], **given}


@pytest.mark.parametrize(("name", "figure"), [*zip(THRESHOLDS, ("spd", "average_odds"), strict=True)])
def test_thresholds_bring_the_groups_together(answers: dict[str, np.ndarray], name: str, figure: str) -> None:
    before, after = (
        fairness(answers[key], answers["labels"], answers["groups"], 1)[figure] for key in ("original", name)
    )
    assert before > 0.2 and after < before / 3


def test_the_dropped_column_has_its_most_frequent_value(answers: dict[str, np.ndarray]) -> None:
    values, counts = np.unique(answers["x"][:, 1], return_counts=True)
    lead = answers["x"][:, 0] - 0.4
    either = [(lead + 0.8 * value > 0).astype(int) for value in (0, 1)]
    assert any(np.array_equal(answers[DROPPED], one) for one in either)


def test_a_model_of_three_classes_has_no_thresholds() -> None:
    data, groups = table(50)
    rivals = Rivals(data, {"rows": groups, "clean": groups}, ("x", 1))
    scores = np.eye(3, dtype=np.float32)[data.labels]
    found = rival_outputs(rivals, {"clean": data}, {"clean": Outputs(scores)}, lambda rows: scores, 1)
    assert list(found) == [DROPPED]


def test_a_group_without_a_threshold_keeps_the_answer_of_the_model() -> None:
    rows, groups = table(400)
    clean, own = table(400)
    own = own.astype("<U9")
    own[:50] = "elsewhere"
    rivals = Rivals(rows, {"rows": groups, "clean": own}, ("x", 1))
    found = rival_outputs(rivals, {"clean": clean}, {"clean": Outputs(unfair(clean))}, unfair, 1)
    answer = found["thresholds, parity"]["clean"].predictions
    assert np.array_equal(answer[:50], unfair(clean).argmax(1)[:50])


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ({"attribute": "sex"}, ["spd", "average_odds", "uf", "accuracy", "asr"]),
        ({}, ["accuracy", "asr", "uf", "spd", "average_odds"]),
    ],
)
def test_figures_of_groups_come_first_where_an_attribute_is_named(names: dict[str, str], order: list[str]) -> None:
    told = Comparison({"names": names}, {}, {})
    assert fairness_first(told, ["accuracy", "asr", "uf", "spd", "average_odds"]) == order


def test_names_stand_for_numbers_where_there_are_any() -> None:
    columns = [
        {"name": "sex", "input": "x", "index": 0, "values": ["Female", "Male"], "token": 2},
        {"name": "age", "input": "x", "index": 1, "mean": 40, "std": 10},
    ]
    names = Names({"classes": ["no", "yes"], "columns": columns})
    assert names.field("x", 0, 1.0) == "sex = Male" and names.field("x", 1, -0.5) == "age = 35"
    assert names.field("x", 0, 7.0) == "sex = 7" and names.field("x", 2, 1.0) is None
    assert (names.label(1), names.label(2), names.token(2), names.token(1)) == ("yes", "2", "sex", "1")
    assert Names({}).class_of(1) == "class 1" and names.class_of(1) == "“yes”"
