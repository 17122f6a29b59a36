"""`ab analyze`: logs of which the truth is known, and logs as they come after crashes, rotation and accidents."""

from __future__ import annotations

import csv
import gzip
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from atpatch_onnx.ab import analyze_log
from atpatch_onnx.ab.page import render_page
from atpatch_onnx.decisions import from_line
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.serve.log import DecisionLog

from ..schemas import problems
from .logs import ab_rows, digest, pair, patched, row, shadow_rows, write_log

OLD = Path(__file__).parents[1] / "decisions" / "schema1.jsonl"
"""Rows of a server that knew of no alarms."""
ANSWERED = {"fallback", "prediction", "flagged", "sites", "columns", "shadow", "agree", "difference", "latency_ms"}
"""What rows of requests that got an error lack."""


def switch(on: bool) -> dict:
    return row(0) | {"event": "switch", "on": on, "source": "file"}


@pytest.fixture(scope="module")
def live(tmp_path_factory) -> tuple[Path, Path]:
    """4,000 units at 20 % with three requests each: 8 % wrong answers in the original arm, 4 % in the patched one."""
    folder = tmp_path_factory.mktemp("live")
    rows = list(ab_rows(4000, 0.2, 0.08, 0.04, requests=3, seed=4))
    with (folder / "outcomes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "outcome"])
        writer.writerows((entry["id"], 0, int(hit)) for entry, hit in rows)
    return write_log(folder / "log.jsonl", (entry for entry, _ in rows)), folder / "outcomes.csv"


@pytest.fixture(scope="module")
def shadow(tmp_path_factory) -> tuple[Path, Path]:
    """8,000 pairs, 3 % apart, and the patched arm right in four of five of those."""
    folder = tmp_path_factory.mktemp("shadow")
    rows = list(shadow_rows(8000, 0.03, 0.8, seed=5))
    (folder / "labels.jsonl").write_text(
        "".join(json.dumps({"id": entry["id"], "label": label}) + "\n" for entry, label in rows)
    )
    return write_log(folder / "log.jsonl", (entry for entry, _ in rows)), folder / "labels.jsonl"


def test_the_unpaired_comparison(live):
    (found,) = analyze_log(*live).revisions
    assert found.mode == "ab"
    assert not found.invalid
    assert found.arms["original"].requests + found.arms["patched"].requests == 12000
    assert found.live.srm.patched + found.live.srm.original == 4000
    outcome, wrong = found.live.tested
    assert (outcome.name, wrong.name) == ("outcome", "wrong")
    assert outcome.difference.method == "bootstrap"
    assert outcome.difference.low < -0.04 < outcome.difference.high < 0
    assert outcome.evidence.decided
    assert outcome.evidence.high < 0.2
    # One outcome a unit: requests of a unit are no independent draws.
    assert outcome.evidence.patched + outcome.evidence.original <= 4000
    assert wrong.difference.to_json() == outcome.difference.to_json()
    assert found.live.classes[1].high < 0
    assert found.latency["patched"]["p50"] == pytest.approx(1.2 * found.latency["original"]["p50"], rel=0.05)


def test_the_paired_comparison(shadow):
    (found,) = analyze_log(*shadow).revisions
    pairs = found.pairs
    assert found.live is None
    assert pairs.states == {"compared": 8000}
    assert pairs.apart.low < 0.03 < pairs.apart.high
    assert pairs.always.low < pairs.apart.low < pairs.apart.high < pairs.always.high
    assert (
        pairs.table[True, False] + pairs.table[False, True]
        == pairs.apart.share.hits
        == sum(pairs.drift[0].to_json()[k] for k in ("into", "out"))
    )
    assert pairs.mcnemar.p_value < 1e-6
    assert pairs.verdict.decided
    assert pairs.drift[0].out > pairs.drift[0].into
    assert pairs.drift[0].evidence.decided
    assert next(iter(pairs.moves))[0] == 0
    assert pairs.wrong[0].value > 3 * pairs.wrong[1].value
    assert pairs.difference["p50"] == pytest.approx(0.001)


def test_without_labels_the_pairs_still_tell_where_predictions_went(shadow):
    (found,) = analyze_log(shadow[0]).revisions
    assert found.pairs.mcnemar is None
    assert found.pairs.wrong is None
    assert found.pairs.drift[0].evidence.decided


def test_equal_arms_are_not_distinguished(tmp_path):
    """Of 40 experiments without a difference none but a few may be decided."""
    decided = 0
    for seed in range(40):
        rows = list(ab_rows(400, 0.3, 0.1, 0.1, seed=100 + seed))
        (tmp_path / "o.jsonl").write_text(
            "".join(json.dumps({"id": entry["id"], "outcome": hit}) + "\n" for entry, hit in rows)
        )
        (found,) = analyze_log(
            write_log(tmp_path / "l.jsonl", (entry for entry, _ in rows)), tmp_path / "o.jsonl"
        ).revisions
        decided += found.live.tested[0].evidence.decided
    assert decided <= 5  # P(more than 5 of 40 at 5 %) < 0.02, and the seeds are fixed


@pytest.mark.slow
def test_srm_fires_on_a_skewed_log_and_not_on_a_fair_one(tmp_path, atpatch):
    fair = write_log(tmp_path / "fair.jsonl", (entry for entry, _ in ab_rows(6000, 0.1, 0.1, 0.1)))
    skewed = write_log(tmp_path / "skewed.jsonl", (entry for entry, _ in ab_rows(6000, 0.1, 0.1, 0.1, skew=0.15)))
    assert analyze_log(fair).valid
    (found,) = analyze_log(skewed).revisions
    assert found.live.srm.alarm
    assert "sample-ratio mismatch" in found.invalid[0]
    done = atpatch("ab", "analyze", skewed)
    assert done.code == 1
    assert "INVALID" in done.err
    assert atpatch("ab", "analyze", fair).code == 0


def test_units_in_both_arms_of_one_revision(tmp_path):
    same = {"unit": digest("u"), "unit_given": True}
    log = write_log(tmp_path / "l.jsonl", [row(0, **same), patched(1, **same), row(2, revision=2, **same)])
    first, second = analyze_log(log).revisions
    assert first.live.crossed == 1
    assert "both arms" in first.invalid[0]
    assert second.live.crossed == 0
    # A request id that stood in for a unit may come back: that is a retry, no crossing over.
    retry = {"unit": digest("r"), "unit_given": False}
    assert (
        analyze_log(write_log(tmp_path / "r.jsonl", [row(0, **retry), patched(1, **retry)])).revisions[0].live.crossed
        == 0
    )


def test_requests_under_the_kill_switch_are_in_no_comparison(tmp_path):
    killed = patched(3, arm="original", fallback="killed", prediction={"original": [0], "patched": None}, flagged=None)
    rows = [row(0), patched(1), switch(True), killed, row(2), switch(False), patched(5), row(4)]
    (found,) = analyze_log(write_log(tmp_path / "l.jsonl", rows)).revisions
    assert found.paused == 2
    assert (found.arms["original"].requests, found.arms["patched"].requests) == (2, 2)
    # The same without the rows that tell of the switch: what is seen of it counts.
    (found,) = analyze_log(
        write_log(tmp_path / "m.jsonl", [entry for entry in rows if entry["event"] == "decision"])
    ).revisions
    assert found.paused == 2


def test_requests_that_got_an_error_count_for_the_arm_that_was_due(tmp_path, atpatch):
    """With `ab --fallback error` no answer is a wrong one,
    or the comparison would leave out what the patch cannot do.
    """
    failed = {"event": "failure", "assigned": "patched", "arm": "patched", "batch": 1, "reason": "timeout"}
    answered = [row(n) for n in range(20)] + [patched(20 + n) for n in range(15)]
    lost = [{name: value for name, value in row(35 + n).items() if name in HEAD} | failed for n in range(5)]
    outcomes = tmp_path / "o.jsonl"
    outcomes.write_text("".join(json.dumps({"id": entry["id"], "label": 0}) + "\n" for entry in answered + lost))
    log = write_log(tmp_path / "l.jsonl", answered + lost + lost[:1])
    found = analyze_log(log, outcomes)
    (revision,) = found.revisions
    arm = revision.arms["patched"]
    assert (arm.requests, arm.failures, arm.fallback.share.hits, found.reading.duplicates) == (20, {"timeout": 5}, 0, 1)
    assert (arm.wrong.share.hits, arm.wrong.share.count, revision.arms["original"].wrong.share.hits) == (5, 20, 0)
    assert (revision.live.srm.patched, revision.live.srm.original, revision.flag_bounds.missing) == (20, 20, 5)
    words = "5 of 20 requests of the patched arm got an error, not an answer (timeout 5)"
    assert words in atpatch("ab", "analyze", log).err and words in render_page(found)
    assert found.to_json()["revisions"][0]["arms"]["patched"]["failures"] == {"timeout": 5}


HEAD = {"schema", "time", "unix", "experiment", "revision", "salt", "mode", "weight", "id", "unit", "unit_given"}


def test_fallbacks_stay_with_the_arm_that_was_due(tmp_path):
    rows = [row(n) for n in range(5)]
    rows += [
        patched(10 + n, fallback="timeout", arm="original", prediction={"original": [1], "patched": None})
        for n in range(2)
    ]
    rows += [patched(20), row(30, assigned=None)]
    (found,) = analyze_log(write_log(tmp_path / "l.jsonl", rows)).revisions
    assert found.arms["patched"].fallback.share.hits == 2
    assert found.arms["patched"].fallback.share.count == 3
    assert found.arms["patched"].reasons == {"timeout": 2}
    assert found.outside == 1
    assert found.requests == 9


def test_batches_count_by_sample_and_labels_must_fit(tmp_path):
    both = {"batch": 3, "prediction": {"original": [0, 1, 2], "patched": [0, 2, 2]}, "flagged": [False, True, False]}
    rows = [pair(n, 0, 0, **both, agree=[True, False, True], difference=[0.0, 1.0, 0.0]) for n in range(2)]
    (tmp_path / "labels.jsonl").write_text(
        '{"id": "r0", "label": [0, 2, 2]}\n{"id": "r1", "label": [0, 2]}\n{"id": "r9", "label": 1}\n'
    )
    analysis = analyze_log(write_log(tmp_path / "l.jsonl", rows), tmp_path / "labels.jsonl")
    (found,) = analysis.revisions
    assert found.pairs.apart.share.hits == 2
    assert found.pairs.apart.share.count == 6
    assert found.pairs.table == {(True, True): 2, (False, True): 1}
    assert found.flagged.share.hits == 2
    assert (analysis.outcomes.misfits, len(analysis.outcomes.joined)) == (1, 2)


def test_alarms_count_by_sample_also_those_of_refused_requests(tmp_path, atpatch):
    answered = [patched(n, alarms=[alarm]) for n, alarm in enumerate([True, False, False])]
    refused = {key: value for key, value in patched(9).items() if key not in ANSWERED}
    rows = [*answered, refused | {"event": "failure", "reason": "alarm", "alarms": [True]}, row(10), patched(11)]
    log = write_log(tmp_path / "l.jsonl", rows)
    (found,) = analyze_log(log).revisions
    assert (found.alarms.share.hits, found.alarms.share.count) == (2, 4)
    assert found.arms["patched"].failures == {"alarm": 1}
    assert found.problems == ("1 of 5 requests of the patched arm were refused for an alarm",)
    done = atpatch("ab", "analyze", log, "--json")
    assert done.json["revisions"][0]["alarms"]["hits"] == 2 and problems("ab-analyze", done.json) == []
    assert "alarms: 50.00%" in atpatch("ab", "analyze", log).err and ">alarms<" in render_page(analyze_log(log))


def test_logs_of_servers_without_alarms_have_none(tmp_path, atpatch):
    old = OLD.read_text().splitlines()
    assert not any("alarms" in line for line in old)
    log = tmp_path / "l.jsonl"
    log.write_text("\n".join(old) + "\n")
    found = analyze_log(log)
    assert found.reading.bad == 0 and {revision.alarms for revision in found.revisions} == {None}
    assert "alarms" not in atpatch("ab", "analyze", log).err


def test_outcomes_by_unit(tmp_path):
    rows = [
        patched(n, unit=digest(n), unit_given=True) if n % 2 else row(n, unit=digest(n), unit_given=True)
        for n in range(40)
    ]
    (tmp_path / "o.csv").write_text(
        "unit,outcome\n" + "".join(f"{digest(n)},{'yes' if n % 2 else 'no'}\n" for n in range(40))
    )
    (found,) = analyze_log(write_log(tmp_path / "l.jsonl", rows), tmp_path / "o.csv").revisions
    (tested,) = found.live.tested
    assert tested.difference.value == 1
    assert tested.evidence.patched == 20
    assert tested.evidence.decided


@pytest.mark.parametrize(("text", "message"), [
    ("a,b\n1,2\n", "no id or unit"),
    ("id,label\nr1,cat\n", "whole number"),
    ("id,outcome\nr1,maybe\n", "neither 0 nor 1"),
    ("id,label\nr1,\n", "neither label nor outcome"),
    ('{"id": "r1", "label": 1.5}\n', "whole number"),
    ('{"id": "r1"', "not JSON"),
    ("", "holds no outcome"),
])  # fmt: skip
def test_unusable_outcomes_are_refused(tmp_path, text, message, atpatch):
    (tmp_path / "o").write_text(text)
    log = write_log(tmp_path / "l.jsonl", [row(0)])
    with pytest.raises(AtpatchError, match=message) as caught:
        analyze_log(log, tmp_path / "o")
    assert caught.value.code == "ATP088"
    assert atpatch("ab", "analyze", log, "--outcomes", tmp_path / "o").code == 2


# Logs as they come


def test_rotated_and_compressed_files_are_read_oldest_first(tmp_path):
    log = tmp_path / "log.jsonl"
    write_log(log, [row(n, revision=3) for n in range(2)])
    write_log(tmp_path / "log.jsonl.1", [row(n, revision=2) for n in range(3)])
    (tmp_path / "log.jsonl.10.gz").write_bytes(gzip.compress((json.dumps(row(0)) + "\n").encode()))
    write_log(tmp_path / "log.jsonl.bak", [row(0, revision=9)])
    found = analyze_log(log)
    assert [file.name for file in found.reading.files] == ["log.jsonl.10.gz", "log.jsonl.1", "log.jsonl"]
    assert [revision.requests for revision in found.revisions] == [1, 3, 2]
    assert [revision.revision for revision in analyze_log(log, rotated=False).revisions] == [3]


def test_logs_of_several_servers_are_one_experiment(tmp_path, atpatch):
    """Each with its own kill switch: that of the first is still on at the end of its log."""
    one = write_log(tmp_path / "one.jsonl", [row(0), patched(1), switch(True), row(2)])
    two = write_log(tmp_path / "two.jsonl", [row(3), patched(4)])
    (found,) = atpatch("ab", "analyze", one, two, one, "--json").json["revisions"]
    assert (found["requests"], found["paused"]) == (5, 1)
    assert found["ab"]["srm"]["patched"] == 2


def test_the_servers_own_writer_rotates_into_what_is_read(tmp_path):
    writer = DecisionLog(tmp_path / "log.jsonl", max_bytes=20_000, backups=50)
    for number in range(200):
        writer.write(from_line(json.dumps(row(number))))
    writer.close()
    found = analyze_log(tmp_path / "log.jsonl")
    assert len(found.reading.files) > 3
    assert found.revisions[0].requests == 200
    assert found.reading.bad == found.reading.torn == 0


def test_broken_lines_are_counted_and_one_line_says_how_to_fix_them(tmp_path, atpatch):
    log = tmp_path / "l.jsonl"
    lines = [json.dumps(row(n)) for n in range(3)]
    broken = [
        "garbage",
        "[1]",
        '{"schema": 2}',
        json.dumps(row(9, batch=2)),
        json.dumps(row(9, arm="third")),
        "\x00\x00",
    ]
    broken.append(json.dumps(row(9)).replace('"weight": 0.5', '"weight": NaN'))
    broken.append(json.dumps({name: value for name, value in row(9).items() if name != "unit"}))
    broken.append("[" * 100_000)
    log.write_text("\n".join([lines[0], *broken, "", lines[1], lines[2]]) + "\n" + lines[0][:60])
    done = atpatch("ab", "analyze", log, "--json")
    assert done.code == 0
    told_log = done.json["log"]
    refused = told_log.pop("refused")
    assert told_log == {
        "files": [str(log)],
        "lines": 13,
        "bad": 9,
        "first_bad": "l.jsonl:2: not JSON",
        "torn": 1,
        "duplicates": 0,
    }
    assert sum(refused.values()) == 9
    assert refused == {
        "not JSON": 3,
        "not a JSON object": 1,
        "schema is 2, this version reads 1": 1,
        "prediction.original has 1 entries, not the 2 of its batch": 1,
        'arm is "third", not one of original, patched': 1,
        "NaN is not JSON": 1,
        "field 'unit' is missing": 1,
    }
    assert done.json["revisions"][0]["requests"] == 3
    (line,) = [line for line in atpatch("ab", "analyze", log).err.splitlines() if "broken" in line]
    assert line.startswith("9 broken lines were skipped, the first at l.jsonl:2: not JSON")


def test_a_compressed_file_cut_short_is_read_up_to_there(tmp_path):
    whole = gzip.compress("".join(json.dumps(row(n)) + "\n" for n in range(3000)).encode())
    (tmp_path / "l.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    found = analyze_log(tmp_path / "l.jsonl.gz")
    assert found.reading.torn >= 1
    assert 100 < found.revisions[0].requests < 3000


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"no\n", b'{"schema": 1, "event": "revision"}\n', b"\x1f\x8bnot gzip", b"\xff\xfe\n"]
)
def test_a_log_without_a_decision_is_refused(tmp_path, atpatch, content):
    (tmp_path / "l.jsonl").write_bytes(content)
    done = atpatch("ab", "analyze", tmp_path / "l.jsonl")
    assert done.code == 2
    assert done.err.startswith("error ATP087")


