"""The schemas of the file formats say what the code writes and what it refuses to read."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from atpatch_onnx import Hotfix
from atpatch_onnx.ab.outcomes import load_outcomes
from atpatch_onnx.debugset.subject import Subject
from atpatch_onnx.debugset.tables import read_description
from atpatch_onnx.decisions import (
    CalibrationRow,
    DecisionRow,
    FailureRow,
    RevisionRow,
    RowRefused,
    SwitchRow,
    from_line,
    to_json,
)
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.hotfix.container import KEY, digest
from atpatch_onnx.hotfix.file import HotfixSite
from atpatch_onnx.inference.datasets import DataSet
from rewriters.plan import Dense, NormDistance, OneClass, Profile, SitePlan, ValueNorms

from ..documents import ROOT
from ..schemas import SCHEMAS, problems, schema
from ..tiny import attention_model

DEMO = ROOT / "atpatch_onnx" / "demo" / "digits"


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda path: path.stem)
def test_schemas_are_schemas(path):
    Draft202012Validator.check_schema(json.loads(path.read_text("utf-8")))
    assert json.loads(path.read_text("utf-8")).keys() >= {"$schema", "title", "description", "type"}


# Data sets


def described(arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays as the schema sees them."""
    return {name: {"dtype": np.asarray(a).dtype.kind, "shape": list(np.shape(a))} for name, a in arrays.items()}


@pytest.mark.parametrize("name", ["clean", "debug", "triggered"])
def test_the_demos_data_sets_are_as_described(name):
    assert not problems("data-set", described(dict(np.load(DEMO / f"{name}.npz"))))


ROWS = {"x": np.zeros((4, 3), np.float32)}
ARRAYS = {
    "labels of halves": (ROWS | {"labels": np.zeros(4)}, False),
    "labels in a table": (ROWS | {"labels": np.zeros((4, 1), int)}, False),
    "columns in a row": (ROWS | {"columns": np.zeros(4, bool)}, False),
    "columns of numbers": (ROWS | {"columns": np.zeros((4, 3), np.uint8)}, True),
    "columns of words": (ROWS | {"columns": np.full((4, 3), "a")}, False),
    "target of halves": (ROWS | {"target": np.array(0.5)}, False),
    "target": (ROWS | {"target": np.array(1)}, True),
    "group": (ROWS | {"group": np.zeros(4, np.int32)}, True),
    "pair": (ROWS | {"pair": np.full(4, -1)}, True),
    "clean_row of booleans": (ROWS | {"clean_row": np.zeros(4, bool)}, False),
    "dose": (ROWS | {"dose": np.arange(4)}, True),
    "answer tokens": (ROWS | {"answer_tokens": np.array([9, 10])}, True),
    "answer tokens as scores": (ROWS | {"answer_tokens": np.array([0.5, 0.1])}, False),
    "answer": (ROWS | {"answer": np.full((4, 2), -1)}, True),
    "answer in a row": (ROWS | {"answer": np.zeros(4, int)}, False),
    "answer as scores": (ROWS | {"answer": np.zeros((4, 2))}, False),
    "form": (ROWS | {"form": np.full(4, "plain")}, True),
    "form of numbers": (ROWS | {"form": np.zeros(4, int)}, False),
    "form in a table": (ROWS | {"form": np.full((4, 1), "plain")}, False),
    "dose of halves": (ROWS | {"dose": np.full(4, 0.5)}, False),
    "input of words": ({"text": np.full(4, "a")}, True),
    "input of complex numbers": ({"x": np.zeros(4, complex)}, False),
    "input without rows": ({"x": np.zeros((0, 3))}, False),
    "input without axes": ({"x": np.array(1.0)}, False),
}


@pytest.mark.parametrize(("arrays", "good"), ARRAYS.values(), ids=ARRAYS)
def test_data_sets_are_read_where_the_schema_allows_them(arrays, good):
    assert (not problems("data-set", described(arrays))) is good
    if good:
        DataSet.from_arrays(arrays)
    else:
        with pytest.raises(AtpatchError, match="ATP056"):
            DataSet.from_arrays(arrays)


# Column descriptions

