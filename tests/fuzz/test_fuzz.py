"""A bounded run of every kind. `make fuzz` is the long one.

A finding is told as the command that repeats it; what it shows becomes a test of its own where the reader is tested.
"""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from atpatch_onnx.serve.limits import Limits, Refusal
from atpatch_onnx.serve.protocol import parse_request
from atpatch_onnx.serve.tensors import TensorSpec

from ..serve.fuzz import requests
from . import corpus, running
from .cases import KINDS
from .running import run

COUNTS = {"models": 40, "hotfixes": 40, "data": 12, "logs": 20}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_bytes_end_in_an_internal_error(kind):
    summary = run(kind, COUNTS[kind], seed=100)
    assert summary.cases == COUNTS[kind]
    assert not summary.findings, "\n".join(map(str, summary.findings))
    good = sum(count for end, count in summary.ends.items() if end.endswith(" 0"))
    assert good, "no mutation was deep enough to be read"


def test_requests_are_refused_or_understood():
    """Bodies only, without a server; `tests/serve` sends the same ones over HTTP."""
    spec = TensorSpec("pixel_values", "FP32", (-1, 1, 8, 8))
    out = TensorSpec("logits", "FP32", (-1, 10))
    understood = 0
    for _, _, headers, body in requests(600, seed=5):
        length = headers.get("Inference-Header-Content-Length")
        try:
            found = parse_request(body, length, [spec], [out], Limits(), batchable=True)
        except Refusal as refusal:
            assert 400 <= refusal.status < 500
        else:
            understood += 1
            assert found.feeds["pixel_values"].dtype == np.float32
    assert understood > 60


# The harness sees what it is there to see.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("raise KeyError('x')", "internal error"),
        ("import os; os.kill(os.getpid(), 11)", "the process ended with -11"),
        ("import time; time.sleep(60)", "no end after"),
        ("import pathlib; pathlib.Path('half').write_text(''); raise SystemExit(2)", "left ['half']"),
        ("raise SystemExit(7)", "exit status 7"),
    ],
)
def test_the_harness_sees(tmp_path, monkeypatch, body, what):
    """A command with a fault of each kind, put in the place of `inspect` in the child process."""
    (tmp_path / "sitecustomize.py").write_text(
        "import click, atpatch_onnx.cli.inspect as"
        " module\n@click.command(context_settings=dict(ignore_unknown_options=True, allow_extra_args=True))\ndef"
        f" inspect():\n    {body}\nmodule.inspect = inspect\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    if "sleep" in body:
        monkeypatch.setattr(running, "SECONDS", 5.0)
    summary = run("models", 1, seed=1)
    assert summary.cases == 1
    told = [str(finding) for finding in summary.findings]
    assert any(what in line or (what == "internal error" and "KeyError" in line) for line in told), told
    assert "models --seed 1 --only 0: " in told[0]


def test_cases_follow_from_their_number(tmp_path):
    for kind, make in KINDS.items():
        made = []
        for name in ("a", "b"):
            folder = tmp_path / kind / name
            folder.mkdir(parents=True)
            commands = make(random.Random(f"{kind}/3/4"), folder)
            files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".npz"}
            made.append((json.dumps(commands), files))
        assert made[0] == made[1]


def test_the_corpus_is_sound(tmp_path):
    """What is mutated is accepted before it is."""
    from rewriters.model import io as model_io

    (tmp_path / "weights.data").write_bytes(bytes(256))
    for name, model in corpus.models().items():
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
        assert model_io.load(tmp_path / f"{name}.onnx") == model
