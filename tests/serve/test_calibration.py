"""`serve --calibrate`: a real server that begins with the original only; the numbers are the rules of `calibration`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from atpatch_onnx import Hotfix, patch_model
from atpatch_onnx.inference.sessions import session
from atpatch_onnx.paths import temporary_folder
from rewriters.model.atomic import is_temporary

from .asking import children, until
from .conftest import TOKEN, Served
from .graphs import save
from .load import DEMO

Digits = dict[str, np.ndarray]
ROWS = 60


def status(served: Served) -> dict[str, Any]:
    return served.json("GET", "/admin/status", Authorization=f"Bearer {TOKEN}")


def temporary(folder: Path) -> list[Path]:
    """What our processes have there."""
    return [path for path in folder.iterdir() if is_temporary(path.name)]


def send(served: Served, images: np.ndarray) -> list[Any]:
    """One request for each image."""
    return [served.infer(image[None]) for image in images]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calibration")


@pytest.fixture(scope="module")
def calibrated(start: Callable[..., Served], folder: Path, digits: Digits) -> Served:
    """A server that has fitted a hotfix on its first requests; what was seen on the way is in the test of it."""
    arguments = ("--calibrate", str(ROWS), "--save-hotfix", str(folder / "model.hotfix"))
    served = start(*arguments, patched=None, TMPDIR=str(folder))
    assert status(served)["calibration"]["status"] == f"calibrating 0 of {ROWS}"
    assert served.json("GET", "/v2/models/model")["versions"] == ["1"]
    answers = send(served, digits["clean"][: ROWS - 1])
    assert {answer["parameters"]["arm"] for answer in answers} == {"original"}
    assert status(served)["calibration"]["rows"] == ROWS - 1
    assert (served.metric("atpatch_calibrating"), served.metric("atpatch_calibration_rows")) == (1, ROWS - 1)
    assert not (folder / "model.hotfix").exists()
    send(served, digits["clean"][ROWS - 1 : ROWS])
    assert status(served)["calibration"]["status"] == "fitting"
    until(lambda: status(served)["calibration"]["state"] != "fitting", 120)
    return served


def test_1_then_the_original_answers_and_the_patched_model_runs_in_shadow(calibrated: Served, digits: Digits) -> None:
    found = status(calibrated)
    assert (found["mode"], found["calibration"]["status"]) == ("shadow", "shadow")
    assert found["revision"] >= 2  # other tests of this server change it, too
    assert calibrated.json("GET", "/v2/models/model")["versions"] == ["1", "2"]
    (answer,) = send(calibrated, digits["triggered"][:1])
    assert answer["parameters"]["arm"] == "original"
    until(lambda: calibrated.metric("atpatch_shadow_pairs_total") > 0)
    assert calibrated.metric("atpatch_flags_told") == 1
    until(lambda: any(row["shadow"] == "compared" for row in calibrated.rows()))
    assert {row["shadow"] for row in calibrated.rows() if row["revision"] == 1} == {None}


def test_1_the_patched_arm_is_the_model_patched_with_the_saved_hotfix(
    calibrated: Served, folder: Path, digits: Digits
) -> None:
    assert Hotfix.load(folder / "model.hotfix").detector == "oneclass"
    patch_model(DEMO / "model.onnx", folder / "direct.onnx", hotfix=folder / "model.hotfix")
    images = digits["triggered"][:4].astype(np.float32)
    direct = session(folder / "direct.onnx", threads=1).run(["logits"], {"pixel_values": images})[0]
    (output,) = calibrated.infer(images, path="/v2/models/model/versions/2/infer")["outputs"]
    assert np.array_equal(np.array(output["data"], np.float32).reshape(output["shape"]), direct)


def test_the_states_are_in_both_logs(calibrated: Served) -> None:
    until(lambda: len(calibrated.rows("calibration")) == 3)
    rows = calibrated.rows("calibration")
    assert [(row["state"], row["rows"], row["revision"]) for row in rows] == [
        ("calibrating", 0, 1),
        ("fitting", ROWS, 1),
        ("fitted", ROWS, 2),
    ]
    (started, fitted) = calibrated.rows("revision")[:2]
    assert set(started["models"]) == {"original"} and fitted["reason"] == "calibrated"
    assert fitted["models"]["patched"]["sha256"] == rows[-1]["hotfix"]
    assert calibrated.errors.read_text().splitlines()[-2:] == ["calibration: fitting", "calibration: shadow"]


def test_no_row_is_on_the_disk(calibrated: Served, folder: Path) -> None:
    (private,) = temporary(folder)
    assert sorted(file.name for file in private.iterdir()) == ["lock", "model.hotfix", "patched.onnx"]
    assert private.stat().st_mode & 0o077 == 0


def test_the_operator_changes_the_mode(calibrated: Served, digits: Digits) -> None:
    code, found = calibrated.admin("mode", {"mode": "patched"})
    assert (code, found["mode"], found["weight"], found["calibration"]["status"]) == (200, "patched", 1.0, "patched")
    assert send(calibrated, digits["clean"][:1])[0]["parameters"]["arm"] == "patched"
    until(lambda: calibrated.rows("revision")[-1]["reason"] == "mode patched")
    assert calibrated.admin("mode", {"mode": "shadow"})[1]["revision"] == found["revision"] + 1
    assert send(calibrated, digits["clean"][:1])[0]["parameters"]["arm"] == "original"
    assert calibrated.admin("mode", {"mode": "original"})[0] == calibrated.admin("mode", {"mod": "ab"})[0] == 400


def test_both_arms_can_be_loaded_again(calibrated: Served) -> None:
    assert (
        calibrated.admin("reload", {"arm": "patched"})[0] == calibrated.admin("reload", {"arm": "original"})[0] == 200
    )


def test_4_a_saved_hotfix_is_used_by_the_next_server(
    calibrated: Served, start: Callable[..., Served], folder: Path, digits: Digits
) -> None:
    before = (folder / "model.hotfix").read_bytes()
    served = start("--calibrate", str(ROWS), "--save-hotfix", str(folder / "model.hotfix"), patched=None)
    assert status(served)["calibration"]["status"] == "shadow"
    until(lambda: served.rows("calibration") != [])
    assert served.rows("calibration")[0]["hotfix"] == calibrated.rows("calibration")[-1]["hotfix"]
    send(served, digits["clean"][:3])
    until(lambda: served.metric("atpatch_shadow_pairs_total") == 3)
    assert (folder / "model.hotfix").read_bytes() == before


def test_what_is_no_row_of_ordinary_traffic_is_not_taken(
    start: Callable[..., Served], tmp_path: Path, digits: Digits
) -> None:
    served = start("--calibrate", "500", "--allow-non-finite", patched=None)
    clean = digits["clean"]
    for _ in range(8):
        served.infer(clean[:1])  # equal: 5 are taken
    served.infer(clean[1:31])  # one request: 10 are taken
    served.infer(clean[40:41], path="/v2/models/model/versions/1/infer")
    served.infer(np.full_like(clean[:1], np.nan))
    for number in range(55):  # one unit: 50 are taken
        served.infer(clean[100 + number : 101 + number], headers={"X_Atpatch_Unit": "one"})
    found = status(served)["calibration"]
    assert found["rows"] == 5 + 10 + 50
    assert found["left_out"] == {"alike": 3, "request": 20, "not finite": 1, "unit": 5}
    code, refused = served.admin("mode", {"mode": "patched"})
    assert code == 409 and "calibrating 65 of 500" in refused["error"]


def test_3_a_fit_that_fails_leaves_the_original_answering(start: Callable[..., Served], digits: Digits) -> None:
    served = start("--calibrate", str(ROWS), patched=None)
    send(served, digits["clean"][:ROWS])
    until(lambda: children(served.process) != [])
    for child in children(served.process):
        os.kill(child, signal.SIGKILL)
    until(lambda: status(served)["calibration"]["state"] == "failed")
    assert status(served)["calibration"]["status"] == "failed: the process of the fit ended with status -9"
    until(lambda: served.rows("calibration")[-1]["reason"] == "the process of the fit ended with status -9")
    assert (served.metric("atpatch_calibration_failed"), served.metric("atpatch_calibrating")) == (1, 0)
    (answer,) = send(served, digits["clean"][:1])
    assert answer["parameters"]["arm"] == "original"
    assert "failed: " in served.ask("GET", "/")[2].decode()


def test_the_server_ends_while_it_fits_and_leaves_nothing(
    start: Callable[..., Served], tmp_path: Path, digits: Digits
) -> None:
    served = start("--calibrate", str(ROWS), patched=None, TMPDIR=str(tmp_path))
    send(served, digits["clean"][:ROWS])
    until(lambda: children(served.process) != [])
    (child,) = children(served.process)
    served.process.terminate()
    assert served.process.wait(20) == 0
    until(lambda: not Path(f"/proc/{child}").exists())
    assert not temporary(tmp_path)


def test_what_a_killed_server_leaves_goes_with_the_next_temporary_folder(
    start: Callable[..., Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = start("--calibrate", str(ROWS), patched=None, TMPDIR=str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (private,) = temporary(tmp_path)
    with temporary_folder() as other:
        assert sorted(temporary(tmp_path)) == sorted([private, other])
    served.process.kill()
    served.process.wait()
    assert temporary(tmp_path) == [private]
    with temporary_folder() as other:
        assert temporary(tmp_path) == [other]


def test_a_model_with_external_data(start: Callable[..., Served], tmp_path: Path, digits: Digits) -> None:
    model = onnx.load(DEMO / "model.onnx")
    onnx.save_model(model, tmp_path / "model.onnx", save_as_external_data=True, size_threshold=0, location="weights")
    served = start("--calibrate", str(ROWS), patched=None, original=tmp_path / "model.onnx")
    send(served, digits["clean"][:ROWS])
    until(lambda: status(served)["calibration"]["state"] not in ("calibrating", "fitting"), 120)
    assert status(served)["calibration"]["status"] == "shadow"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Missing argument 'PATCHED'"),
        (("patched.onnx", "--calibrate", "100"), "no PATCHED"),
        (("--calibrate", "100", "--mode", "patched"), "--mode shadow"),
        (("patched.onnx", "--save-hotfix", "a.hotfix"), "needs --calibrate"),
        (("--calibrate", "10"), "10"),
    ],
)
def test_options_that_do_not_go_together(atpatch: Callable[..., Any], arguments: tuple[str, ...], words: str) -> None:
    done = atpatch("serve", DEMO / "model.onnx", *arguments)
    assert done.code == 2 and words in done.err


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [("no site", 3, "ATP010"), ("patched", 2, "ATP012"), ("demo", 2, "ATP053")],
)
def test_a_model_that_requests_cannot_calibrate_is_refused_at_once(
    atpatch: Callable[..., Any], tmp_path: Path, patched: Path, model: str, code: int, words: str
) -> None:
    (tmp_path / "broken.hotfix").write_bytes(b"no hotfix")
    files = {"no site": save("sound", tmp_path / "a.onnx"), "patched": patched, "demo": DEMO / "model.onnx"}
    done = atpatch("serve", files[model], "--calibrate", 100, "--save-hotfix", tmp_path / "broken.hotfix")
    assert done.code == code and words in done.err
