"""Alarms of a served patch: told to clients, to the log and in the metrics, or the request is refused."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from atpatch_onnx.decisions import FailureRow, Reading, read_rows

from ..alarms import raising, save_alarmed
from .asking import until
from .conftest import Served

INFER = "/v2/models/model/infer"
REFUSED = (422, "alarm")
HUGE = np.full((1, 6, 8), 3e38, np.float32)
"""Finite, and its score is not."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    original, patched = save_alarmed(tmp_path_factory.mktemp("alarms"))
    return {"original": original, "patched": patched}


@pytest.fixture(scope="module")
def telling(start: Callable[..., Served], files: dict[str, Path]) -> Served:
    return start("--mode", "patched", "--grpc-port", "0", **files)


@pytest.fixture(scope="module")
def refusing(start: Callable[..., Served], files: dict[str, Path]) -> Served:
    return start("--mode", "patched", "--on-alarm", "refuse", "--grpc-port", "0", "--hot-threshold", **files)


def body(x: np.ndarray, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}], **more}


def ask(served: Served, *alarms: bool, path: str = INFER, **more: Any) -> tuple[int, Any]:
    """Status and JSON of a request whose samples raise an alarm, or do not."""
    import json

    status, _, text = served.ask("POST", path, body(raising(*alarms), **more))
    return status, json.loads(text)


def told(answer: tuple[int, Any]) -> tuple[int, str]:
    return answer[0], answer[1].get("code", "")


def row_of(served: Served, name: str, event: str = "decision") -> dict[str, Any]:
    until(lambda: any(row["id"] == name for row in served.rows(event)))
    (row,) = [row for row in served.rows(event) if row["id"] == name]
    return row


def triton(served: Served, x: np.ndarray) -> Any:
    """The answer to tritonclient's own client."""
    client: Any = pytest.importorskip("tritonclient.grpc")
    given = client.InferInput("x", list(x.shape), "FP32")
    given.set_data_from_numpy(x)
    with client.InferenceServerClient(f"127.0.0.1:{served.described['grpc_port']}") as asking:
        return asking.infer("model", [given]).get_response()


def test_an_alarm_is_told_and_the_answer_is_that_of_the_graph(telling: Served, files: dict[str, Path]) -> None:
    status, answer = ask(telling, False, True, True, id="told")
    wanted: Any = onnxruntime.InferenceSession(files["patched"]).run(["logits"], {"x": raising(False, True, True)})[0]
    assert status == 200 and answer["outputs"][0]["data"] == wanted.ravel().tolist()
    assert (answer["parameters"]["alarm"], answer["parameters"]["alarm_rows"]) == (True, "1,2")
    assert row_of(telling, "told")["alarms"] == [False, True, True]
    quiet = ask(telling, False, False)[1]["parameters"]
    assert quiet["alarm"] is False and "alarm_rows" not in quiet


def test_the_original_tells_of_no_alarm(telling: Served) -> None:
    status, answer = ask(telling, True, path="/v2/models/model/versions/1/infer", id="version 1")
    assert status == 200 and "alarm" not in answer["parameters"] and row_of(telling, "version 1")["alarms"] is None


def test_grpc_tells_and_refuses_as_rest_does(telling: Served, refusing: Served) -> None:
    answer = triton(telling, raising(True, False))
    assert answer.parameters["alarm"].bool_param and answer.parameters["alarm_rows"].string_param == "0"
    assert not triton(refusing, raising(False)).parameters["alarm"].bool_param
    with pytest.raises(Exception, match="refused for the alarm of sample 0") as caught:
        triton(refusing, raising(True, False))
    assert caught.value.status() == "StatusCode.FAILED_PRECONDITION"


def test_a_request_is_refused_as_a_whole_and_the_error_names_the_samples(refusing: Served) -> None:
    names = ("atpatch_alarm_refused_total", "atpatch_alarms_total", "nv_inference_request_failure")
    before = {name: refusing.metric(name) for name in names}
    answer = ask(refusing, True, False, True, id="refused")
    assert told(answer) == REFUSED and answer[1]["error"] == "the request is refused for the alarm of samples 0,2"
    assert set(answer[1]) == {"error", "code"}
    assert "; alarms: " in refusing.ask("GET", "/")[2].decode()
    row = row_of(refusing, "refused", "failure")
    assert (row["arm"], row["reason"], row["alarms"]) == ("patched", "alarm", [True, False, True])
    grown = {name: refusing.metric(name) - before[name] for name in names}
    assert list(grown.values()) == [1, 2, 0]  # an alarm is no failure of the server
    assert ask(refusing, False, False)[0] == 200
    assert "--strict-version refuses them" in refusing.errors.read_text()
    (read,) = [row for row in read_rows([refusing.log], Reading()) if getattr(row, "id", "") == "refused"]
    assert isinstance(read, FailureRow) and read.alarms == [True, False, True]


