"""`patch --detector smoothing`: asked for by name, for decoders, and never by default."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from atpatch_onnx import AtpatchError, inspect, patch, unpatch
from rewriters.editing.patcher import stamp

from ..rewriters.decoders import PAST, decoder, decoder_feeds, merged_decoder
from ..rewriters.graphs import attention_block, session


@pytest.fixture
def path(tmp_path):
    onnx.save_model(decoder(False), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_the_command_patches_a_decoder_in_one_pass_and_says_what_it_is_worth(path, atpatch):
    run = atpatch("patch", path, "--json", "--detector", "smoothing")
    done = run.json
    assert done["detector"] == "smoothing" and len(done["sites"]) == 2
    assert "SmolLM2" in run.err
    assert inspect(done["output"]).model["patch"]["detector"] == "smoothing"
    unpatch(done["output"], path.with_name("back.onnx"))
    assert path.with_name("back.onnx").read_bytes() == path.read_bytes()


def test_short_prompts_keep_their_answers(path):
    """Eight rows are the least that it judges."""
    patched = patch(onnx.load(path), detector="smoothing", telemetry=True)
    data = {name: array for name, array in decoder_feeds(False).items() if name not in PAST}
    live = session(patched)
    names = [value.name for value in live.get_outputs()]
    found = dict(zip(names, live.run(names, data), strict=True))
    assert found["logits"].tobytes() == session(onnx.load(path)).run(["logits"], data)[0].tobytes()
    assert not found["atpatch_flagged"].any()
    data = {"input_ids": np.tile(data["input_ids"], 5), "attention_mask": np.ones((3, 25), np.int64)}
    assert live.run(["atpatch_flagged"], data)[0].any()


def test_a_decoder_is_still_refused_where_nothing_is_asked_for(path):
    with pytest.raises(AtpatchError) as caught:
        patch(onnx.load(path))
    assert caught.value.code == "ATP061"


@pytest.mark.parametrize(
    "options", [{"passes": "two"}, {"mend": "heal"}, {"benign": "zero"}, {"values": "own"}], ids=str
)
def test_options_of_other_repairs_are_refused(path, options):
    with pytest.raises(AtpatchError) as caught:
        patch(onnx.load(path), detector="smoothing", **options)
    assert caught.value.code == "ATP060"


@pytest.mark.parametrize("what", ["cross-attention", "a branch"])
def test_a_model_without_such_rows_is_refused(what):
    model = attention_block().model if what == "cross-attention" else merged_decoder()
    with pytest.raises(AtpatchError) as caught:
        patch(model, detector="smoothing")
    assert caught.value.code == "ATP023"


def test_its_threshold_goes_into_the_stamp(path):
    assert stamp(patch(onnx.load(path), detector="smoothing"))["threshold"] == "0.0"
    assert stamp(patch(onnx.load(path), detector="smoothing", threshold=2.5))["threshold"] == "2.5"
