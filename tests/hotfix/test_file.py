"""The hotfix file: exact round trips, refusals, and the plan it gives for a model."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.hotfix.container import FORMAT, KEY, digest
from atpatch_onnx.hotfix.file import Hotfix, HotfixSite
from rewriters.plan import (
    Alarm,
    AlarmLayer,
    BenignPair,
    Cnn,
    Conv,
    Dense,
    NormDistance,
    OneClass,
    OnnxGraph,
    Profile,
    SitePlan,
    Static,
    Statistic,
    ValueNorms,
)
from rewriters.sites import Site

from .sites import site


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def dense(inputs: int, outputs: int) -> Dense:
    return Dense(floats(inputs, outputs), floats(outputs))


def distance(mean: np.ndarray, weight: np.ndarray, factor: np.ndarray | None = None) -> NormDistance:
    return NormDistance(ValueNorms(factor), mean, weight, True, 0.5)


DETECTORS = {
    "static": Static((3, 7)),
    "static-silent": Static(),
    "statistic": Statistic(exempt=(0, -2), floor=0.1),
    "statistic-by-values": Statistic(rows=8, by_values=True),
    "profile": Profile((dense(4, 3), dense(3, 1)), floats(4), np.abs(floats(4)) + 1, probes=(0,)),
    "profile-no-probes": Profile((dense(2, 1),), floats(2), np.ones(2, np.float32), probes=()),
    "profile-some-rows": Profile((dense(4, 1),), floats(4), np.ones(4, np.float32), every=4),
    "profile-norms": Profile((dense(6, 1),), floats(6), np.ones(6, np.float32), norms=ValueNorms(floats(2, 4, 4))),
    "profile-norms-of-values": Profile((dense(6, 1),), floats(6), np.ones(6, np.float32), norms=ValueNorms()),
    "profile-tokens": Profile((dense(4, 1),), floats(4), np.ones(4, np.float32), tokens="input_ids"),
    "oneclass-norms": OneClass(
        floats(4),
        floats(4, 2),
        True,
        0.5,
        norms=NormDistance(ValueNorms(floats(2, 4, 3)), floats(2), floats(2, 1), True, 0.25, 4, True),
    ),
    "oneclass-tokens": OneClass(floats(4), floats(4, 1), False, 0.5, rank=4, tokens="input_ids"),
    "profile-answer-row": Profile((dense(2, 1),), floats(2), np.ones(2, np.float32), (), answer_row=True),
    "profile-seeing-rows": Profile(
        (dense(6, 1),), floats(6), np.ones(6, np.float32), (), answer_row=True, seeing_rows=True
    ),
    "oneclass-answer-row": OneClass(floats(2), floats(2, 2), False, 0.5, probes=(), answer_row=True),
    "oneclass-by-length": OneClass(floats(4), floats(4, 1), False, 0.5, by_length=np.float32([(3, 2.0), (9, 0.5)])),
    "oneclass-some-rows": OneClass(floats(4), floats(4, 2), True, 0.5, every=3),
    "cnn": Cnn((Conv(floats(2, 1, 3, 3), floats(2)), Conv(floats(3, 2, 1, 1), floats(3), 2, 0)), (dense(27, 5),)),
    "onnx": OnnxGraph(b"\x08\x07\x00\xffnot really a model"),
}
PAIRS = {
    "relative": BenignPair(np.float32([0.5, 2.0]), floats(2, 1, 4)),
    "per-column": BenignPair(np.abs(floats(2, 5, 5)), floats(2, 5, 4)),
    "own": BenignPair(np.ones(1, np.float32), None, own_values=True),
    "default": BenignPair(),
}


def make(plan: SitePlan, **changes: object) -> Hotfix:
    site = HotfixSite("layers.0", 0, 2, "0123456789abcdef", plan)
    hotfix = Hotfix(
        sites=(site,),
        threshold=0.1 + 0.2,
        weights="w" * 64,
        level=0.5,
        groups=(("layers.0",),),
        passes="two",
        accept="flip",
        data="d" * 64,
        evidence={"report": {"recall": {"k": 3, "n": 4, "rate": 0.75}}},
        seeds={"fit": 7},
        versions={"numpy": "2"},
    )
    return replace(hotfix, **changes)


def same(a: object, b: object) -> bool:
    """Equal field for field; arrays bit for bit."""
    if is_dataclass(a) and is_dataclass(b):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a) if f.init)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("detector", DETECTORS.values(), ids=DETECTORS)
def test_every_detector_and_pair_comes_back_bit_for_bit(tmp_path, detector, pair):
    hotfix = make(SitePlan(detector, pair, every_row_sees_every_column=True))
    hotfix.save(tmp_path / "m.hotfix")
    loaded = Hotfix.load(tmp_path / "m.hotfix")
    assert same(loaded, hotfix)
    assert loaded.digest == hotfix.digest
    loaded.save(tmp_path / "again.hotfix")
    assert (tmp_path / "again.hotfix").read_bytes() == (tmp_path / "m.hotfix").read_bytes()


def test_digest_tells_two_hotfixes_apart():
    plan = SitePlan(DETECTORS["profile"], PAIRS["relative"])
    louder = replace(plan, benign=replace(plan.benign, values=np.nextafter(plan.benign.values, np.float32(9))))
    changes = (
        {},
        {"threshold": 0.31},
        {"seeds": {"fit": 8}},
        {"groups": ()},
        {"passes": "one"},
        {"mend": "excise"},
        {"mend": "heal"},
        {"mend": "heal", "closes_up": True},
        {"accept": "always"},
        {"margin": 2.5},
        {"wider": 5},
    )
    assert len({make(plan, **change).digest for change in changes} | {make(louder).digest}) == len(changes) + 1


@pytest.mark.parametrize(
    "plan",
    [
        SitePlan(Static(), BenignPair(np.float32([np.nan]))),
        SitePlan(Static(), BenignPair(np.float64([1.0]))),
        SitePlan(Static(), BenignPair(np.float32([[1.0]]))),
        SitePlan(Static((-1,))),
        SitePlan(Profile((dense(4, 2),), floats(4), np.ones(4, np.float32))),
        SitePlan(Profile((dense(4, 3), dense(2, 1)), floats(4), np.ones(4, np.float32))),
        SitePlan(Profile((dense(4, 1),), floats(4), np.zeros(4, np.float32))),
        SitePlan(Cnn((Conv(floats(2, 3, 3, 3), floats(2)),), (dense(4, 4),))),
        SitePlan(Profile((dense(4, 1),), floats(4), np.ones(4, np.float32), norms=ValueNorms())),
        SitePlan(Profile((dense(6, 1),), floats(6), np.ones(6, np.float32), norms=ValueNorms(floats(4, 4)))),
        SitePlan(OneClass(floats(4), floats(4, 2), True, 0.5, norms=distance(floats(2), floats(3, 1)))),
        SitePlan(OneClass(floats(4), floats(4, 2), True, 0.5, norms=distance(floats(2), floats(2, 1), floats(2, 4)))),
        SitePlan(OneClass(floats(4), floats(4, 2), True, 0.5, norms=distance(floats(2), floats(2, 1) * np.inf))),
        SitePlan(OneClass(floats(4), floats(4, 1), False, 0.5, by_length=np.float32([(9, 1.0), (3, 2.0)]))),
        SitePlan(OneClass(floats(4), floats(4, 1), False, 0.5, by_length=np.float64([(3, 1.0), (9, 2.0)]))),
    ],
    ids=[
        *("nan", "float64", "two-axes", "negative-column", "two-outputs", "layers-misfit", "zero-std", "channels"),
        *("features-of-norms", "factor", "distance", "factor-of-a-distance", "infinite-distance"),
        *("falling-lengths", "lengths-in-float64"),
    ],
)
def test_a_plan_no_graph_could_hold_is_not_written(tmp_path, plan):
    with pytest.raises(ValueError):
        make(plan).save(tmp_path / "m.hotfix")
    assert list(tmp_path.iterdir()) == []


def test_what_was_added_later_is_written_only_where_it_says_something(tmp_path) -> None:
    """So versions from before such a field can read a file that does not use it."""
    for kind, wanted in [("oneclass-tokens", []), ("profile", []), ("oneclass-by-length", ["by_length"])]:
        head = json.dumps(make(SitePlan(DETECTORS[kind]))._encode()[0])
        assert [name for name in ("margin", "wider", "seeing_rows", "by_length") if name in head] == wanted
    full = json.dumps(make(SitePlan(DETECTORS["profile-seeing-rows"]), margin=2.5, wider=5)._encode()[0])
    assert '"margin": 2.5' in full and '"wider": 5' in full and '"seeing_rows": true' in full


def test_a_file_keeps_its_digest_when_fields_are_added_to_the_format(tmp_path):
    """A decision log names the hotfix by it, before and after an update of this package."""

    def forget(head, arrays):
        del head["body"]["sites"][0]["plan"]["detector"]["every"]

    made = make(SitePlan(DETECTORS["profile"]))
    made.save(tmp_path / "m.hotfix")
    old = rewritten(tmp_path / "m.hotfix", tmp_path / "old.hotfix", forget)
    with safe_open(old, "numpy") as file:
        written = json.loads(file.metadata()[KEY])["digest"]
    loaded = Hotfix.load(old)
    assert loaded.digest == written != made.digest
    loaded.save(tmp_path / "again.hotfix")
    assert Hotfix.load(tmp_path / "again.hotfix").digest == written
    assert replace(loaded, threshold=loaded.threshold).digest == made.digest, "a copy is written as of today"


def test_an_unwritable_place_has_a_code_and_leaves_nothing(tmp_path):
    with pytest.raises(AtpatchError) as error:
        make(SitePlan(Static())).save(tmp_path / "no" / "m.hotfix")
    assert error.value.code == "ATP019"
    assert list(tmp_path.iterdir()) == []


def with_alarm(site: str = "layers.0") -> Hotfix:
    return make(SitePlan(Static()), alarm=Alarm((AlarmLayer(site, floats(8)),), -0.25))


def test_an_alarm_comes_back_bit_for_bit_and_a_file_without_one_says_nothing_of_it(tmp_path):
    hotfix, silent = with_alarm(), make(SitePlan(Static()))
    hotfix.save(tmp_path / "m.hotfix")
    loaded = Hotfix.load(tmp_path / "m.hotfix")
    assert same(loaded, hotfix) and loaded.digest == hotfix.digest != silent.digest
    assert "alarm" not in silent._encode()[0] and silent.describe()["alarm"] is None
    assert hotfix.describe()["alarm"] == ["layers.0"]


@pytest.mark.parametrize(
    "change",
    [
        lambda alarm: alarm.update(bias="0"),
        lambda alarm: alarm.update(layers=[]),
        lambda alarm: alarm["layers"][0].update(site="layers.9"),
        lambda alarm: alarm["layers"][0].update(site=None),
        lambda alarm: alarm["layers"][0].update(weight="no such array"),
        lambda alarm: alarm.update(extra=1),
    ],
)
def test_an_alarm_of_other_content_is_corrupt(tmp_path, change):
    with_alarm().save(tmp_path / "m.hotfix")
    bad = rewritten(tmp_path / "m.hotfix", tmp_path / "n.hotfix", lambda head, arrays: change(head["body"]["alarm"]))
    assert code(bad) == "ATP053"


# --- files that are not to be trusted


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "m.hotfix"
    make(SitePlan(DETECTORS["profile"], PAIRS["relative"])).save(path)
    return path


def rewritten(good, path, change):
    """The good file with its header's JSON and its arrays changed, and the digest made right again where it can be."""
    from atpatch_onnx.hotfix.container import digest

    with safe_open(good, "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        head = json.loads(file.metadata()[KEY])
    change(head, arrays)
    head["digest"] = digest(head["body"], arrays)
    save_file(arrays, path, {KEY: json.dumps(head)})
    return path


def code(path) -> str:
    with pytest.raises(AtpatchError) as error:
        Hotfix.load(path)
    return error.value.code


def weight(arrays: dict) -> str:
    return next(name for name in arrays if name.endswith("layers/0/weight"))


TAMPERED = {
    "unknown-body-key": lambda head, arrays: head["body"].update(extra=1),
    "missing-body-key": lambda head, arrays: head["body"].pop("weights"),
    "unknown-head-key": lambda head, arrays: head.update(note="hi"),
    "wrong-type": lambda head, arrays: head["body"].update(threshold="0.5"),
    "bool-for-number": lambda head, arrays: head["body"].update(threshold=True),
    "negative-wider": lambda head, arrays: head["body"].update(wider=-1),
    "negative-margin": lambda head, arrays: head["body"].update(margin=-1.0),
    "negative-level": lambda head, arrays: head["body"].update(level=-1.0),
    "unknown-passes": lambda head, arrays: head["body"].update(passes="three"),
    "unknown-mend": lambda head, arrays: head["body"].update(mend="ignore"),
    "unknown-accept": lambda head, arrays: head["body"].update(accept="never"),
    "group-of-unknown": lambda head, arrays: head["body"].update(groups=[["layers.9"]]),
    "group-empty": lambda head, arrays: head["body"].update(groups=[[]]),
    "group-no-list": lambda head, arrays: head["body"].update(groups=["layers.0"]),
    "group-of-numbers": lambda head, arrays: head["body"].update(groups=[[0]]),
    "group-of-lists": lambda head, arrays: head["body"].update(groups=[[["layers.0"]]]),
    "in-two-groups": lambda head, arrays: head["body"].update(groups=[["layers.0"], ["layers.0"]]),
    "no-site": lambda head, arrays: (head["body"].update(sites=[]), arrays.clear()),
    "site-twice": lambda head, arrays: head["body"]["sites"].append(head["body"]["sites"][0]),
    "unknown-plan-key": lambda head, arrays: head["body"]["sites"][0]["plan"].update(extra=1),
    "unknown-kind": lambda head, arrays: head["body"]["sites"][0]["plan"]["detector"].update(kind="oracle"),
    "array-not-there": lambda head, arrays: arrays.pop(weight(arrays)),
    "array-too-many": lambda head, arrays: arrays.update(stray=floats(1)),
    "array-nan": lambda head, arrays: arrays.update({weight(arrays): np.full((4, 3), np.nan, np.float32)}),
    "array-shape": lambda head, arrays: arrays.update({weight(arrays): floats(5, 3)}),
    "array-float64": lambda head, arrays: arrays.update({weight(arrays): np.ones((4, 3))}),
    "every-none": lambda head, arrays: head["body"]["sites"][0]["plan"]["detector"].update(every=0),
    "every-half": lambda head, arrays: head["body"]["sites"][0]["plan"]["detector"].update(every=1.5),
    "answer-row-and-probes": lambda head, arrays: head["body"]["sites"][0]["plan"]["detector"].update(answer_row=True),
    "answer-row-number": lambda head, arrays: head["body"]["sites"][0]["plan"]["detector"].update(answer_row=1),
    "seeing-rows-without-answer-row": lambda head, arrays: head["body"]["sites"][0]["plan"]["detector"].update(
        seeing_rows=True
    ),
    "probes-are-text": lambda head, arrays: head["body"]["sites"][0]["plan"]["detector"].update(probes=["0"]),
}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED)
def test_a_well_signed_file_of_other_content_is_corrupt(tmp_path, good, change):
    assert code(rewritten(good, tmp_path / "m.hotfix", change)) == "ATP053"