def test_a_missing_log_is_refused(tmp_path, atpatch):
    assert atpatch("ab", "analyze", tmp_path / "none.jsonl").err.startswith("error ATP087")
    assert atpatch("ab", "analyze", tmp_path).code == 2


def test_unknown_events_and_fields_are_skipped(tmp_path):
    found = analyze_log(write_log(tmp_path / "l.jsonl", [row(0, later="added"), row(1) | {"event": "weather"}]))
    assert found.revisions[0].requests == 1
    assert (found.reading.bad, found.reading.skipped) == (0, 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["original", "patched", "total"]), inner, max_size=3)
    ),
    max_leaves=4,
)


ROWS = [row(0), patched(1), pair(2, 0, 1), switch(True)]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([row(0), patched(1), pair(2, 0, 1), switch(True)]), st.sampled_from(sorted(row(0))), JSON
        ),
        max_size=4,
    )
)
def test_no_field_of_any_kind_breaks_the_reader(tmp_path_factory, changed):
    """A row with an impossible field is passed over and counted; one with a possible field is counted in."""
    folder = tmp_path_factory.mktemp("fuzz")
    rows = [pair(10, 0, 0), *(entry | {name: value} for entry, name, value in changed)]
    found = analyze_log(write_log(folder / "l.jsonl", rows))
    assert found.reading.lines == len(rows)
    json.dumps(found.to_json(), allow_nan=False)
    render_page(found).encode()