COLUMN = {"name": "sex", "index": 0, "values": ["a", "b"], "token": 3}
DESCRIPTIONS = {
    "whole": ({"columns": [COLUMN], "label": "income", "classes": ["no", "yes"]}, True),
    "number": ({"columns": [{"name": "age", "index": 0, "mean": 40, "std": 2.5, "levels": [20, 30]}]}, True),
    "several tokens": ({"columns": [COLUMN | {"token": [3, 4]}]}, True),
    "no columns": ({"label": "income"}, False),
    "columns is a number": ({"columns": 3}, False),
    "no name": ({"columns": [{"index": 0}]}, False),
    "no index": ({"columns": [{"name": "sex"}]}, False),
    "mean is a word": ({"columns": [COLUMN | {"mean": "many"}]}, False),
    "levels are words": ({"columns": [COLUMN | {"levels": ["low"]}]}, False),
    "token is a word": ({"columns": [COLUMN | {"token": "sex"}]}, False),
}


@pytest.mark.parametrize(("raw", "good"), DESCRIPTIONS.values(), ids=DESCRIPTIONS)
def test_descriptions_are_read_where_the_schema_allows_them(tmp_path, raw, good):
    assert (not problems("column-description", raw)) is good
    (tmp_path / "columns.json").write_text(json.dumps(raw))
    subject = Subject(attention_model())
    if good:
        read_description(tmp_path / "columns.json", subject)
    else:
        with pytest.raises(AtpatchError, match="ATP080"):
            read_description(tmp_path / "columns.json", subject)


# Hotfixes


def header_of(path: Path) -> dict[str, Any]:
    with safe_open(path, "numpy") as file:
        return json.loads(file.metadata()[KEY])


def test_the_demos_hotfix_is_as_described():
    assert not problems("hotfix", header_of(DEMO / "model.hotfix"))


