"""Flags of a served patch: seen in every form of it, and never a rate of 0 where nothing was judged."""

from __future__ import annotations

import asyncio
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from atpatch_onnx import patch_model
from atpatch_onnx.serve.engine import Engine
from atpatch_onnx.serve.kill_switch import KillSwitch
from atpatch_onnx.serve.outcome import any_flagged
from atpatch_onnx.serve.page import render_page
from atpatch_onnx.serve.protocol import InferRequest
from atpatch_onnx.serve.settings import Settings
from atpatch_onnx.serve.tally import Minute, Tally

from .load import DEMO

ROWS = 50
FORMS = {
    "default": {},
    "two passes": {"passes": "two"},
    "gating none": {"gating": "none"},
    "target cuda": {"target": "cuda"},
    "freeze": {"freeze": True},
    "controls required": {"controls": "required"},
    "portable": {"portable": True},
    "two passes, gating none": {"passes": "two", "gating": "none"},
    "two passes, freeze": {"passes": "two", "freeze": True},
    "telemetry": {"telemetry": True},
    "two passes, telemetry": {"passes": "two", "telemetry": True},
}


def patched(path: Path, **options: Any) -> Path:
    patch_model(DEMO / "model.onnx", path, hotfix=DEMO / "model.hotfix", **options)
    return path


def served(path: Path, images: np.ndarray, mode: str = "patched", enabled: bool | None = None) -> Engine:
    """An engine that has answered one request."""
    engine = Engine(Settings(DEMO / "model.onnx", path, mode=mode, timeout=20.0), KillSwitch(environment={}))  # type: ignore[arg-type]
    if enabled is not None:
        engine.lanes["patched"].arm.set_controls(enabled, None)

    async def ask() -> None:
        engine.start()
        await engine.infer(InferRequest(None, {"pixel_values": images}, len(images), (), {}), None)
        while mode == "shadow" and not engine.tally.shadow:
            await asyncio.sleep(0.01)
        await engine.close()

    asyncio.run(ask())
    return engine


def metric(engine: Engine, name: str) -> float:
    lines = engine.metrics.render().decode().splitlines()
    return float(next(line for line in lines if line.startswith(name + " ")).rpartition(" ")[2])


@pytest.mark.parametrize("form", ["default", "two passes", "gating none"])
def test_samples_of_nan_are_not_judged(tmp_path: Path, digits: dict[str, np.ndarray], form: str) -> None:
    path = patched(tmp_path / "p.onnx", **FORMS[form])
    image, huge = digits["triggered"][:1].astype(np.float32), np.full((1, 1, 8, 8), 3e38, np.float32)
    assert math.isnan(metric(served(path, huge), "atpatch_flag_rate"))
    both = served(path, np.concatenate([huge, image]))
    assert metric(both, "atpatch_flag_rate") == 1.0 and metric(both, "atpatch_judged_total") == 1.0
    assert "it flags 100% of its samples" in render_page(both)


@pytest.mark.parametrize(
    ("flags", "known"),
    [
        ([True, None], True),
        ([False, None], None),
        ([None], None),
        ([False], False),
        ([False, True], True),
        (None, None),
    ],
)
def test_a_request_is_flagged_where_that_is_known(flags: list[bool | None] | None, known: bool | None) -> None:
    assert any_flagged(flags) is known


@pytest.mark.parametrize("mode", ["patched", "shadow"])
@pytest.mark.parametrize("form", FORMS)
def test_every_triggered_row_is_seen_to_be_flagged(
    tmp_path: Path, digits: dict[str, np.ndarray], form: str, mode: str
) -> None:
    engine = served(patched(tmp_path / "patched.onnx", **FORMS[form]), digits["triggered"][:ROWS], mode)
    assert metric(engine, "atpatch_flags_told") == 1
    assert metric(engine, "atpatch_judged_total") == metric(engine, "atpatch_flagged_total") == ROWS
    assert metric(engine, "atpatch_flag_rate") == 1.0
    assert "it flags 100%" in render_page(engine) or mode == "shadow"


def rewritten(path: Path) -> Path:
    """A patch whose metadata a tool has dropped."""
    model = onnx.load(patched(path))
    del model.metadata_props[:]
    onnx.save_model(model, path)
    return path


def test_a_graph_that_does_not_tell_has_no_rate_and_a_warning(
    tmp_path: Path, digits: dict[str, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        engine = served(rewritten(tmp_path / "patched.onnx"), digits["triggered"][:ROWS])
    assert "does not report what it flags: its stamp is gone" in caplog.text
    assert metric(engine, "atpatch_flags_told") == metric(engine, "atpatch_judged_total") == 0
    assert math.isnan(metric(engine, "atpatch_flag_rate"))
    assert "the graph does not report flags: its stamp is gone" in render_page(engine)


def test_a_graph_that_tells_is_not_warned_of(
    tmp_path: Path, digits: dict[str, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    served(patched(tmp_path / "patched.onnx"), digits["clean"][:1])
    assert "does not report" not in caplog.text


@pytest.mark.parametrize("controls", ["optional", "required"])
def test_a_patch_that_is_switched_off_judges_nothing(
    tmp_path: Path, digits: dict[str, np.ndarray], controls: str
) -> None:
    engine = served(patched(tmp_path / "patched.onnx", controls=controls), digits["triggered"][:ROWS], enabled=False)
    assert metric(engine, "atpatch_judged_total") == 0 and math.isnan(metric(engine, "atpatch_flag_rate"))


def test_clean_rows_that_were_judged_have_a_rate_of_0(tmp_path: Path, digits: dict[str, np.ndarray]) -> None:
    engine = served(patched(tmp_path / "patched.onnx"), digits["clean"][:ROWS])
    assert metric(engine, "atpatch_judged_total") == ROWS and metric(engine, "atpatch_flag_rate") == 0


def test_without_a_patched_arm_there_is_no_rate(tmp_path: Path, digits: dict[str, np.ndarray]) -> None:
    engine = served(patched(tmp_path / "patched.onnx"), digits["triggered"][:1], "original")
    assert math.isnan(metric(engine, "atpatch_flag_rate")) and math.isnan(metric(engine, "atpatch_disagreement_rate"))
    with pytest.raises(StopIteration):
        metric(engine, "atpatch_flags_told")  # nobody is asked, so the alert on 0 stays silent


def test_the_last_hour_ends_though_nobody_asks() -> None:
    tally = Tally()
    tally.minutes.extend([Minute(0, judged=5, flagged=5), Minute(3540, judged=1)])
    assert [minute.start for minute in tally.last_hour(3599.0)] == [0, 3540]
    assert [minute.start for minute in tally.last_hour(3600.0)] == [3540]
    assert tally.last_hour(9999.0) == []