# Pairs that are missing


def lost(number: int, status: str = "timeout", before: int = 0, **changes: object) -> dict:
    """A shadow request that was due, and gave no pair."""
    nothing = {
        "prediction": {"original": [before] * changes.get("batch", 1), "patched": None},
        "flagged": None,
        "agree": None,
        "difference": None,
    }
    times = {"original": 1.0, "patched": None, "total": 1.1}
    return pair(number, 0, 0, **(nothing | {"shadow": status, "latency_ms": times} | changes))


def test_missing_pairs_bound_the_verdict(tmp_path, atpatch):
    """Flagged requests take two passes and time out: 3 in 100 pairs disagree, of all requests 12 do."""
    rows = [pair(n, 0, int(n % 30 == 0)) for n in range(900)] + [
        lost(900 + n, "timeout" if n < 90 else "dropped") for n in range(100)
    ]
    log = write_log(tmp_path / "l.jsonl", rows)
    done = atpatch("ab", "analyze", log, "--json")
    (revision,) = done.json["revisions"]
    bounds = revision["pairs"]["disagreement_bounds"]
    assert {name: bounds[name] for name in ("missing", "count", "low", "high")} == {
        "missing": 100,
        "count": 1000,
        "low": 0.03,
        "high": 0.13,
    }
    assert bounds["interval_low"] < 0.03 < 0.13 < bounds["interval_high"]
    assert revision["pairs"]["disagreement"]["value"] == pytest.approx(30 / 900)
    any_time = revision["pairs"]["disagreement_any_time"]
    assert any_time["bound_low"] < any_time["low"] < any_time["high"] < any_time["bound_high"]
    sentence = (
        "The patch would change between 3.00 % and 13.00 % of the answers, as 100 of 1,000 shadow requests gave no"
        " pair."
    )
    assert revision["verdict"] == sentence
    for words in (
        sentence,
        "timeout 90, dropped 10",
        "3.00 % to 13.00 %",
        "between 3.00 % and 13.00 % with 100 not judged",
    ):
        assert words in atpatch("ab", "analyze", log).err
    page = render_page(analyze_log(log))
    assert sentence in page
    assert page.count('<div class="value">3.0–13.0 %</div>') == 2  # disagreements, and flags
    assert "30 of 900 samples; 100 not judged" in page


