"""docs/deploy: alert rules and dashboard name what a server exports, and every rule fires when its fault happens.

A rule is held against two scrapes, one of the server as it started and one after the fault. `increase` and `delta`
give nothing for a series that is missing in the first: so does Prometheus where a series begins with its first event.
"""

from __future__ import annotations

import json
import operator
import os
import re
import resource
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ..alarms import raising, save_alarmed
from .asking import children, until
from .conftest import Served
from .graphs import save
from .load import ROOT

DEPLOY = ROOT / "docs" / "deploy"
RULES = {
    rule["alert"]: rule["expr"]
    for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
INSTANCE = {"instance": "here", "job": "atpatch"}
"""Labels that Prometheus adds to every sample."""

Scrape = dict[tuple[str, frozenset[tuple[str, str]]], float]

_TERM = re.compile(
    r"(?:(?P<change>increase|delta)\()?(?P<metric>\w+)(?:\{(?P<label>\w+)(?P<equal>!?=)\"(?P<value>\w+)\"\})?"
    r"(?:\[\d+m\]\))? (?P<compare>==|<|>) (?P<bound>[\d.]+)"
)
_COMPARE = {"==": operator.eq, "<": operator.lt, ">": operator.gt}


def scrape(served: Served) -> Scrape:
    """(name, labels) → value, with `up`, which is Prometheus' own."""
    up = ("up", frozenset(INSTANCE.items()))
    try:
        text = served.ask("GET", "/metrics")[2].decode()
    except OSError:
        return {up: 0.0}
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {up: 1.0} | {(s.name, frozenset({**s.labels, **INSTANCE}.items())): s.value for s in samples}


def fires(rule: str, before: Scrape, after: Scrape) -> bool:
    """Of one instance, so `on (instance)` asks for nothing more than that both sides are there."""
    return all(_holds(term, before, after) for term in rule.split(" and on (instance) "))


def _holds(text: str, before: Scrape, after: Scrape) -> bool:
    term = _TERM.fullmatch(text)
    assert term, f"this test cannot read {text!r}"
    for (name, labels), value in after.items():
        same = term["label"] is None or (dict(labels).get(term["label"]) == term["value"]) == (term["equal"] == "=")
        if name != term["metric"] or not same:
            continue
        if term["change"]:
            value -= before.get((name, labels), np.nan)
        if _COMPARE[term["compare"]](value, float(term["bound"])):
            return True
    return False


@dataclass
class Watched:
    """A server; which alerts came with which fault; what it exported at first and in the end."""

    served: Served
    model: str
    raised: list[tuple[str, set[str]]] = field(default_factory=list)
    first: Scrape = field(default_factory=dict)
    last: Scrape = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.first = scrape(self.served)

    def ask(self, values: np.ndarray, version: str = "") -> int:
        """Status of a request whose only input holds `values`, the sample axis first."""
        name = "pixel_values" if values.ndim == 4 else "x"
        entry = {"name": name, "datatype": "FP32", "shape": list(values.shape), "data": values.ravel().tolist()}
        path = f"/v2/models/{self.model}{version}/infer"
        return self.served.ask("POST", path, json.dumps({"inputs": [entry]}).encode())[0]

    def note(self, fault: str) -> None:
        """The alerts that are new; those of earlier faults have to be there still."""
        self.last = scrape(self.served)
        now = {name for name, rule in RULES.items() if fires(rule, self.first, self.last)}
        known = set().union(*(alerts for _, alerts in self.raised))
        assert now >= known
        self.raised.append((fault, now - known))

    def wait_for(self, metric: str, value: float) -> None:
        deadline = time.monotonic() + 10
        while self.served.metric(metric) < value:
            assert time.monotonic() < deadline, f"{metric} did not come to {value}"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def demo(start: Callable[..., Served], patched: Path, digits: dict[str, np.ndarray], tmp_path_factory: Any) -> Watched:
    """The demo model in mode shadow: one fault after the other."""
    path = tmp_path_factory.mktemp("demo") / "patched.onnx"
    path.write_bytes(patched.read_bytes())
    demo = Watched(start("--mode", "shadow", "--allow-non-finite", patched=path), "model")
    clean, triggered = digits["clean"][:40], digits["triggered"][:40]
    nan = np.full_like(clean[:1], np.nan)

    demo.ask(clean)
    demo.wait_for("atpatch_shadow_pairs_total", 40)
    demo.note("none")
    demo.ask(triggered)
    demo.wait_for("atpatch_shadow_pairs_total", 80)
    demo.note("triggered samples")
    demo.ask(nan)
    demo.wait_for("atpatch_shadow_total", 3)
    demo.note("NaN in a shadow run")
    demo.ask(nan, version="/versions/2")
    demo.note("NaN in an answer")
    path.write_bytes(b"garbage")
    assert demo.served.admin("reload", {"arm": "patched"})[0] == 409
    demo.note("reload of a broken file")
    full = demo.served.log.stat().st_size
    resource.prlimit(demo.served.process.pid, resource.RLIMIT_FSIZE, (full, full))
    demo.ask(clean, version="/versions/1")
    until(lambda: demo.served.metric("atpatch_log_failures") > 0)  # the row is written after the answer
    demo.note("full disk")
    demo.served.admin("kill")
    demo.note("kill switch")
    return demo


@pytest.fixture(scope="module")
def slow(start: Callable[..., Served], tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """A patched model without a patch, which takes seconds where a request says so."""
    folder = tmp_path_factory.mktemp("slow")
    files = {"original": save("sound", folder / "a.onnx"), "patched": save("slow", folder / "b.onnx")}
    slow = Watched(start("--mode", "patched", "--timeout", "2", "--max-in-flight", "1", **files), "a")

    slow.note("no patch")
    slow.ask(np.ones((1, 4)))
    slow.note("samples without flags")
    statuses: list[int] = []
    client = threading.Thread(target=lambda: statuses.append(slow.ask(np.full((1, 4), 100.0))))
    client.start()
    slow.wait_for("nv_inference_pending_request_count", 1)
    assert slow.ask(np.ones((1, 4))) == 503
    slow.note("a second request while one is under way")
    client.join()
    assert statuses == [503]
    slow.note("a run past its time")
    slow.served.process.kill()
    slow.served.process.wait()
    return slow


@pytest.fixture(scope="module")
def calibrating(start: Callable[..., Served], digits: dict[str, np.ndarray]) -> Watched:
    """The demo model without a patch, to be calibrated on its first requests; the process of the fit is killed."""
    calibrating = Watched(start("--calibrate", "50", patched=None), "model")

    calibrating.note("no patch yet")
    for image in digits["clean"][:50]:
        calibrating.ask(image[None])
    until(lambda: children(calibrating.served.process) != [])
    for child in children(calibrating.served.process):
        os.kill(child, signal.SIGKILL)
    calibrating.wait_for("atpatch_calibration_failed", 1)
    calibrating.note("a fit that fails")
    return calibrating


@pytest.fixture(scope="module")
def alarming(start: Callable[..., Served], tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """A patch with an alarm, which refuses."""
    original, patched = save_alarmed(tmp_path_factory.mktemp("alarming"))
    options = ("--mode", "patched", "--on-alarm", "refuse")
    alarming = Watched(start(*options, original=original, patched=patched), "model")

    assert alarming.ask(raising(False)) == 200
    alarming.note("no alarm")
    assert alarming.ask(raising(True)) == 422
    alarming.note("an alarm")
    return alarming


def test_an_alarm_raises_its_alert_and_is_no_failure(alarming: Watched) -> None:
    assert alarming.raised == [("no alarm", set()), ("an alarm", {"AtpatchAlarmRate"})]


def test_a_calibration_that_fails_raises_its_alert_and_one_that_goes_on_none(calibrating: Watched) -> None:
    assert calibrating.raised == [
        ("no patch yet", set()),
        ("a fit that fails", {"AtpatchCalibrationFailed"}),
    ]


def test_faults_of_a_patch_raise_their_alerts_and_no_other(demo: Watched) -> None:
    assert demo.raised == [
        ("none", set()),
        ("triggered samples", {"AtpatchFlagRate", "AtpatchDisagreement"}),
        ("NaN in a shadow run", {"AtpatchNonFinite", "AtpatchShadowIncomplete"}),
        ("NaN in an answer", {"AtpatchFallback"}),
        ("reload of a broken file", {"AtpatchReloadRefused"}),
        ("full disk", {"AtpatchLogFailure"}),
        ("kill switch", {"AtpatchPatchOff"}),
    ]


def test_faults_of_a_slow_model_without_a_patch_raise_their_alerts_and_no_other(slow: Watched) -> None:
    assert slow.raised == [
        ("no patch", {"AtpatchFlagsUnknown"}),
        ("samples without flags", {"AtpatchNothingJudged"}),
        ("a second request while one is under way", {"AtpatchOverloaded"}),
        ("a run past its time", {"AtpatchFailure", "AtpatchHungRuns"}),
    ]


def test_a_server_of_the_original_only_raises_no_alert(original: Served) -> None:
    now = scrape(original)
    assert not [name for name, rule in RULES.items() if fires(rule, now, now)]


def test_no_alert_is_left_that_no_fault_raises(
    demo: Watched, slow: Watched, calibrating: Watched, alarming: Watched
) -> None:
    down = {name for name, rule in RULES.items() if fires(rule, slow.first, scrape(slow.served))}
    assert down == {"AtpatchDown"}
    raised = [*demo.raised, *slow.raised, *calibrating.raised, *alarming.raised]
    assert set(RULES) == down.union(*(alerts for _, alerts in raised))


def test_the_dashboard_asks_for_what_is_exported(demo: Watched) -> None:
    exported: dict[str, set[str]] = {}
    for name, labels in demo.last:
        exported.setdefault(name, set()).update(dict(labels))
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(targets) > 20
    for target in targets:
        names = re.findall(r"(\w+)\{", target["expr"])
        wanted = {label for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(", ")}
        wanted |= set(re.findall(r"(\w+)!?=~?\"", target["expr"])) | set(
            re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
        )
        assert names and all(wanted <= exported.get(name, set()) for name in names), target["expr"]


def test_the_configuration_of_prometheus_names_the_rules_and_their_job() -> None:
    settings = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    assert [(DEPLOY / name).is_file() for name in settings["rule_files"]] == [True]
    assert {config["job_name"] for config in settings["scrape_configs"]} == set(
        re.findall(r"job=\"(\w+)\"", RULES["AtpatchDown"])
    )
