"""What the log of a real server says of a patch whose shadow runs come too late: bounds that hold the truth."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from pathlib import Path

import numpy as np

from atpatch_onnx import patch_model
from atpatch_onnx.ab import analyze_log
from atpatch_onnx.inference.sessions import session

from .asking import INFER, binary, until
from .conftest import Served
from .load import DEMO

CLEAN, TRIGGERED = 270, 30


def test_bounds_hold_the_truth_where_flagged_requests_time_out(
    start: Callable[..., Served], digits: dict[str, np.ndarray], tmp_path: Path, atpatch: Callable
) -> None:
    twice = patch_model(DEMO / "model.onnx", tmp_path / "twice.onnx", hotfix=DEMO / "model.hotfix", passes="two").output
    images = np.concatenate([digits["clean"][:CLEAN], digits["triggered"][:TRIGGERED]])[
        np.random.default_rng(0).permutation(CLEAN + TRIGGERED)
    ]
    runs = [session(path, threads=1) for path in (DEMO / "model.onnx", twice)]
    answers = [
        np.array(
            [run.run(["logits"], {"pixel_values": image[None].astype(np.float32)})[0].argmax() for image in images]
        )
        for run in runs
    ]
    truth = float((answers[0] != answers[1]).mean())
    assert truth > 0.05

    # Far too short a time for anybody: how many of the shadow runs end in it is chance, and those that change an answer
    # take twice as long.
    served = start(
        "--mode", "shadow", "--shadow-timeout", "0.003", "--shadow-queue", "4", "--workers", "1", patched=twice
    )
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    for image in images:
        body, headers = binary(image[None])
        connection.request("POST", INFER, body, {name.replace("_", "-"): value for name, value in headers.items()})
        assert connection.getresponse().read()
    until(lambda: len(served.rows()) == len(images))

    pairs = analyze_log(served.log).revisions[0].pairs
    assert pairs.due == len(images)
    assert pairs.lost > 0
    assert pairs.bounds.least.share.value <= truth <= pairs.bounds.most.share.value
    analysis = atpatch("ab", "analyze", served.log)
    assert "The patch would change between" in analysis.err
    assert f"as {pairs.lost} of 300 shadow requests gave no pair." in analysis.err