def changed(data: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """A value with each of its fields left out or of another type, one at a time."""
    for key in data if isinstance(data, dict) else ():
        where = ".".join(map(str, (*at, key)))
        yield f"without {where}", {name: value for name, value in data.items() if name != key}
        yield f"{where} of another type", data | {key: [] if not isinstance(data[key], list) else {}}
        for name, inner in changed(data[key], (*at, key)):
            yield name, data | {key: inner}


# Parts that the reader takes as they are: what is inside is for people.
FREE = ("body.evidence.", "body.seeds.", "body.versions.")
HEADERS = dict(changed(header_of(DEMO / "model.hotfix")))


def test_a_hotfix_with_a_field_less_or_of_another_type_is_refused_by_schema_and_reader(tmp_path):
    arrays = load_file(DEMO / "model.hotfix")
    assert len(HEADERS) > 30
    for name, header in HEADERS.items():
        if name.removeprefix("without ").startswith(FREE):
            continue
        assert problems("hotfix", header), name
        if "body" in header and "digest" in name:
            continue
        signed = copy.deepcopy(header)
        if isinstance(signed.get("body"), dict) and "digest" in signed and "digest" not in name:
            signed["digest"] = digest(signed["body"], arrays)
        save_file(arrays, tmp_path / "changed.hotfix", {KEY: json.dumps(signed)})
        with pytest.raises(AtpatchError, match=r"ATP053|ATP055"):
            Hotfix.load(tmp_path / "changed.hotfix")


NORMS = NormDistance(
    ValueNorms(np.ones((2, 4, 4), np.float32)), np.ones(2, np.float32), np.eye(2, dtype="f"), True, 0.5
)
WITH_NORMS = {
    "oneclass": OneClass(np.ones(4, np.float32), np.eye(4, dtype="f"), True, 0.5, norms=NORMS, tokens="ids"),
    "profile": Profile(
        (Dense(np.ones((6, 1), "f"), np.ones(1, "f")),), np.ones(6, "f"), np.ones(6, "f"), norms=NORMS.norms
    ),
}


@pytest.mark.parametrize("kind", WITH_NORMS)
def test_norms_are_read_where_the_schema_allows_them(tmp_path, kind):
    path = tmp_path / "norms.hotfix"
    site = HotfixSite("a", 0, 2, "0" * 16, SitePlan(WITH_NORMS[kind]))
    Hotfix((site,), 0.5, weights="w", groups=(), data="", evidence={}, seeds={}, versions={}).save(path)
    header, arrays = header_of(path), load_file(path)
    assert not problems("hotfix", header)

    def refused(value: Any, field: str = "norms") -> bool:
        other = copy.deepcopy(header)
        other["body"]["sites"][0]["plan"]["detector"][field] = value
        other["digest"] = digest(other["body"], arrays)
        save_file(arrays, path, {KEY: json.dumps(other)})
        with pytest.raises(AtpatchError, match="ATP053"):
            Hotfix.load(path)
        return bool(problems("hotfix", other))

    norms = header["body"]["sites"][0]["plan"]["detector"]["norms"]
    assert len(dict(changed(norms))) > 1
    for name, other in changed(norms):
        assert name == "without louder" or refused(other), name
    assert refused("of another type") and refused(norms | {"more": 1})
    if kind == "oneclass":
        assert all(refused(tokens, "tokens") for tokens in (7, "", ["ids"]))


# Decision log

HEAD: dict[str, Any] = {
    "unix": 1.8e9,
    "experiment": "e",
    "revision": 1,
    "salt": "00112233aabbccdd",
    "mode": "shadow",
    "weight": 0.0,
}
REQUEST: dict[str, Any] = HEAD | {
    "id": "r1",
    "unit": "00",
    "unit_given": False,
    "assigned": "original",
    "arm": "original",
    "batch": 1,
}
LOG = {
    "decision": DecisionRow(
        **REQUEST,
        fallback=None,
        original=[1],
        patched=[2],
        flagged=[True],
        sites=["s"],
        columns={"s": [[3]]},
        alarms=[True],
        shadow="compared",
        agree=[False],
        difference=[0.5],
        latency_original=1.0,
        latency_patched=1.5,
        latency_total=1.2,
        inputs={"x": np.array([1.0, np.nan], np.float32)},
    ),
    "failure": FailureRow(**REQUEST, reason="alarm", alarms=[True]),
    "revision": RevisionRow(
        **HEAD, reason="start", models={"original": {"path": "m", "sha256": "0"}}, enabled=None, threshold=0.5
    ),
    "switch": SwitchRow(**HEAD, on=True, source="admin"),
    "calibration": CalibrationRow(**HEAD, state="failed", rows=500, wanted=500, reason="ATP056: …", hotfix="0"),
}


@pytest.mark.parametrize("event", LOG)
def test_what_the_server_writes_is_as_described(event):
    assert not problems(f"log-{event}", to_json(LOG[event]))
    assert {"event": {"const": event}}.items() <= {
        "event": {"const": schema(f"log-{event}").schema["properties"]["event"]["const"]}
    }.items()


@pytest.mark.parametrize("event", LOG)
def test_a_row_with_a_field_less_or_of_another_type_is_refused_by_schema_and_reader(event):
    whole = to_json(LOG[event])
    for name, row in changed(whole):
        field = name.removeprefix("without ").split(" ")[0]
        if name == "without alarms":  # as older servers wrote it
            assert not problems(f"log-{event}", row) and from_line(json.dumps(row)).alarms is None
            continue
        if field in ("inputs", "input_types") or field.startswith(("inputs.", "input_types.", "columns.", "models.")):
            continue
        refused = bool(problems(f"log-{event}", row))
        try:
            read = from_line(json.dumps(row))
        except RowRefused:
            read = None
        assert refused and read is None, name


# Outcomes

OUTCOMES = {
    "label": ({"id": "r1", "label": 1}, True),
    "labels": ({"id": "r1", "label": [1, 0]}, True),
    "outcome": ({"unit": "00", "outcome": 1}, True),
    "outcome in words": ({"unit": "00", "outcome": "yes"}, True),
    "neither label nor outcome": ({"id": "r1"}, False),
    "no id": ({"label": 1}, False),
    "label of halves": ({"id": "r1", "label": 0.5}, False),
}


@pytest.mark.parametrize(("row", "good"), OUTCOMES.values(), ids=OUTCOMES)
def test_outcomes_are_read_where_the_schema_allows_them(tmp_path, row, good):
    assert (not problems("outcome", row)) is good
    (tmp_path / "outcomes.jsonl").write_text(json.dumps(row))
    if good:
        load_outcomes(tmp_path / "outcomes.jsonl")
    else:
        with pytest.raises(AtpatchError, match="ATP088"):
            load_outcomes(tmp_path / "outcomes.jsonl")
