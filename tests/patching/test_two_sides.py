"""Encoder and decoder as two files: each is repaired by itself, and it is said what that leaves."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest

from atpatch_onnx import export
from atpatch_onnx.inference.sessions import session
from tests.merged import seq2seq

WIDTH, TOKENS, COLUMN = 32, 5, 2
HEAL = ("--detector", "static", "--columns", COLUMN, "--mend", "heal")


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Optimum writes it: an encoder, a decoder, and a decoder with a cache."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5")
    sizes = {"d_model": WIDTH, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 99}
    with torch.random.fork_rng(), contextlib.redirect_stderr(io.StringIO()):
        torch.manual_seed(0)
        config = T5Config(**sizes, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
        T5ForConditionalGeneration(config).save_pretrained(folder / "hf")
        export(folder / "hf", f"{folder / 'served'}/", exporter="torchscript")
    return folder / "served"


def first_step(path: Path) -> dict[str, np.ndarray]:
    rng, run = np.random.default_rng(0), session(path, threads=1)
    feeds = {
        "input_ids": rng.integers(3, 99, (2, TOKENS)),
        "encoder_hidden_states": rng.normal(size=(2, 7, WIDTH)).astype(np.float32),
        "encoder_attention_mask": np.ones((2, 7), np.int64),
    }
    names = [value.name for value in run.get_outputs()]
    return dict(zip(names, run.run(names, feeds), strict=True))


def test_the_decoders_own_keys_are_healed_and_those_of_the_encoders_states_are_not(t5, tmp_path, atpatch) -> None:
    done = atpatch("patch", t5, "-o", tmp_path / "out", *HEAL, "--json")
    files = [one["file"] for one in done.json["files"]]
    assert files == ["decoder_model.onnx", "decoder_with_past_model.onnx", "encoder_model.onnx"]
    said = " ".join(done.err.split())
    assert "in place of tokens that encoder_model.onnx flags, cross attention reads the states of their" in said
    assert "in decoder_model.onnx, decoder_with_past_model.onnx the keys of the answer's own tokens" in said
    before, after = (first_step(folder / "decoder_model.onnx") for folder in (t5, tmp_path / "out"))
    for layer in range(2):
        own, cross = f"present.{layer}.decoder.value", f"present.{layer}.encoder.value"
        assert after[cross].tobytes() == before[cross].tobytes()
        assert not np.allclose(after[own][:, :, COLUMN], before[own][:, :, COLUMN], atol=1e-3)
    np.testing.assert_array_equal(
        after["present.0.decoder.value"][:, :, COLUMN], before["present.0.decoder.value"][:, :, COLUMN - 1]
    )
    assert atpatch("unpatch", tmp_path / "out", "-o", tmp_path / "back").code == 0
    assert all((tmp_path / "back" / name).read_bytes() == (t5 / name).read_bytes() for name in files)


@pytest.mark.parametrize(
    ("file", "said", "unsaid"),
    [
        ("encoder_model.onnx", "cross attention reads the states of their neighbors", "answer's own tokens"),
        ("decoder_model.onnx", "the encoder is not patched", "is not told of it"),
    ],
)
def test_one_side_by_itself(t5, tmp_path, atpatch, file: str, said: str, unsaid: str) -> None:
    done = atpatch("patch", t5, "-o", tmp_path / "out", *HEAL, "--file", file)
    assert done.code == 0 and said in " ".join(done.err.split()) and unsaid not in " ".join(done.err.split())


def test_an_encoder_of_sound_is_left_and_the_decoders_are_healed(tmp_path, atpatch) -> None:
    done = atpatch("patch", seq2seq("whisper"), "-o", tmp_path / "out", *HEAL, "--json")
    assert sorted(one["file"] for one in done.json["files"]) == [
        "decoder_model.onnx",
        "decoder_model_merged.onnx",
        "decoder_with_past_model.onnx",
    ]
    (left,) = done.json["left"]
    assert left["file"] == "encoder_model.onnx" and left["why"].startswith("ATP023: keys and values cannot be healed")
    assert "the encoder is not patched" in " ".join(done.err.split())
    alone = atpatch("patch", seq2seq("whisper"), "-o", tmp_path / "no", *HEAL, "--file", "encoder_model.onnx")
    assert alone.code == 2 and "ATP023" in alone.err and not (tmp_path / "no").exists()


def test_without_a_hotfix_only_the_encoder_is_patched_and_both_are_said(t5, tmp_path, atpatch) -> None:
    done = atpatch("patch", t5, "-o", tmp_path / "out", "--calibration-rows", 200, "--json")
    assert [one["file"] for one in done.json["files"]] == ["encoder_model.onnx"]
    assert {one["file"]: one["why"][:6] for one in done.json["left"]} == {
        "decoder_model.onnx": "ATP061",
        "decoder_with_past_model.onnx": "ATP061",
    }
    assert "the decoder is not told of it" in " ".join(done.err.split())


def test_inspect_says_it(t5, atpatch) -> None:
    assert "encoder and decoder are separate files" in " ".join(atpatch("inspect", t5).err.split())