def test_a_file_from_before_detectors_read_some_rows_reads_all(tmp_path, good):
    older = rewritten(
        good, tmp_path / "m.hotfix", lambda head, arrays: head["body"]["sites"][0]["plan"]["detector"].pop("every")
    )
    assert Hotfix.load(older).sites[0].plan.detector.every == 1


def test_a_file_from_before_answer_rows_reads_all_rows(tmp_path, good):
    older = rewritten(
        good, tmp_path / "m.hotfix", lambda head, arrays: head["body"]["sites"][0]["plan"]["detector"].pop("answer_row")
    )
    assert Hotfix.load(older).sites[0].plan.detector.answer_row is False


def test_no_rows_that_see_a_column_are_read_where_a_file_does_not_say_so_or_says_no(tmp_path, good):
    no = rewritten(
        good,
        tmp_path / "m.hotfix",
        lambda head, arrays: head["body"]["sites"][0]["plan"]["detector"].update(seeing_rows=False),
    )
    assert [Hotfix.load(path).sites[0].plan.detector.seeing_rows for path in (good, no)] == [False, False]


def test_a_file_from_before_norms_reads_attention_only(tmp_path, good):
    older = rewritten(
        good, tmp_path / "m.hotfix", lambda head, arrays: head["body"]["sites"][0]["plan"]["detector"].pop("norms")
    )
    assert Hotfix.load(older).sites[0].plan.detector.norms is None


