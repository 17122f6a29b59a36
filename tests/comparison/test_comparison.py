"""The result: JSON's contract, and that a saved run is judged the same."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from atpatch_onnx import AtpatchError, Comparison, compare

from ..tiny import attention_model
from .case import CLASSES, rows


def test_json_keeps_its_contract(comparison) -> None:
    told = comparison.to_json()
    assert {"n", "original", "patched", "paired", "latency"} <= set(told)
    assert told["n"] == 40
    assert set(told["original"]) == {
        "accuracy",
        "asr",
        "asr_star",
        "recovered",
        "uf",
        "spd",
        "average_odds",
        "equal_opportunity",
    }
    assert set(told["patched"]) == set(told["original"]) | {"clean_flagged", "triggered_flagged", "flips_flagged"}
    assert {"changed", "mcnemar_p", "accuracy_drop", "lost", "gained", "identical", "numeric", "rows"} <= set(
        told["paired"]
    )
    assert all(0 <= value <= 1 for value in told["patched"].values())
    assert set(told["latency"]["flagged"]) == {"original", "patched", "ratio", "requests"}
    assert set(told["also"]) == {"silent"}
    assert told["also"]["silent"]["paired"]["changed"] == 0
    json.loads(json.dumps(told, allow_nan=False))


def test_figures_agree_with_the_scores(case, comparison) -> None:
    labels = np.load(case.clean)["labels"]
    told = comparison.to_json()
    for name in ("original", "patched"):
        assert told[name]["accuracy"] == (comparison.outputs[name]["clean"].scores.argmax(1) == labels).mean()
    before, after = (comparison.outputs[name]["clean"].scores.argmax(1) for name in ("original", "patched"))
    assert told["paired"]["changed"] == (before != after).sum() > 0
    listed = told["paired"]["rows"]["clean"]
    assert [row["row"] for row in listed] == np.flatnonzero(before != after).tolist()
    first = listed[0]
    assert (first["original"], first["patched"]) == (before[first["row"]], after[first["row"]])
    assert first["label"] == labels[first["row"]]
    assert first["flagged"] is True and set(map(tuple, first["columns"].values())) == {(2,)}
    assert first["scores"]["patched"] == comparison.outputs["patched"]["clean"].scores[first["row"]].tolist()


def test_a_saved_run_is_judged_the_same(tmp_path, comparison) -> None:
    comparison.save(tmp_path / "run.npz")
    again = Comparison.load(tmp_path / "run.npz")
    assert json.dumps(again.to_json()) == json.dumps(comparison.to_json())
    assert again.values == comparison.values
    shown, kept = again.exemplar, comparison.exemplar
    assert shown.chosen == kept.chosen
    assert [view.site for view in shown.sites] == [view.site for view in kept.sites]
    np.testing.assert_array_equal(shown.sites[0].after, kept.sites[0].after)


def test_saved_runs_hold_no_pickles(tmp_path, comparison) -> None:
    comparison.save(tmp_path / "run.npz")
    with np.load(tmp_path / "run.npz", allow_pickle=False) as archive:
        assert all(archive[name].dtype.kind in "biufU" for name in archive.files)


@pytest.mark.parametrize("content", ["nothing", "npz", "npy", "pickle", "cut", "format"])
def test_other_files_are_refused(tmp_path, comparison, content: str) -> None:
    path = tmp_path / "run.npz"
    if content == "nothing":
        path.write_bytes(b"")
    elif content == "npz":
        np.savez(path, x=np.zeros(3))
    elif content == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif content == "pickle":
        path.write_bytes(pickle.dumps({"header": 1}))
    else:
        comparison.save(path)
        if content == "cut":
            path.write_bytes(path.read_bytes()[:-200])
        else:
            with np.load(path) as archive:
                arrays = {name: archive[name] for name in archive.files}
            arrays["header"] = np.array(json.dumps({**json.loads(str(arrays["header"])), "format": 99}))
            np.savez(path, **arrays)
    with pytest.raises(AtpatchError) as error:
        Comparison.load(path)
    assert error.value.code == "ATP056"


def test_a_missing_file_is_refused(tmp_path) -> None:
    with pytest.raises(AtpatchError, match="ATP002"):
        Comparison.load(tmp_path / "no.npz")


def test_without_labels_there_is_only_agreement(case) -> None:
    found = compare(case.model, case.patched, case.unlabeled, threads=1, seconds=0)
    told = found.to_json()
    assert told["original"] == {}
    assert set(told["patched"]) == {"clean_flagged"}
    assert 0 < told["paired"]["changed"] < 40
    assert told["paired"]["agreement"] == 1 - told["paired"]["changed"] / 40
    assert "mcnemar_p" not in told["paired"]
    assert found.verdict() == f"The patch changes {told['paired']['changed']} of 40 clean predictions."


def test_a_model_of_numbers_is_compared_by_value() -> None:
    from atpatch_onnx import patch_model

    model = attention_model()
    silent, firing = (patch_model(model, detector="static", columns=columns) for columns in ((), (1,)))
    found = compare(model, silent, {"x": rows(9)}, also={"firing": firing}, threads=1, seconds=0)
    assert not found.classes
    told = found.to_json()
    assert told["paired"]["numeric"]["clean"]["y"] == {"max": 0, "mean": 0, "cosine_min": 1, "cosine_mean": 1}
    assert "changed" not in told["paired"]
    assert told["also"]["firing"]["paired"]["numeric"]["clean"]["y"]["max"] > 0.01
    assert found.verdict() == "The patch leaves every output as it was, bit for bit."
    assert found.verdict("firing").startswith("firing moves the outputs of 9 of 9 rows, by ")
    assert found.mended() is None


def test_class_scores_may_be_taken_for_numbers(case) -> None:
    found = compare(case.model, case.patched, case.clean, classes=False, threads=1, seconds=0)
    assert not found.classes
    assert set(found.to_json()["patched"]) == {"clean_flagged"}


def test_a_target_that_is_no_class_of_the_model_is_refused(case) -> None:
    with np.load(case.triggered) as triggered:
        for target in (CLASSES, -1):
            with pytest.raises(AtpatchError, match="ATP056"):
                beyond = {**triggered, "target": np.array(target)}
                compare(case.model, case.patched, case.clean, triggered=beyond, threads=1, seconds=0)


def test_a_graph_without_a_patch_says_that_flags_are_not_known(case) -> None:
    found = compare(case.model, case.model, case.clean, threads=1, seconds=0)
    told = found.to_json()
    assert "clean_flagged" not in told["patched"]
    assert told["paired"]["identical"]["clean"]["hits"] == 40
    assert told["setup"]["models"]["patched"]["flags"] == "none: not patched"


def test_the_verdict_says_what_is_stopped_and_what_it_costs(comparison) -> None:
    attack, unfair = comparison.changes["patched"].attack, comparison.changes["patched"].unfair
    told = comparison.verdict()
    assert told.startswith("The patch ")
    for pair in (attack, unfair):
        assert str(pair.gained + pair.neither) in told
    assert f"{comparison.changes['patched'].changed.hits} of 40 clean predictions" in told
    assert "stops none of" in comparison.verdict("silent")
    assert comparison.mended("silent") is False