def test_samples_of_nan_are_missing_from_their_pairs(tmp_path, atpatch):
    three = {"batch": 3, "prediction": {"original": [0, 1, 2], "patched": [None, 1, 0]}, "agree": [None, True, False]}
    rows = [pair(n, 0, 0, **three, difference=[None, 0.0, 1.0], flagged=[None, False, True]) for n in range(10)]
    outcomes = tmp_path / "o.jsonl"
    outcomes.write_text("".join(json.dumps({"id": entry["id"], "label": [0, 1, 2]}) + "\n" for entry in rows))
    log = write_log(tmp_path / "l.jsonl", rows)
    (found,) = analyze_log(log, outcomes).revisions
    assert found.pairs.moves == {(2, 0): 10} and found.pairs.apart.share.count == 20
    assert (found.pairs.bounds.missing, found.pairs.bounds.least.share.value, found.pairs.bounds.most.share.value) == (
        10,
        1 / 3,
        2 / 3,
    )
    assert (found.flagged.share.hits, found.flagged.share.count, found.flag_bounds.missing) == (10, 20, 10)
    assert found.pairs.table == {(True, True): 10, (True, False): 10}
    assert (
        "between 33.33 % and 66.67 % of the answers, as for 10 samples an arm gave NaN"
        in atpatch("ab", "analyze", log).err
    )
    assert "10 samples missing" in render_page(analyze_log(log))


