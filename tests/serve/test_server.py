"""A real server, asked over real sockets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from atpatch_onnx.inference.sessions import session
from atpatch_onnx.serve.routing import Split

from .asking import INFER, binary, scores_of, until
from .conftest import TOKEN, Served
from .load import DEMO


@pytest.mark.parametrize("count", [1, 3, 64])
def test_original_mode_equals_onnxruntime_bit_for_bit(
    original: Served, digits: dict[str, np.ndarray], count: int
) -> None:
    images = digits["triggered"][:count]
    direct = session(DEMO / "model.onnx", threads=1).run(["logits"], {"pixel_values": images.astype(np.float32)})[0]
    body, headers = binary(images)
    assert np.array_equal(scores_of(original.ask("POST", INFER, body, **headers)), direct)
    (output,) = original.infer(images)["outputs"]
    assert np.array_equal(np.array(output["data"], np.float32).reshape(output["shape"]), direct)


def test_patched_version_equals_onnxruntime_bit_for_bit(
    ab: Served, patched: Path, digits: dict[str, np.ndarray]
) -> None:
    """Giving the flags out changes nothing in the answers."""
    images = np.concatenate([digits["triggered"][:3], digits["clean"][:3]])
    direct = session(patched, threads=1).run(["logits"], {"pixel_values": images.astype(np.float32)})[0]
    body, headers = binary(images)
    assert np.array_equal(scores_of(ab.ask("POST", "/v2/models/model/versions/2/infer", body, **headers)), direct)


def test_metadata_and_health(ab: Served, original: Served) -> None:
    assert ab.json("GET", "/v2")["extensions"] == ["binary_tensor_data"]
    assert ab.json("GET", "/v2/health/live") == {"live": True} and ab.json("GET", "/v2/health/ready") == {"ready": True}
    model = ab.json("GET", "/v2/models/model")
    assert model == {
        "name": "model",
        "versions": ["1", "2"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "pixel_values", "datatype": "FP32", "shape": [-1, 1, 8, 8]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
    }
    assert ab.json("GET", "/v2/models/model/versions/2") == model
    assert ab.json("GET", "/v2/models/model/versions/1/ready") == {"name": "model", "ready": True}
    assert original.json("GET", "/v2/models/model")["versions"] == ["1"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/model/versions/3", 404),
        ("POST", "/v2/models/model/versions/x/infer", 404),
        ("GET", "/nothing", 404),
        ("GET", INFER, 405),
        ("DELETE", "/v2", 405),
        ("POST", INFER, 400),
    ],
)
def test_errors_are_json(ab: Served, method: str, path: str, status: int) -> None:
    got, headers, body = ab.ask(method, path)
    assert got == status and headers["content-type"] == "application/json" and set(json.loads(body)) == {"error"}


def test_ids_outputs_and_parameters(ab: Served, digits: dict[str, np.ndarray]) -> None:
    answer = ab.infer(
        digits["clean"][:1], id="r1", outputs=[{"name": "logits"}], path="/v2/models/model/versions/2/infer"
    )
    assert answer["id"] == "r1" and answer["model_version"] == "2"
    assert answer["parameters"]["arm"] == "patched" and answer["parameters"]["flagged"] is False
    flagged = ab.infer(digits["triggered"][:1], path="/v2/models/model/versions/2/infer")
    assert flagged["parameters"]["flagged"] is True and flagged["id"]
    assert "flagged" not in ab.infer(digits["triggered"][:1], path="/v2/models/model/versions/1/infer")["parameters"]


def test_shadow_log_row(shadow: Served, digits: dict[str, np.ndarray]) -> None:
    images = np.concatenate([digits["triggered"][:1], digits["clean"][:1]])
    answer = shadow.infer(images, id="pair", headers={"X_Atpatch_Unit": "alice"})
    assert answer["parameters"] == {"arm": "original", "revision": answer["parameters"]["revision"]}
    until(lambda: any(row["id"] == "pair" for row in shadow.rows()))
    (row,) = [row for row in shadow.rows() if row["id"] == "pair"]
    assert row["shadow"] == "compared" and row["batch"] == 2 and row["unit_given"] is True
    assert row["flagged"] == [True, False] and row["sites"] and row["agree"] == [False, True]
    assert row["difference"][0] > 1 and row["difference"][1] == 0.0
    assert row["columns"][row["sites"][0]][0] and not row["columns"][row["sites"][0]][1]
    assert row["latency_ms"]["original"] > 0 and row["latency_ms"]["patched"] > 0
    assert "alice" not in shadow.log.read_text()


def test_ab_is_sticky_across_restarts(ab: Served, start: Callable[..., Served], digits: dict[str, np.ndarray]) -> None:
    image = digits["clean"][:1]

    def arms(served: Served) -> list[str]:
        by_header = [served.infer(image, headers={"X_Atpatch_Unit": f"u{i}"})["parameters"]["arm"] for i in range(20)]
        by_parameter = [served.infer(image, parameters={"unit": f"u{i}"})["parameters"]["arm"] for i in range(20)]
        by_id = [served.infer(image, id=f"u{i}")["parameters"]["arm"] for i in range(20)]
        assert by_header == by_parameter == by_id
        return by_header

    first = arms(ab)
    assert set(first) == {"original", "patched"}
    assert arms(start("--mode", "ab", "--weight", "patched=0.5")) == first
    split = Split("atpatch", "", 0.5)
    for number, arm in enumerate(first):
        assert {row["arm"] for row in ab.rows() if row["unit"] == split.pseudonym(f"u{number}")} == {arm}


def test_admin_wants_the_token(ab: Served, start: Callable[..., Served]) -> None:
    for given in (
        None,
        "Bearer wrong",
        "Bearer ",
        "Bearer",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer{TOKEN}",
        f"Bearer  {TOKEN}",
    ):
        headers = {} if given is None else {"Authorization": given}
        assert ab.ask("POST", "/admin/kill", {}, **headers)[0] == 403, given
    assert ab.ask("POST", "/admin/restore", {}, Authorization=f"bearer {TOKEN}")[0] == 200
    without = start("--mode", "original", ATPATCH_ADMIN_TOKEN="")
    assert without.ask("POST", "/admin/kill", {}, Authorization="Bearer ")[0] == 404


def test_admin_kill_weight_and_what_it_refuses(start: Callable[..., Served], digits: dict[str, np.ndarray]) -> None:
    served = start("--mode", "ab", "--weight", "patched=1")
    image = digits["clean"][:1]
    assert served.infer(image)["parameters"]["arm"] == "patched"
    state = {"mode": "ab", "calibration": None}
    assert served.admin("kill") == (200, {"revision": 1, "killed": ["admin"], "weight": 1.0, **state})
    assert served.infer(image)["parameters"]["arm"] == "original"
    assert served.infer(image, path="/v2/models/model/versions/2/infer")["parameters"]["arm"] == "original"
    assert served.metric("atpatch_killed") == 1
    assert served.admin("restore")[1]["killed"] == []
    assert served.admin("weight", {"weight": 0.0})[1] == {"revision": 2, "killed": [], "weight": 0.0, **state}
    assert served.infer(image)["parameters"] == {"arm": "original", "revision": 2}
    for weight in (2, -1, None, "x", True, "nan"):
        assert served.admin("weight", {"weight": weight})[0] == 400
    assert served.admin("controls", {"threshold": 1})[0] == 403
    assert served.admin("reload", {"arm": "other"})[0] == 400
    assert served.ask("POST", "/admin/weight", b"{", Authorization="Bearer open-sesame")[0] == 400
    assert served.ask("POST", "/admin/weight", b"x" * 5000, Authorization="Bearer open-sesame")[0] == 413


def test_page_form_kills(start: Callable[..., Served]) -> None:
    served = start("--mode", "patched")
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    assert served.ask("POST", "/admin/kill", b"token=wrong", **form)[0] == 403
    status, headers, _ = served.ask("POST", "/admin/kill", b"token=open-sesame", **form)
    assert (status, headers["location"]) == (303, "/")
    assert b"The patch is off" in served.ask("GET", "/")[2]


def test_threshold_moves_without_reload(shadow: Served, digits: dict[str, np.ndarray]) -> None:
    path, image = "/v2/models/model/versions/2/infer", digits["triggered"][:1]
    assert shadow.infer(image, path=path)["parameters"]["flagged"] is True
    before = shadow.metric("atpatch_revision")
    assert shadow.admin("controls", {"threshold": 2.0})[1]["revision"] == before + 1
    assert shadow.infer(image, path=path)["parameters"]["flagged"] is False
    shadow.admin("controls", {"enabled": False})
    plain = shadow.infer(image, path=path)
    assert "flagged" not in plain["parameters"] and plain["outputs"] == shadow.infer(image)["outputs"]
    shadow.admin("controls", {})
    assert shadow.infer(image, path=path)["parameters"]["flagged"] is True
    revision = shadow.metric("atpatch_revision")
    for threshold in ("x", 1e300, -1e300, 3.5e38, "1e39", True, "nan", [1]):
        assert shadow.admin("controls", {"threshold": threshold})[0] == 400, threshold
    status, answer = shadow.admin("controls", {"threshhold": 2.0})
    assert status == 400 and answer["error"] == "there is no field 'threshhold'; allowed: 'enabled' and 'threshold'"
    assert (
        shadow.metric("atpatch_revision") == revision
        and shadow.infer(image, path=path)["parameters"]["flagged"] is True
    )
    assert "Warning" not in shadow.errors.read_text()


def test_metrics_bear_tritons_names(shadow: Served, digits: dict[str, np.ndarray]) -> None:
    # Shadow runs of earlier requests would count in between; a row is written once no more runs are due.
    until(lambda: len(shadow.rows()) == shadow.metric("nv_inference_request_success"))
    success, count, pairs = (
        shadow.metric(name)
        for name in ("nv_inference_request_success", "nv_inference_count", "atpatch_shadow_pairs_total")
    )
    shadow.infer(digits["triggered"][:4])
    until(lambda: shadow.metric("atpatch_shadow_pairs_total") == pairs + 4)
    assert shadow.metric("nv_inference_request_success") == success + 1
    assert shadow.metric("nv_inference_count") == count + 8
    text = shadow.ask("GET", "/metrics")[2].decode()
    for name in ("nv_inference_exec_count", "nv_inference_queue_duration_us", "nv_inference_compute_infer_duration_us"):
        assert f'{name}{{model="model",version="1"}}' in text
    assert shadow.metric("atpatch_flagged_total") >= 4 and shadow.metric("atpatch_flag_rate") > 0
    assert 'atpatch_flagged_columns_total{column="' in text


def test_page(shadow: Served, ab: Served, original: Served, digits: dict[str, np.ndarray]) -> None:
    shadow.infer(digits["triggered"][:4])
    until(lambda: shadow.metric("atpatch_shadow_pairs_total") > 0)
    for served in (shadow, ab, original):
        status, headers, body = served.ask("GET", "/")
        assert status == 200 and "default-src 'none'" in headers["content-security-policy"]
        assert b"http://" not in body and b"https://" not in body and b"src=" not in body
    assert b"sample-ratio mismatch" in ab.ask("GET", "/")[2]
    assert b"The patch would change" in shadow.ask("GET", "/")[2]


def test_revision_goes_on_in_the_log(shadow: Served) -> None:
    first = shadow.rows("revision")[0]
    assert first["reason"] == "start" and set(first["models"]) == {"original", "patched"} and len(first["salt"]) == 16
