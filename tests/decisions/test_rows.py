"""One row, its writer and its reader: whatever is written is read back the same, and nothing else is read."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays

from atpatch_onnx.decisions import (
    CalibrationRow,
    DecisionRow,
    FailureRow,
    LogRow,
    RevisionRow,
    RowRefused,
    SwitchRow,
    from_line,
    to_json,
    to_line,
)

OLD = Path(__file__).parent / "schema1.jsonl"
"""What servers wrote before rows were dataclasses, fallbacks, shadow runs of all ends, inputs and non-finite outputs
among them.
"""

# Half characters (which JSON can spell, and clients send) are part of st.characters(); numbers are what floats can be.
text = st.text(st.characters(), max_size=8)
size = st.floats(0, allow_nan=False, allow_infinity=False)
classes = st.integers(0, 2**63 - 1)
heads = {
    "unix": st.floats(0, 253_402_300_799),
    "experiment": text,
    "revision": st.integers(1, 2**63 - 1),
    "salt": text,
    "mode": st.sampled_from(["shadow", "ab", "patched", "original"]),
    "weight": st.floats(0, 1),
}
dtypes = st.sampled_from(["bool", "int8", "uint8", "int64", "uint64", "float16", "float32", "float64"])
tensors = arrays.arrays(dtypes, arrays.array_shapes(min_dims=0, max_side=3)) | st.lists(
    text | st.sampled_from(["NaN", "Infinity"])
).map(lambda words: np.array(words, object))


@st.composite
def decisions(draw: st.DrawFn) -> DecisionRow:
    batch = draw(st.integers(1, 4))

    def maybe(strategy: st.SearchStrategy[Any]) -> Any:
        return draw(st.none() | strategy)

    def each(strategy: st.SearchStrategy[Any]) -> Any:
        return st.lists(strategy, min_size=batch, max_size=batch)

    shadow = maybe(st.just("compared") | text)
    original, patched = (maybe(each(st.none() | classes)) for _ in range(2))
    both = shadow == "compared" and original is not None and patched is not None
    return DecisionRow(
        **{name: draw(strategy) for name, strategy in heads.items()},
        id=draw(text),
        unit=draw(text),
        unit_given=draw(st.booleans()),
        assigned=maybe(st.sampled_from(["original", "patched"])),
        arm=draw(st.sampled_from(["original", "patched"])),
        fallback=maybe(text),
        batch=batch,
        original=original,
        patched=patched,
        flagged=maybe(each(st.none() | st.booleans())),
        sites=maybe(st.lists(text, max_size=3)),
        columns=maybe(st.dictionaries(text, each(st.lists(classes, max_size=3)), max_size=3)),
        shadow=shadow,
        agree=(
            [None if None in pair else pair[0] == pair[1] for pair in zip(original, patched, strict=True)]
            if both and draw(st.booleans())
            else None
        ),
        difference=maybe(each(st.none() | size)) if shadow == "compared" else None,
        latency_original=maybe(size),
        latency_patched=maybe(size),
        latency_total=draw(size),
        inputs=maybe(st.dictionaries(text, tensors, max_size=2)),
    )


arms = st.sampled_from(["original", "patched"])
number = st.floats(allow_nan=False, allow_infinity=False)
models = st.dictionaries(text, st.fixed_dictionaries({"path": text, "sha256": text}), max_size=2)
revisions = st.builds(
    RevisionRow, **heads, reason=text, models=models, enabled=st.none() | st.booleans(), threshold=st.none() | number
)
failures = st.builds(
    FailureRow,
    **heads,
    id=text,
    unit=text,
    unit_given=st.booleans(),
    assigned=st.none() | arms,
    arm=arms,
    batch=st.integers(1, 64),
    reason=text,
)
switches = st.builds(SwitchRow, **heads, on=st.booleans(), source=text)
calibrations = st.builds(
    CalibrationRow,
    **heads,
    state=text,
    rows=st.integers(0, 10_000),
    wanted=st.integers(1, 10_000),
    reason=st.none() | text,
    hotfix=st.none() | text,
)


def assert_same(one: LogRow | None, two: LogRow) -> None:
    assert one == two
    if isinstance(one, DecisionRow) and isinstance(two, DecisionRow):
        assert (one.inputs is None) == (two.inputs is None)
        for name, array in (two.inputs or {}).items():
            found = (one.inputs or {})[name]
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            assert repr(found.tolist()) == repr(array.tolist())  # NaN is not equal to itself, and -0.0 is to 0.0


@given(decisions() | failures | revisions | switches | calibrations)
def test_what_is_written_is_read_back(row: LogRow) -> None:
    line = to_line(row)
    json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert "\n" not in line
    assert line.isascii()
    assert_same(from_line(line), row)
    assert_same(from_line(line.encode() + b"\n"), row)


def test_non_finite_inputs_are_spelled() -> None:
    row, *_ = [row for row in map(from_line, OLD.read_text().splitlines()) if isinstance(row, DecisionRow)]
    inputs = {
        "x": np.array([[np.nan, np.inf], [-np.inf, 0.5]], np.float32),
        "text": np.array(["NaN", "a"], object),
        "scalar": np.array(np.nan),
    }
    told = to_json(replace(row, inputs=inputs))
    assert told["inputs"] == {"x": [["NaN", "Infinity"], ["-Infinity", 0.5]], "text": ["NaN", "a"], "scalar": "NaN"}
    assert told["input_types"] == {"x": "float32", "text": "str", "scalar": "float64"}


def test_every_row_of_older_servers_is_read() -> None:
    lines = OLD.read_text().splitlines()
    rows = [from_line(line) for line in lines]
    assert len(rows) == 28
    assert {type(row) for row in rows} == {DecisionRow, RevisionRow, SwitchRow}
    decisions = [row for row in rows if isinstance(row, DecisionRow)]
    assert {row.shadow for row in decisions} == {None, "compared", "timeout", "dropped"}
    assert {row.fallback for row in decisions} == {None, "non_finite", "error"}
    assert [None] in [row.difference for row in decisions]
    for line, row in zip(lines, rows, strict=True):
        assert row is not None
        old, new = json.loads(line), to_json(row)
        new.pop("input_types", None)
        assert new.pop("alarms", None) is None  # younger than these rows
        assert new == old


def test_fields_of_the_dataclass_are_those_of_the_log() -> None:
    """A new field that the writer forgets would be lost in silence."""
    row = DecisionRow(
        unix=1.0, experiment="e", revision=1, salt="s", mode="ab", weight=0.5, id="i", unit="u", unit_given=True,
        assigned="patched",
        arm="original", fallback="error", batch=1, original=[1], patched=[2], flagged=[True], sites=["site"],
        columns={"site": [[3]]}, alarms=[True],
        shadow="compared", agree=[False], difference=[0.25], latency_original=1.0, latency_patched=2.0,
        latency_total=3.0,
        inputs={"x": np.zeros(1)},
    )  # fmt: skip
    told = json.dumps(to_json(row))
    for field in fields(DecisionRow):
        changed = {
            "unix": 2.0,
            "revision": 9,
            "weight": 0.75,
            "mode": "shadow",
            "batch": 2,
            "unit_given": False,
            "latency_total": 4.0,
        }
        other = changed.get(
            field.name, "original" if field.name == "assigned" else "patched" if field.name == "arm" else None
        )
        if other is None:
            other = "other" if isinstance(getattr(row, field.name), str) else None
        assert json.dumps(to_json(replace(row, **{field.name: other}))) != told, field.name


LINE = json.loads(OLD.read_text().splitlines()[3])
REVISION = json.loads(OLD.read_text().splitlines()[0])
SWITCH = json.loads(OLD.read_text().splitlines()[1])


@pytest.mark.parametrize(("changes", "reason"), [
    ({"schema": 2}, "schema is 2"),
    ({"schema": True}, "schema is true"),
    ({"event": 1}, "event is 1, not text"),
    ({"unix": "1"}, "unix is \"1\", not a finite number"),
    ({"unix": 1e300}, "unix is 1e+300, not a moment"),
    ({"revision": "7"}, "revision is \"7\", not a whole number"),
    ({"revision": True}, "revision is true"),
    ({"revision": 0}, "revision is 0"),
    ({"revision": 2**63}, "revision is"),
    ({"mode": ["ab"]}, "mode is a list, not one of"),
    ({"weight": 1.5}, "weight is 1.5, not a number from 0 to 1"),
    ({"weight": True}, "weight is true"),
    ({"id": None}, "id is null, not text"),
    ({"unit_given": 1}, "unit_given is 1, not true or false"),
    ({"assigned": "third"}, "assigned is \"third\""),
    ({"arm": None}, "arm is null"),
    ({"fallback": False}, "fallback is false"),
    ({"batch": 1.0}, "batch is 1.0"),
    ({"batch": 2}, "of its batch"),
    ({"prediction": None}, "prediction is null, not an object"),
    ({"prediction": {"original": [0]}}, "'prediction.patched' is missing"),
    ({"prediction": {"original": [-1], "patched": None}}, "prediction.original is -1"),
    ({"prediction": {"original": [True], "patched": None}}, "prediction.original is true"),
    ({"flagged": [0]}, "flagged is 0, not true or false"),
    ({"flagged": True}, "flagged is true, not a list"),
    ({"sites": [1]}, "sites is 1, not text"),
    ({"columns": {"site": [3]}}, "columns is 3, not a list"),
    ({"columns": {"site": [[3], [4]]}}, "columns has 2 entries"),
    ({"agree": [0]}, "agree is 0, not true or false"),
    ({"agree": [None], "shadow": "compared", "prediction": {"original": [1], "patched": [1]}},
    "not what the predictions say"),
    ({"agree": [True], "shadow": "timeout"}, "shadow is \"timeout\""),
    ({"difference": [0.5], "shadow": None}, "shadow is null"),
    ({"agree": [True], "shadow": "compared", "prediction": {"original": [1], "patched": [2]}},
    "not what the predictions say"),
    ({"agree": [True], "shadow": "compared", "prediction": {"original": [1], "patched": None}},
    "not what the predictions say"),
    ({"difference": [-1.0]}, "difference is -1.0, not a number from 0 on"),
    ({"difference": ["NaN"]}, "difference is \"NaN\""),
    ({"latency_ms": {"original": 1, "patched": None, "total": None}}, "latency_ms.total is null"),
    ({"inputs": []}, "inputs is a list"),
    ({"inputs": {"x": [[1.0], [1.0, 2.0]]}}, "\"x\" holds something that is no float64"),
    ({"inputs": {"x": [1.0]}, "input_types": {"y": "float32"}}, "input_types does not name the inputs"),
    ({"inputs": {"x": [1.0]}, "input_types": {"x": "complex64"}}, "unknown type"),
    ({"inputs": {"x": ["nan"]}, "input_types": {"x": "float32"}}, "text where float32"),
    ({"inputs": {"x": [1e300]}, "input_types": {"x": "float32"}}, "number that float32 cannot"),
    ({"inputs": {"x": [256]}, "input_types": {"x": "uint8"}}, "number that uint8 cannot"),
    ({"inputs": {"x": [1.0]}, "input_types": {"x": "int64"}}, "no int64"),
    ({"inputs": {"x": [True]}, "input_types": {"x": "float32"}}, "no float32"),
])  # fmt: skip
def test_a_decision_that_no_server_writes_is_refused_with_its_field(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowRefused) as refused:
        from_line(json.dumps(LINE | changes))
    assert reason in str(refused.value)


@pytest.mark.parametrize("name", sorted(LINE.keys() - {"inputs"}))
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(RowRefused, match=f"field '{name}' is missing"):
        from_line(json.dumps({key: value for key, value in LINE.items() if key != name}))


@pytest.mark.parametrize(("row", "changes", "reason"), [
    (REVISION, {"reason": 1}, "reason is 1"),
    (REVISION, {"models": {"original": "a.onnx"}}, "models is \"a.onnx\", not an object"),
    (REVISION, {"enabled": 1}, "enabled is 1"),
    (REVISION, {"threshold": "0.5"}, "threshold is \"0.5\""),
    (SWITCH, {"on": 1}, "on is 1"),
    (SWITCH, {"source": None}, "source is null"),
])  # fmt: skip
def test_other_events_are_read_as_strictly(row: dict[str, Any], changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowRefused) as refused:
        from_line(json.dumps(row | changes))
    assert reason in str(refused.value)


@pytest.mark.parametrize("line", ["", "garbage", "[" * 100_000, '{"schema": 1', "\x00", '"' + "9" * 5000])
def test_what_is_not_json_is_refused(line: str) -> None:
    with pytest.raises(RowRefused, match="not JSON"):
        from_line(line)


def test_a_bare_nan_is_refused() -> None:
    with pytest.raises(RowRefused, match="NaN is not JSON"):
        from_line(json.dumps(LINE | {"weight": math.nan}))


def test_events_and_fields_of_newer_servers_are_passed_over() -> None:
    assert from_line(json.dumps(LINE | {"event": "weather"})) is None
    assert from_line(json.dumps(LINE | {"later": "added"})) == from_line(json.dumps(LINE))
    inside = {name: LINE[name] | {"later": "added"} for name in OBJECTS}
    assert from_line(json.dumps(LINE | inside)) == from_line(json.dumps(LINE))


OBJECTS = ("prediction", "latency_ms")
"""Fields that hold fields; the names in `inputs` are those of the graph."""


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "NaN", "float32", "compared", "original"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["original", "patched", "total", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.sampled_from([LINE, REVISION, SWITCH]),
    st.dictionaries(st.sampled_from([*LINE, "input_types", "on", "models"]), anything, max_size=2),
)
def test_a_row_is_refused_with_a_reason_or_means_what_it_says(row: dict[str, Any], changes: dict[str, Any]) -> None:
    """What is accepted, the writer writes the same again: nothing is read loosely, nothing is dropped but fields of
    newer servers.
    """
    told = row | changes
    try:
        read = from_line(json.dumps(told))
    except RowRefused as refused:
        assert str(refused)
        assert "\n" not in str(refused)
        return
    if read is not None:
        again = to_json(read)
        told |= {name: {key: told[name][key] for key in again[name]} for name in OBJECTS if name in again}
        known = {name: value for name, value in told.items() if name in again and name != "time"}
        assert known == {name: again[name] for name in known}


@given(st.binary(max_size=50))
def test_no_bytes_break_the_reader(line: bytes) -> None:
    with pytest.raises(RowRefused):
        from_line(line)


@pytest.mark.parametrize("depth", [64, 65, 500])
def test_inputs_nested_too_deep_are_refused(depth: int) -> None:
    nested = json.dumps(LINE | {"inputs": {"x": "DEEP"}}).replace('"DEEP"', "[" * depth + "1.0" + "]" * depth)
    if depth == 64:
        assert from_line(nested) is not None
    else:
        with pytest.raises(RowRefused):
            from_line(nested)