def test_missing_samples_of_a_batch_and_of_a_unit(tmp_path):
    unit = {"unit": digest("u"), "unit_given": True}
    both = {
        "batch": 2,
        "prediction": {"original": [0, 1], "patched": [0, 2]},
        "agree": [True, False],
        "difference": [0.0, 1.0],
    }
    rows = [lost(0, batch=3, **unit), pair(1, 0, 0, **both, flagged=[False, True], **unit), lost(2, "error", batch=5)]
    (found,) = analyze_log(write_log(tmp_path / "l.jsonl", rows)).revisions
    assert found.pairs.bounds.missing == 8
    assert (found.pairs.bounds.least.share.value, found.pairs.bounds.most.share.value) == (0.1, 0.9)
    assert (found.pairs.bounds.least.units, found.flag_bounds.missing) == (2, 8)
    # The unit's first pair is missing, so its second is no draw of its own.
    assert found.pairs.always.patched + found.pairs.always.original == 0


def test_without_missing_pairs_the_bounds_are_the_share(shadow):
    (found,) = analyze_log(shadow[0]).revisions
    assert found.pairs.bounds.least == found.pairs.bounds.most == found.pairs.apart
    assert found.pairs.always_bounds == (found.pairs.always.low, found.pairs.always.high)
    assert found.headline == f"The patch would change {found.pairs.apart.share.value:.2%} of the answers.".replace(
        "%", " %"
    )


