"""Models without classes behind the server: the log has no predictions, and says how far outputs differ."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import onnx
import pytest

from atpatch_onnx.cli.serve_settings import check_options
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.serve.arms import Arm
from atpatch_onnx.serve.calibration import require_fittable
from atpatch_onnx.serve.engine import Engine
from atpatch_onnx.serve.kill_switch import KillSwitch
from atpatch_onnx.serve.page import render_page
from atpatch_onnx.serve.protocol import InferRequest
from atpatch_onnx.serve.settings import Settings

from ..comparison.case import classifier
from ..conftest import Run
from .graphs import feeds, save


def served(tmp_path: Path, output: str, **options: Any) -> tuple[list[dict[str, Any]], str, Path]:
    """Decisions of three requests to two models with an output (B, 3) of a name, the page, and the log."""
    paths = []
    for number in (1, 2):
        path = save("other_output", tmp_path / f"{number}.onnx", scale=number)
        model = onnx.load(path)
        model.graph.node[-1].output[0] = model.graph.output[0].name = output
        onnx.save_model(model, path)
        paths.append(path)
    log = tmp_path / "log.jsonl"

    async def use() -> str:
        engine = Engine(Settings(*paths, log=log, workers=1, **options), KillSwitch(environment={}))
        engine.start()
        for first in (1, 2, 3):
            await engine.infer(InferRequest(None, feeds(first), 1, (), {}), f"u{first}")
        await engine.close()
        return render_page(engine)

    page = asyncio.run(use())
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [row for row in rows if row["event"] == "decision"], page, log


@pytest.mark.parametrize(
    ("output", "options"),
    [("sentence_embedding", {}), ("pooler_output", {}), ("y", {"output_kind": "embedding"})],
    ids=["by its name", "a pooled output", "by the option"],
)
def test_an_embedding_is_no_prediction(tmp_path: Path, output: str, options: dict, atpatch: Callable[..., Run]) -> None:
    rows, page, log = served(tmp_path, output, **options)
    assert [row["prediction"] for row in rows] == [{"original": None, "patched": None}] * 3
    assert [row["agree"] for row in rows] == [None] * 3 and all(row["difference"][0] > 0 for row in rows)
    assert "no output has class scores; outputs differ by" in page
    done = atpatch("ab", "analyze", log, "--json")
    assert done.code == 0, done.err
    pairs = done.json["revisions"][0]["pairs"]
    assert pairs["requests"] == {"compared": 3} and pairs["disagreement"] is None
    worst = max(row["difference"][0] for row in rows)
    assert f"{worst:.3g} at most" in done.json["revisions"][0]["verdict"]


@pytest.mark.parametrize(("output", "options"), [("y", {}), ("embedding", {"output_kind": "classes"})])
def test_class_scores_are(tmp_path: Path, output: str, options: dict) -> None:
    rows, page, _ = served(tmp_path, output, **options)
    assert all(row["agree"] == [True] and isinstance(row["prediction"]["patched"][0], int) for row in rows)
    assert "0 of 3; scores differ by" in page


def test_requests_calibrate_no_model_without_classes(tmp_path: Path) -> None:
    onnx.save_model(classifier(), tmp_path / "model.onnx")
    with pytest.raises(AtpatchError, match=r"ATP062.*fit --output-kind"):
        require_fittable(Arm("original", tmp_path / "model.onnx", output_kind="embedding"))


def test_no_class_of_an_embedding_can_be_watched() -> None:
    with pytest.raises(click.UsageError, match=r"--watch-class.*embedding"):
        check_options("patched.onnx", {"output_kind": "embedding", "watch_class": 1})