def test_a_score_that_is_no_finite_number_is_an_alarm(refusing: Served, telling: Served) -> None:
    status, _, text = refusing.ask("POST", INFER, body(HUGE, id="huge"))
    assert status == 422 and b'"code":"alarm"' in text
    assert row_of(refusing, "huge", "failure")["alarms"] == [True]
    answer = telling.json("POST", INFER, body(HUGE))
    assert answer["parameters"]["alarm"] is True and answer["parameters"]["non_finite"] == 1


def test_only_the_request_with_the_alarm_is_refused_of_those_that_share_a_run(
    start: Callable[..., Served], files: dict[str, Path]
) -> None:
    options = ("--batch", "16", "--batch-delay", "50", "--workers", "1")
    joined = start("--mode", "patched", "--on-alarm", "refuse", *options, **files)
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda number: ask(joined, number % 4 == 0)[0], range(64)))
    assert statuses == [422 if number % 4 == 0 else 200 for number in range(64)]
    assert joined.metric("nv_inference_exec_count") < 64  # some did share one


def test_in_ab_the_arm_is_that_of_the_unit_and_only_the_patched_one_refuses(
    start: Callable[..., Served], files: dict[str, Path]
) -> None:
    ab = start("--mode", "ab", "--weight", "patched=0.5", "--on-alarm", "refuse", **files)
    for unit in range(20):
        quiet, loud = (ask(ab, alarm, parameters={"unit": unit}, id=f"{unit} {alarm}") for alarm in (False, True))
        arm = quiet[1]["parameters"]["arm"]
        assert told(loud) == REFUSED if arm == "patched" else loud[1]["parameters"]["arm"] == "original"
    refused = ab.rows("failure")
    assert 0 < len(refused) < 20 and {row["assigned"] for row in refused} == {"patched"}


def test_in_shadow_nothing_is_refused_and_the_alarms_are_in_the_log(
    start: Callable[..., Served], files: dict[str, Path]
) -> None:
    shadow = start("--mode", "shadow", "--on-alarm", "refuse", **files)
    status, answer = ask(shadow, True, False, id="shadowed")
    assert status == 200 and answer["parameters"]["arm"] == "original" and "alarm" not in answer["parameters"]
    assert row_of(shadow, "shadowed")["alarms"] == [True, False]
    assert shadow.metric("atpatch_alarm_rate") == 0.5 and shadow.metric("atpatch_alarm_refused_total") == 0
    assert told(ask(shadow, True, path="/v2/models/model/versions/2/infer")) == REFUSED
    assert "no request is refused for one" in shadow.errors.read_text()


def test_a_patch_that_is_off_refuses_nothing(refusing: Served) -> None:
    for action, on, arm in (("kill", None, "original"), ("controls", {"enabled": False}, "patched")):
        refusing.admin(action, on)
        status, answer = ask(refusing, True, id=action)
        refusing.admin("restore" if on is None else "controls", {} if on is None else {"enabled": True})
        assert (status, answer["parameters"]["arm"]) == (200, arm) and "alarm" not in answer["parameters"]
        assert row_of(refusing, action)["alarms"] is None
    assert told(ask(refusing, True)) == REFUSED


def test_a_file_without_an_alarm_does_not_take_the_place_of_one_that_refuses(
    start: Callable[..., Served], files: dict[str, Path], tmp_path: Path
) -> None:
    patched = tmp_path / "alarmed.onnx"
    patched.write_bytes(files["patched"].read_bytes())
    served = start("--mode", "patched", "--on-alarm", "refuse", original=files["original"], patched=patched)
    patched.write_bytes(files["original"].read_bytes())
    status, answer = served.admin("reload", {"arm": "patched"})
    assert status == 409 and "raises no alarms" in str(answer)
    assert told(ask(served, True)) == REFUSED


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mode", "original"], "needs a patched model that raises alarms"),
        (["--fallback", "original"], "a run that fails would not be refused"),
        (["--mode", "patched"], "ATP060"),
    ],
)
def test_where_nothing_could_be_refused_the_server_does_not_start(
    atpatch: Any, files: dict[str, Path], options: list[str], words: str
) -> None:
    done = atpatch("serve", files["original"], files["original"], "--on-alarm", "refuse", "--port", "0", *options)
    assert done.code == 2 and words in done.err