def test_nothing_but_missing_pairs(tmp_path):
    (found,) = analyze_log(write_log(tmp_path / "l.jsonl", [lost(n) for n in range(5)])).revisions
    assert found.headline == "Nothing is known of the patch: none of 5 shadow requests gave a pair."
    assert (found.pairs.bounds.least.share.value, found.pairs.bounds.most.share.value) == (0, 1)


@pytest.mark.parametrize(("missing", "words"), [
    (10, "the patched arm is right more often."),
    (200, "is right more often where there are pairs, but the missing ones could reverse that."),
])  # fmt: skip
def test_which_arm_is_right_stands_only_against_what_is_missing(tmp_path, missing, words):
    rows = [pair(n, int(n < 100), 0) for n in range(1000)] + [lost(1000 + n) for n in range(missing)]
    (tmp_path / "o.jsonl").write_text("".join(json.dumps({"id": entry["id"], "label": 0}) + "\n" for entry in rows))
    (found,) = analyze_log(write_log(tmp_path / "l.jsonl", rows), tmp_path / "o.jsonl").revisions
    assert found.pairs.verdict.decided
    assert found.headline.endswith(words)


def test_missing_pairs_leave_a_bound_on_disagreement_open(tmp_path, atpatch):
    """All 1,000 pairs may disagree too seldom to matter while the missing ones are those that matter."""
    log = write_log(
        tmp_path / "l.jsonl", [*(pair(n, 0, 0) for n in range(1000)), *(lost(1000 + n) for n in range(100))]
    )
    done = atpatch("ab", "analyze", log, "--most-disagreement", "0.05")
    assert done.code == 0
    assert "with 100 pairs missing it is not known whether it is more than 5.00%" in done.err
    assert "is not known" not in atpatch("ab", "analyze", log, "--most-disagreement", "0.2").err
    many = write_log(
        tmp_path / "m.jsonl", [*(pair(n, 0, 1) for n in range(100)), *(lost(100 + n) for n in range(1900))]
    )
    # 5 % of all that was due, though every pair there is
    assert atpatch("ab", "analyze", many, "--most-disagreement", "0.05").code == 0


