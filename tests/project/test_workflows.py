"""Workflows run what the project says it supports, with pinned actions and with no more rights than needed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = {path.stem: path for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def jobs(name: str) -> dict[str, Any]:
    return yaml.safe_load(WORKFLOWS[name].read_text())["jobs"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_to_a_commit_and_say_which_version_it_is(name: str) -> None:
    used = re.findall(r"uses: (.+)", WORKFLOWS[name].read_text())
    assert used and [text for text in used if not (text.startswith("./") or PINNED.fullmatch(text))] == []


def test_one_action_has_one_version() -> None:
    text = "\n".join(path.read_text() for path in WORKFLOWS.values())
    pins = set(re.findall(r"uses: ([\w/.-]+)@(\w+)", text))
    assert len({action for action, _ in pins}) == len(pins)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_rights_are_given_to_single_jobs_and_jobs_end(name: str) -> None:
    workflow = yaml.safe_load(WORKFLOWS[name].read_text())
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert "permissions" in job and ("timeout-minutes" in job or "uses" in job)


def test_tests_run_on_every_supported_python() -> None:
    supported = [
        c.rpartition(" ")[2] for c in PROJECT["classifiers"] if c.startswith("Programming Language :: Python :: ")
    ]
    assert jobs("test")["test"]["strategy"]["matrix"]["python"] == supported
    assert PROJECT["requires-python"] == f">={supported[0]},<3.{int(supported[-1].partition('.')[2]) + 1}"


def test_they_run_all_tests() -> None:
    assert {"run": "make test"} in jobs("test")["test"]["steps"]


def test_only_the_publishing_job_may_publish() -> None:
    allowed = {name: job["permissions"] for name, job in jobs("release").items()}
    assert [name for name, rights in allowed.items() if "id-token" in rights] == ["attest", "publish"]
    assert jobs("release")["publish"]["environment"] == "pypi"
    assert "secrets" not in WORKFLOWS["release"].read_text()


@pytest.mark.parametrize("name", WORKFLOWS)
def test_targets_of_make_are_there(name: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z-]+)", WORKFLOWS[name].read_text())) <= set(targets)