def test_a_statistic_from_before_it_knew_of_sinks_stays_what_it_was(tmp_path):
    make(SitePlan(Statistic(rows=8, by_values=True))).save(tmp_path / "new.hotfix")

    def forget(head, arrays):
        for name in ("rows", "by_values"):
            del head["body"]["sites"][0]["plan"]["detector"][name]

    older = rewritten(tmp_path / "new.hotfix", tmp_path / "old.hotfix", forget)
    assert Hotfix.load(older).sites[0].plan.detector == Statistic()


@pytest.mark.parametrize("format", [FORMAT - 1, FORMAT + 1])
def test_another_format_says_so(tmp_path, good, format):
    assert code(rewritten(good, tmp_path / "m.hotfix", lambda head, arrays: head.update(format=format))) == "ATP055"


def test_an_edited_number_breaks_the_digest(tmp_path, good):
    path = tmp_path / "m.hotfix"
    data = bytearray(good.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert code(path) == "ATP053"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(share=st.floats(0, 0.999))
def test_every_truncation_is_corrupt(tmp_path, good, share):
    data = good.read_bytes()
    path = tmp_path / "m.hotfix"
    path.write_bytes(data[: int(share * len(data))])
    assert code(path) == "ATP053"


def test_other_files_are_no_hotfix(tmp_path):
    (tmp_path / "text").write_text("hello")
    save_file({"a": floats(2)}, tmp_path / "plain.safetensors")
    assert code(tmp_path / "text") == "ATP053"
    assert code(tmp_path / "plain.safetensors") == "ATP053"
    assert code(tmp_path) == "ATP002"
    assert code(tmp_path / "missing") == "ATP002"


# --- what it gives for a model


def hotfix_for(*sites: Site, level: float = 0.5) -> Hotfix:
    plan = SitePlan(DETECTORS["profile"], PAIRS["relative"])
    entries = tuple(HotfixSite(s.id, i, s.heads, s.fingerprint, plan) for i, s in enumerate(sites))
    return Hotfix(entries, 0.4, "w" * 64, level, (tuple(s.id for s in sites),), "two", accept="flip")


def test_the_plan_carries_level_threshold_digest_and_options():
    hotfix = hotfix_for(site())
    plan = hotfix.plan([site()], "w" * 64, gating="none", telemetry=True, controls="none")
    assert (plan.threshold, plan.gating, plan.telemetry, plan.controls, plan.digest) == (
        0.4,
        "none",
        True,
        "none",
        hotfix.digest,
    )
    np.testing.assert_array_equal(plan.sites["layers.0"].benign.attention, np.float32([0.25, 1.0]))


@pytest.mark.parametrize(("benign", "level"), [("mean", 1.0), ("zero", 0.0), (0.25, 0.25)])
def test_level_threshold_and_values_can_be_overridden(benign, level):
    plan = hotfix_for(site()).plan([site()], "w" * 64, benign=benign, values="own", threshold=0.9)
    np.testing.assert_array_equal(plan.sites["layers.0"].benign.attention, np.float32([0.5 * level, 2.0 * level]))
    assert plan.sites["layers.0"].benign.own_values and plan.threshold == 0.9


def test_passes_and_acceptance_are_carried_and_can_be_overridden():
    hotfix = hotfix_for(site())
    plan = hotfix.plan([site()], "w" * 64)
    assert (plan.groups, plan.passes, plan.accept) == ((("layers.0",),), "two", "flip")
    assert plan.mend == "redistribute" and hotfix.plan([site()], "w" * 64, mend="excise").mend == "excise"
    plan = hotfix.plan([site()], "w" * 64, passes="one", accept="always")
    assert (plan.groups, plan.passes, plan.accept) == ((("layers.0",),), "one", "always")


@pytest.mark.parametrize("benign", ["low", -0.5, float("nan")])
def test_an_impossible_level_is_refused(benign):
    with pytest.raises(AtpatchError) as error:
        hotfix_for(site()).plan([site()], "w" * 64, benign=benign)
    assert error.value.code == "ATP060"


def test_another_structure_is_refused_with_both_sides_shown():
    other = site(heads=4)
    with pytest.raises(AtpatchError) as error:
        hotfix_for(site()).plan([other], "w" * 64)
    assert error.value.code == "ATP054"
    assert site().fingerprint in error.value.what and other.fingerprint in error.value.what
    assert hotfix_for(site()).plan([other], "w" * 64, force=True).sites.keys() == {"layers.0"}


def test_other_weights_are_refused_with_both_sides_shown():
    with pytest.raises(AtpatchError) as error:
        hotfix_for(site()).plan([site()], "x" * 64)
    assert error.value.code == "ATP054"
    assert "wwww" in error.value.what and "xxxx" in error.value.what
    assert hotfix_for(site()).plan([site()], "x" * 64, force=True).sites


def test_a_missing_site_is_refused_and_left_out_by_force():
    hotfix = hotfix_for(site("a"), site("b"))
    with pytest.raises(AtpatchError) as error:
        hotfix.plan([site("a")], "w" * 64)
    assert error.value.code == "ATP054"
    plan = hotfix.plan([site("a")], "w" * 64, force=True)
    assert plan.sites.keys() == {"a"} and plan.groups == (("a",),)


def test_a_model_without_any_of_the_sites_is_refused_whatever_the_force():
    with pytest.raises(AtpatchError) as error:
        hotfix_for(site("a")).plan([], "w" * 64, force=True)
    assert error.value.code == "ATP054"


def test_renamed_nodes_are_matched_by_position():
    plan = hotfix_for(site("a"), site("b")).plan([site("node_7"), site("node_9")], "w" * 64)
    assert list(plan.sites) == ["node_7", "node_9"] and plan.groups == (("node_7", "node_9"),)


def test_description_is_plain_data():
    described = make(SitePlan(DETECTORS["cnn"], PAIRS["per-column"])).describe()
    assert json.loads(json.dumps(described)) == described
    assert described["groups"] == [["layers.0"]] and (described["passes"], described["accept"]) == ("two", "flip")
    assert described["detector"] == "cnn" and described["benign_level"] == 0.5 and described["values"] == "benign"


@pytest.mark.parametrize("place", ["threshold", "layer", "columns", "kind"])
@pytest.mark.parametrize("value", [10**400, 2**63, -(2**63) - 1, [], {}])
def test_numbers_and_kinds_that_no_graph_can_hold(tmp_path, place, value):
    """Signed again, so that only the content is at fault."""
    body, arrays = make(SitePlan(Static((1,))))._encode()
    plan = body["sites"][0]["plan"]
    holder, key = {
        "threshold": (body, "threshold"),
        "layer": (body["sites"][0], "layer"),
        "columns": (plan["detector"]["columns"], 0),
        "kind": (plan["detector"], "kind"),
    }[place]
    holder[key] = value
    head = {"format": FORMAT, "digest": digest(body, arrays), "body": body}
    save_file(arrays, tmp_path / "m.hotfix", {KEY: json.dumps(head)})
    with pytest.raises(AtpatchError, match="ATP053"):
        Hotfix.load(tmp_path / "m.hotfix")