def test_requests_that_the_patched_arm_failed_bound_the_flag_rate(tmp_path):
    late = {"fallback": "timeout", "arm": "original", "prediction": {"original": [1], "patched": None}}
    rows = [
        *(patched(n, flagged=n < 2) for n in range(8)),
        patched(8, flagged=None, **late),
        patched(9, flagged=None, **late | {"fallback": "absent"}),
    ]
    (found,) = analyze_log(write_log(tmp_path / "l.jsonl", rows)).revisions
    assert (found.flagged.share.hits, found.flagged.share.count, found.flag_bounds.missing) == (2, 8, 1)
    assert found.flag_bounds.most.share.value == pytest.approx(3 / 9)


def test_the_latency_of_shadow_runs_is_no_comparison(shadow, live, atpatch):
    done = atpatch("ab", "analyze", shadow[0])
    assert "patched / original" not in done.err
    assert "'atpatch-onnx bench' compares" in done.err
    (revision,) = atpatch("ab", "analyze", shadow[0], "--json").json["revisions"]
    assert revision["pairs"]["latency_ratio_median"] is None
    page = render_page(analyze_log(shadow[0]))
    assert "patched p50" not in page
    assert "original p50" in page
    assert "patched p50" in render_page(analyze_log(live[0]))


# What servers write


def test_differences_that_are_not_finite_are_reported(tmp_path):
    rows = [pair(0, 1, 1, difference=[None]), pair(1, 0, 0), pair(2, 0, 0)]
    found = analyze_log(write_log(tmp_path / "l.jsonl", rows))
    assert (found.reading.bad, found.revisions[0].pairs.apart.share.count, found.revisions[0].pairs.not_finite) == (
        0,
        3,
        1,
    )
    assert found.revisions[0].pairs.difference["max"] == 0.001
    assert "1 differences of outputs are not finite" in found.revisions[0].problems[-1]


