"""Arms, batches, fallbacks and shadow runs, on graphs that really fail."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atpatch_onnx.decisions import DecisionRow, from_line, to_json
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.inference.sessions import session
from atpatch_onnx.serve.arms import Arm, ArmFault
from atpatch_onnx.serve.batching import Batcher
from atpatch_onnx.serve.engine import Engine
from atpatch_onnx.serve.kill_switch import KILL_VARIABLE, KillSwitch
from atpatch_onnx.serve.limits import Limits, Refusal
from atpatch_onnx.serve.page import render_page
from atpatch_onnx.serve.protocol import InferRequest
from atpatch_onnx.serve.reload import reload
from atpatch_onnx.serve.settings import SHADOW_SECONDS, Settings

from .graphs import feeds, save
from .load import DEMO

Use = Callable[[Engine], Awaitable[Any]]


def request(*firsts: float, name: str | None = None) -> InferRequest:
    return InferRequest(name, feeds(*firsts), len(firsts), (), {})


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[Any, list[dict[str, Any]]]]:
    """Runs something with an engine whose patched arm is of some kind, and its scores twice those of the original;
    returns the result and the log's rows.
    """

    def run(
        kind: str, use: Use, switch: KillSwitch | None = None, original: str = "sound", **settings: Any
    ) -> tuple[Any, list[dict[str, Any]]]:
        log = tmp_path / "log.jsonl"
        paths = save(original, tmp_path / "original.onnx"), save(kind, tmp_path / "patched.onnx", scale=2.0)
        engine = Engine(
            Settings(*paths, **{"mode": "patched", "log": log, "timeout": 0.5, "shadow_timeout": 0.5, **settings}),
            switch or KillSwitch(environment={}),
        )

        async def session_of() -> Any:
            engine.start()
            try:
                return await use(engine)
            finally:
                await engine.close()

        result = asyncio.run(session_of())
        return result, [json.loads(line) for line in log.read_text().splitlines()]

    return run


def decisions(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["event"] == "decision"]


def expected(*firsts: float) -> np.ndarray:
    x = feeds(*firsts)["x"]
    from .graphs import _WEIGHTS

    return x @ _WEIGHTS


@pytest.mark.parametrize("mode", [{"mode": "ab", "weight": 1.0}, {"mode": "patched", "fallback": "original"}])
@pytest.mark.parametrize(
    ("kind", "first", "reason"), [("nan", -1, "non_finite"), ("raising", 10, "error"), ("hanging", 100, "timeout")]
)
def test_original_answers_for_a_failing_patched_arm(run: Any, mode: Any, kind: str, first: float, reason: str) -> None:
    async def use(engine: Engine) -> Any:
        return [await engine.infer(request(value), None) for value in (1, first, 1)]

    answers, rows = run(kind, use, **mode)
    assert [answer.arm for answer in answers] == ["patched", "original", "patched"]
    assert [row["fallback"] for row in decisions(rows)] == [None, reason, None]
    np.testing.assert_allclose(answers[1].outputs["y"], expected(first), rtol=1e-5)
    assert decisions(rows)[1]["assigned"] == "patched" and decisions(rows)[1]["prediction"]["patched"] is None


COUNTED = ("nv_inference_request_failure", "atpatch_fallbacks_total")
ERROR = [{"mode": "patched"}, {"mode": "ab", "weight": 1.0, "fallback": "error"}]


@pytest.mark.parametrize("mode", ERROR)
@pytest.mark.parametrize(("kind", "first", "status"), [("raising", 10, 400), ("hanging", 100, 503)])
def test_no_request_makes_the_original_answer(run: Any, mode: Any, kind: str, first: float, status: int) -> None:
    async def use(engine: Engine) -> Any:
        before = await engine.infer(request(1), None)
        with pytest.raises(Refusal) as refusal:
            await engine.infer(replace(request(first), id="odd"), "unit")
        assert "1 got an error" in render_page(engine) and engine.tally.failures.total() == 1
        assert sum(map(len, engine.tally.units.values())) == (2 if mode["mode"] == "ab" else 0)
        return [before, await engine.infer(request(1), None)], refusal.value, engine.metrics.render()

    (answers, refusal, metrics), rows = run(kind, use, **mode)
    assert refusal.status == status and bool(refusal.headers) == (status == 503)
    assert [answer.arm for answer in answers] == ["patched"] * 2 == [row["arm"] for row in decisions(rows)]
    (failure,) = [row for row in rows if row["event"] == "failure"]
    told = {
        "id": "odd",
        "assigned": "patched",
        "arm": "patched",
        "batch": 1,
        "reason": "error" if status == 400 else "timeout",
    }
    assert {name: failure[name] for name in told} == told and failure["unit_given"] is True
    assert [sum(map(float, re.findall(rf"^{name}{{.*}} (.*)$", metrics.decode(), re.M))) for name in COUNTED] == [1, 0]


@pytest.mark.parametrize("mode", ERROR)
def test_samples_beside_nan_get_their_patched_answers(run: Any, mode: Any) -> None:
    async def use(engine: Engine) -> Any:
        return await engine.infer(request(1, -1, 2, -2), None), engine.metrics.render()

    (answer, metrics), rows = run("nan", use, **mode)
    assert answer.arm == "patched" and answer.parameters["non_finite"] == 2
    assert np.isnan(answer.outputs["y"]).all(1).tolist() == [False, True, False, True]
    np.testing.assert_allclose(answer.outputs["y"][::2], 2 * expected(1, -1, 2, -2)[::2], rtol=1e-5)
    assert b"atpatch_non_finite_total 2.0" in metrics
    (row,) = decisions(rows)
    labels = [None if sample % 2 else int(answer.outputs["y"][sample].argmax()) for sample in range(4)]
    assert (row["arm"], row["fallback"], row["prediction"]["patched"]) == ("patched", None, labels)


def test_original_answers_for_the_samples_of_nan_only(run: Any) -> None:
    async def use(engine: Engine) -> Any:
        return await engine.infer(request(1, -1, 2), None)

    answer, rows = run("nan", use, mode="ab", weight=1.0)
    assert (answer.arm, decisions(rows)[0]["fallback"]) == (
        "patched",
        "non_finite",
    ) and "non_finite" not in answer.parameters
    np.testing.assert_allclose(answer.outputs["y"], expected(1, -1, 2) * np.array([[2], [1], [2]]), rtol=1e-5)


def test_original_does_not_answer_where_it_has_nothing_better(run: Any) -> None:
    async def use(engine: Engine) -> Any:
        return await engine.infer(request(1, -1), None)

    answer, _ = run("nan", use, original="nan", mode="ab", weight=1.0)
    assert answer.arm == "patched" and answer.parameters["non_finite"] == 1
    np.testing.assert_allclose(answer.outputs["y"][0], 2 * expected(1, -1)[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({"mode": "ab"}, 1),
        ({"mode": "patched"}, 7),
        ({"mode": "patched", "fallback": "original"}, 1),
        ({"mode": "ab", "fallback": "error"}, 7),
        ({"mode": "patched", "timeout": 3}, 3),
    ],
)
def test_patched_runs_have_as_long_as_the_original_where_nobody_answers_instead(
    given: dict[str, Any], seconds: float
) -> None:
    settings = Settings(Path("a"), Path("b"), limits=Limits(answer_seconds=7), **given)
    assert settings.waited_seconds == seconds


@pytest.mark.parametrize(("fallback", "outcome"), [("error", 503), ("original", "original")])
def test_busy_arm_follows_fallback(run: Any, fallback: Any, outcome: Any) -> None:
    async def ask(engine: Engine) -> Any:
        try:
            return (await engine.infer(request(1), None)).arm
        except Refusal as refusal:
            return refusal.status

    async def use(engine: Engine) -> Any:
        # all workers past their time, as onnxruntime may leave them for long
        engine.lanes["patched"].arm._hung = engine.settings.workers
        return await ask(engine)

    result, rows = run("sound", use, fallback=fallback)
    assert result == outcome and [row["fallback"] for row in decisions(rows)] == (
        ["busy"] if fallback == "original" else []
    )


@pytest.mark.parametrize(("kind", "first"), [("nan", -1), ("raising", 10)])
def test_a_request_never_makes_its_neighbors_in_a_batch_fall_back(run: Any, kind: str, first: float) -> None:
    async def use(engine: Engine) -> Any:
        asked = [engine.infer(request(first if i % 4 == 3 else 1), None) for i in range(16)]
        return await asyncio.gather(*asked, return_exceptions=True), engine.lanes["patched"].joined

    for mode in ({"mode": "patched"}, {"mode": "ab", "weight": 1.0}):
        (answers, joined), _ = run(kind, use, batch_rows=8, batch_delay=0.05, workers=1, **mode)
        assert joined >= 8 or kind == "raising"
        for number, answer in enumerate(answers):
            if number % 4 != 3:
                assert answer.arm == "patched"
                np.testing.assert_allclose(answer.outputs["y"], 2 * expected(1), rtol=1e-5)
            elif mode["mode"] == "patched":
                assert isinstance(answer, Refusal) if kind == "raising" else answer.arm == "patched"


def test_hanging_runs_cost_the_time_out_once_and_are_ended(run: Any) -> None:
    async def use(engine: Engine) -> Any:
        arm = engine.lanes["patched"].arm
        await asyncio.gather(*(engine.infer(request(100), None) for _ in range(arm.workers)))
        hung = arm.hung
        started = time.perf_counter()
        await engine.infer(request(1), None)
        waited = time.perf_counter() - started
        while arm.hung:
            await asyncio.sleep(0.01)
        return hung, waited, (await engine.infer(request(1), None)).arm

    (hung, waited, arm), rows = run("hanging", use, workers=2, fallback="original")
    # onnxruntime may have ended a run before it is looked at; then the worker was free, which is as good.
    assert hung <= 2 and waited < 0.4 and arm == "patched"
    assert [row["fallback"] for row in decisions(rows)][:2] == ["timeout", "timeout"]


def test_what_the_original_refuses_too_is_the_clients_mistake(tmp_path: Path) -> None:
    paths = save("raising", tmp_path / "a.onnx"), save("raising", tmp_path / "b.onnx")
    engine = Engine(Settings(*paths, mode="patched"), KillSwitch(environment={}))
    with pytest.raises(Refusal) as refusal:
        asyncio.run(engine.infer(request(10), None))
    assert refusal.value.status == 400 and "the model refuses the input" in refusal.value.message
    assert b'atpatch_fallbacks_total{reason="error"} 0.0' in engine.metrics.render()


def test_hanging_original_is_unavailable_not_for_ever(tmp_path: Path) -> None:
    paths = save("hanging", tmp_path / "a.onnx"), save("sound", tmp_path / "b.onnx")
    engine = Engine(Settings(*paths, mode="original", limits=Limits(answer_seconds=0.3)), KillSwitch(environment={}))
    with pytest.raises(Refusal) as refusal:
        asyncio.run(engine.infer(request(100), None))
    assert refusal.value.status == 503 and refusal.value.headers == {"Retry-After": "1"}


@pytest.mark.parametrize("way", ["admin", "file", "environment"])
def test_every_kill_switch_works_on_the_next_request(run: Any, tmp_path: Path, way: str) -> None:
    file, environment = tmp_path / "kill", {}
    switch = KillSwitch(file, environment)

    def turn(on: bool) -> None:
        if way == "admin":
            switch.by_admin = on
        elif way == "file":
            file.touch() if on else file.unlink()
        else:
            environment[KILL_VARIABLE] = "1" if on else "0"

    async def use(engine: Engine) -> list[str]:
        arms = []
        for on in (False, True, False):
            turn(on) if on or arms else None
            arms.append((await engine.infer(request(1), None)).arm)
        return arms

    arms, rows = run("sound", use, switch)
    assert arms == ["patched", "original", "patched"]
    assert [row["fallback"] for row in decisions(rows)] == [None, "killed", None]
    assert [(row["on"], row["source"]) for row in rows if row["event"] == "switch"] == [(True, way), (False, way)]


@pytest.mark.parametrize(
    ("kind", "first", "status"),
    [("sound", 1, "compared"), ("nan", -1, "non_finite"), ("raising", 10, "error"), ("hanging", 100, "timeout")],
)
def test_shadow_never_touches_the_answer(run: Any, kind: str, first: float, status: str) -> None:
    async def use(engine: Engine) -> Any:
        return await engine.infer(request(first), "unit")

    answer, rows = run(kind, use, mode="shadow")
    assert answer.arm == "original" and answer.flagged is None
    np.testing.assert_allclose(answer.outputs["y"], expected(first), rtol=1e-5)
    (row,) = decisions(rows)
    assert row["shadow"] == status and row["fallback"] is None
    assert row["agree"] == ([True] if status == "compared" else None) and (row["difference"] is None) == (
        status != "compared"
    )


def test_a_sample_of_nan_loses_its_own_pair_only(run: Any) -> None:
    async def use(engine: Engine) -> Any:
        await engine.infer(request(1, -1, 2), None)
        while engine.tally.shadow["compared"] < 1:
            await asyncio.sleep(0.01)
        return engine.tally, engine.metrics.render()

    (tally, metrics), rows = run("nan", use, mode="shadow")
    (row,) = decisions(rows)
    assert (row["shadow"], row["agree"]) == ("compared", [True, None, True])
    assert row["prediction"]["patched"][1] is None and None not in row["prediction"]["original"]
    assert [value is None for value in row["difference"]] == [False, True, False]
    assert (tally.pairs, tally.disagree, tally.missing) == (2, 0, 1)
    assert b"atpatch_shadow_pairs_total 2.0" in metrics and b"atpatch_shadow_disagreements_total 0.0" in metrics


def test_shadow_runs_have_longer_than_a_client_that_waits(run: Any) -> None:
    async def use(engine: Engine) -> Any:
        started = time.perf_counter()
        named = await engine.infer(request(100), None, "patched")
        waited = time.perf_counter() - started
        await engine.infer(request(100), None)
        return named.arm, waited

    (arm, waited), rows = run("hanging", use, mode="shadow", timeout=0.2, shadow_timeout=1.0, workers=2)
    assert arm == "original" and waited < 0.9
    named, shadowed = decisions(rows)
    assert named["fallback"] == "timeout" and shadowed["shadow"] == "timeout"
    times = {name: Settings(Path(), Path(), timeout=1.0, **more).patched_seconds for name, more in MODES.items()}
    assert times == {"ab": 1.0, "shadow": SHADOW_SECONDS, "shadow, said": 0.5} and SHADOW_SECONDS > 5
    assert Settings(Path(), Path(), timeout=30.0).patched_seconds == 30.0


MODES: dict[str, dict[str, Any]] = {"ab": {"mode": "ab"}, "shadow": {}, "shadow, said": {"shadow_timeout": 0.5}}


def test_full_shadow_queue_drops_and_counts(run: Any) -> None:
    async def use(engine: Engine) -> bytes:
        for _ in range(8):
            await engine.infer(request(100), None)
        return engine.metrics.render()

    metrics, rows = run("hanging", use, mode="shadow", shadow_queue=2, workers=1, grace=0.1)
    statuses = [row["shadow"] for row in decisions(rows)]
    assert len(statuses) == 8 and statuses.count("dropped") >= 5 and set(statuses) <= {"dropped", "timeout"}
    assert b'atpatch_shadow_total{status="dropped"}' in metrics


def test_weight_change_is_a_new_revision_and_restarts_go_on(run: Any) -> None:
    async def use(engine: Engine) -> list[int]:
        first = (await engine.infer(request(1), "u")).revision
        engine.revise("weight", weight=1.0)
        return [first, (await engine.infer(request(1), "u")).revision]

    (one, two), rows = run("sound", use, mode="ab", weight=0.0)
    assert (one, two) == (1, 2)
    assert [(row["arm"], row["weight"]) for row in decisions(rows)] == [("original", 0.0), ("patched", 1.0)]
    (three, _), _ = run("sound", use, mode="ab", weight=0.0)
    assert three == 3


def test_batched_and_single_answers_agree(tmp_path: Path) -> None:
    arm = Arm("original", save("sound", tmp_path / "a.onnx"), workers=1)
    batcher = Batcher(arm, rows=8, delay=0.05)

    async def use() -> Any:
        return await asyncio.gather(*(batcher.run(feeds(*range(i, i + 1 + i % 3))) for i in range(12)))

    results = asyncio.run(use())
    assert batcher.joined >= 6 and batcher.runs < 12
    for i, result in enumerate(results):
        np.testing.assert_allclose(result.outputs["y"], expected(*range(i, i + 1 + i % 3)), rtol=1e-5)


def test_a_bad_sample_in_a_batch_fails_alone(tmp_path: Path) -> None:
    arm = Arm("original", save("raising", tmp_path / "a.onnx"), workers=1)
    batcher = Batcher(arm, rows=8, delay=0.05)

    async def use() -> Any:
        return await asyncio.gather(
            *(batcher.run(feeds(10 if i == 3 else 1)) for i in range(6)), return_exceptions=True
        )

    results = asyncio.run(use())
    assert [isinstance(result, ArmFault) for result in results] == [i == 3 for i in range(6)]


def test_requests_of_different_shape_are_not_joined(tmp_path: Path) -> None:
    arm = Arm("original", save("sound", tmp_path / "a.onnx"), workers=1)
    batcher = Batcher(arm, rows=8, delay=0.01)

    async def use() -> Any:
        wide = {"x": np.zeros((1, 4), np.float64)}
        return await asyncio.gather(
            *(batcher.run(feeds(1) if i % 2 else wide) for i in range(6)), return_exceptions=True
        )

    results = asyncio.run(use())
    assert [isinstance(result, ArmFault) for result in results] == [True, False] * 3


def test_reload_takes_a_sound_model_and_refuses_the_rest(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "patched.onnx"

    async def use(engine: Engine) -> Any:
        seen = []
        for break_it in (
            lambda: path.write_bytes(b"garbage"),
            lambda: path.write_bytes(b""),
            lambda: path.unlink(),
            lambda: save("other_output", path),
            lambda: save("sound", path, scale=float("nan")),
        ):
            break_it()
            with pytest.raises(AtpatchError) as error:
                await reload(engine, "patched")
            seen.append(error.value.code)
            assert (await engine.infer(request(1), None)).arm == "patched"
        save("sound", path, scale=2.0)
        revision = await reload(engine, "patched")
        return seen, revision, (await engine.infer(request(1), None)).outputs["y"]

    (codes, revision, scores), rows = run("sound", use)
    assert codes == ["ATP001", "ATP001", "ATP002", "ATP075", "ATP052"] and revision == 2
    np.testing.assert_allclose(scores, 2 * expected(1), rtol=1e-5)
    reasons = [row["reason"] for row in rows if row["event"] == "revision"]
    assert reasons == ["start", "reload patched"]


def test_arms_must_agree(tmp_path: Path) -> None:
    with pytest.raises(AtpatchError) as error:
        Engine(
            Settings(save("sound", tmp_path / "a.onnx"), save("other_output", tmp_path / "b.onnx")),
            KillSwitch(environment={}),
        )
    assert error.value.code == "ATP075"


def test_models_in_the_wrong_order_are_refused(patched: Path) -> None:
    with pytest.raises(AtpatchError, match=r"ATP060.*the original comes first"):
        Engine(Settings(patched, DEMO / "model.onnx"), KillSwitch(environment={}))


def test_log_never_holds_unit_salt_or_inputs(run: Any, tmp_path: Path) -> None:
    async def use(engine: Engine) -> Any:
        return await engine.infer(request(0.123456), "alice@example.org")

    run("sound", use, salt="the-secret")
    text = (tmp_path / "log.jsonl").read_text()
    assert "alice" not in text and "the-secret" not in text and "0.123456" not in text
    _, rows = run("sound", use, log_inputs=True)
    assert decisions(rows)[-1]["inputs"]["x"][0][0] == pytest.approx(0.123456)


def test_session_alike(tmp_path: Path) -> None:
    path = save("sound", tmp_path / "a.onnx")
    arm = Arm("original", path)
    direct = session(path, threads=1).run(None, feeds(1, 2, 3))[0]
    assert np.array_equal(asyncio.run(arm.run(feeds(1, 2, 3))).outputs["y"], direct)


# The log: every row that the engine writes is one that the reader takes, and none is lost


FIRSTS = (1, -1, 10, 100, float("nan"), float("inf"), 3e38)


@pytest.mark.parametrize("kind", ["sound", "nan", "raising", "hanging"])
@pytest.mark.parametrize("mode", [{"mode": "shadow"}, {"mode": "ab", "weight": 1.0}, {"mode": "ab", "weight": 0.0}])
def test_the_reader_takes_every_row(run: Any, kind: str, mode: Any) -> None:
    async def use(engine: Engine) -> None:
        for first in FIRSTS:
            with contextlib.suppress(Refusal):
                await engine.infer(
                    request(first, 1, name="\ud800 id" if first == 1 else None), "unit" if first == 10 else None
                )
        engine.switch.by_admin = True
        await engine.infer(request(1), None)
        engine.switch.by_admin = False
        await engine.infer(request(1), None, "patched")
        engine.set_controls(True, 1e30)

    _, rows = run(kind, use, original="nan", log_inputs=True, **mode, timeout=0.2, shadow_timeout=0.2)
    assert len(decisions(rows)) == len(FIRSTS) + 2
    for row in rows:
        read = from_line(json.dumps(row))
        assert read is not None and to_json(read) == row


def test_rows_with_inputs_that_are_not_finite_are_all_there(run: Any) -> None:
    firsts = [float("nan"), float("inf"), float("-inf"), 1.5] * 5

    async def use(engine: Engine) -> int:
        for first in firsts:
            await engine.infer(request(first), None)
        return engine.log.failures

    failures, rows = run("sound", use, mode="original", log_inputs=True)
    found = [row for row in map(from_line, map(json.dumps, rows)) if isinstance(row, DecisionRow)]
    assert failures == 0 and len(found) == 20
    for first, row in zip(firsts, found, strict=True):
        np.testing.assert_array_equal(row.inputs["x"], feeds(first)["x"], strict=True)


def test_a_pair_without_a_finite_difference_is_written_and_read(run: Any) -> None:
    async def use(engine: Engine) -> Any:
        return await engine.infer(request(1, -1), None)

    _, rows = run("sound", use, mode="shadow", original="nan")
    (row,) = decisions(rows)
    assert row["difference"][1] is None and from_line(json.dumps(row)).difference == row["difference"]


@pytest.mark.parametrize(
    "last",
    ['{"schema":1,"event":"decision","revision":"7"}\n', '{"revision":7,"inputs":[' + "1," * 2_000_000 + "1]}\n"],
)
def test_revisions_go_on_behind_any_last_row(run: Any, tmp_path: Path, last: str) -> None:
    (tmp_path / "log.jsonl").write_text(last)

    async def use(engine: Engine) -> int:
        return (await engine.infer(request(1), None)).revision

    assert run("sound", use)[0] == 8


def test_shadow_runs_that_end_after_a_change_do_not_turn_revisions_back(run: Any) -> None:
    async def use(engine: Engine) -> None:
        await asyncio.gather(*(engine.infer(request(1), None) for _ in range(4)))
        engine.revise("changed")

    _, rows = run("sound", use, mode="shadow")
    assert [row["revision"] for row in rows][-1] == 1 and max(row["revision"] for row in rows) == 2
    _, rows = run("sound", use, mode="shadow")
    assert [row["revision"] for row in rows if row["event"] == "revision"] == [1, 2, 3, 4]


def test_the_page_bounds_what_missing_pairs_may_have_changed(run: Any) -> None:
    pytest.importorskip("jinja2")

    async def use(engine: Engine) -> str:
        for first in (1, 1, 1, 100):
            await engine.infer(request(first), None)
        while engine.tally.shadow.total() < 4:
            await asyncio.sleep(0.01)
        return render_page(engine)

    page, _ = run("hanging", use, mode="shadow")
    assert (
        "The patch would change between 0% and 25.0% of the answers" in page
        and "do not show what the patch costs" in page
    )