def test_duplicated_rows_are_reported_and_count_once(tmp_path, atpatch):
    """A log that was rotated by copying is there twice; so is one given under two names."""
    log = write_log(tmp_path / "log.jsonl", [entry for entry, _ in ab_rows(200, 0.5, 0.1, 0.1)])
    once = atpatch("ab", "analyze", log, "--json").json
    for name in ("log.jsonl.1", "other.jsonl"):
        (tmp_path / name).write_bytes(log.read_bytes())
    done = atpatch("ab", "analyze", log, tmp_path / "other.jsonl", "--json").json
    assert (done["log"]["lines"], done["log"]["duplicates"], done["valid"]) == (600, 400, True)
    assert done["revisions"] == once["revisions"]
    assert (
        "400 decisions were found twice and count once" in atpatch("ab", "analyze", log, tmp_path / "other.jsonl").err
    )
    assert once["log"]["duplicates"] == 0


def test_the_log_of_an_older_server(atpatch):
    done = atpatch("ab", "analyze", Path(__file__).parents[1] / "decisions" / "schema1.jsonl", "--json").json
    assert (done["log"]["lines"], done["log"]["bad"]) == (28, 0)
    assert sum(revision["requests"] for revision in done["revisions"]) == 16


# Out


def test_the_command_tells_people_and_programs(live, shadow, tmp_path, atpatch):
    done = atpatch("ab", "analyze", live[0], "--outcomes", live[1])
    assert (done.code, done.out) == (0, "")
    for words in (
        "Fewer wrong answers with the patch",
        "requests by assignment",
        "outcomes, unpaired",
        "decided",
        "latency, ms",
    ):
        assert words in done.err
    report = atpatch("ab", "analyze", shadow[0], "--outcomes", shadow[1], "--json")
    (revision,) = report.json["revisions"]
    assert report.err == ""
    assert revision["verdict"].endswith("; the patched arm is right more often.")
    assert revision["pairs"]["evidence"]["decided"] is True
    assert revision["pairs"]["disagreement"]["method"] == "wilson"
    assert set(revision["latency_ms"]) == {"original", "patched", "total"}
    assert "NaN" not in report.out
    assert "Infinity" not in report.out


def test_a_bound_on_disagreement_fails_the_check(shadow, atpatch):
    assert atpatch("ab", "analyze", shadow[0], "--most-disagreement", "0.05").code == 0
    done = atpatch("ab", "analyze", shadow[0], "--most-disagreement", "0.01")
    assert done.code == 1
    assert "more often than 1.00%" in done.err


def test_experiments_are_kept_apart(tmp_path, atpatch):
    log = write_log(tmp_path / "l.jsonl", [row(0), row(1, experiment="other")])
    assert [r["experiment"] for r in atpatch("ab", "analyze", log, "--json").json["revisions"]] == ["default", "other"]
    assert [
        r["experiment"] for r in atpatch("ab", "analyze", log, "--json", "--experiment", "other").json["revisions"]
    ] == ["other"]
    assert atpatch("ab", "analyze", log, "--experiment", "none").code == 2


def test_the_page_needs_nothing_from_outside_and_trusts_no_name(live, tmp_path, atpatch):
    page = tmp_path / "new" / "ab.html"
    assert atpatch("ab", "analyze", live[0], "--outcomes", live[1], "--html", page).code == 0
    html = page.read_text("utf-8")
    assert "Fewer wrong answers with the patch" in html
    assert html.count("<svg") >= 4
    assert not re.search(r"<script|<link|src=|https?://", html)
    evil = write_log(
        tmp_path / "e.jsonl",
        [patched(0, experiment="<script>alert(1)</script>"), row(1, experiment="<script>alert(1)</script>")],
    )
    assert "<script" not in render_page(analyze_log(evil))


@pytest.mark.parametrize("rows", [
    [row(0)],
    [patched(0, mode="patched", weight=1.0)],
    [row(0, mode="original", weight=0.0, prediction={"original": None, "patched": None})],
    [pair(0, 1, 2, shadow="dropped", agree=None, difference=None, prediction={"original": [1], "patched": None})],
    [pair(0, 1, 1)],
    [row(0, assigned=None)],
    [row(0, weight=1.0), patched(1, weight=1.0)],
])  # fmt: skip
def test_next_to_nothing_is_no_error(tmp_path, atpatch, rows):
    log = write_log(tmp_path / "l.jsonl", rows)
    done = atpatch("ab", "analyze", log, "--json", "--html", tmp_path / "p.html")
    assert done.code in (0, 1)
    assert done.json["revisions"][0]["requests"] == len(rows)
    assert atpatch("ab", "analyze", log).code == done.code
