"""`export` into a folder: the graphs and files that Optimum and transformers.js look for, and generation with them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from atpatch_onnx.exporters.exporter import export
from atpatch_onnx.exporters.quiet import quiet
from atpatch_onnx.inference.sessions import session
from models.exports.families import ROWS
from models.exports.tiny import save_model

BY_NAME = {row.name: row for row in ROWS}
STEPS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("huggingface")


def source(name: str, folder: Path) -> Path:
    with quiet():
        made = save_model(BY_NAME[name], folder)
    (made / "tokenizer.json").write_text("{}")
    return made


def test_an_encoder_decoder_generates_as_torch_does(folder, tmp_path, atpatch):
    model = source("bart encoder", folder)
    run = atpatch("export", model, "-o", f"{tmp_path}/served/", "--exporter", "torchscript", "--json")
    assert run.code == 0, run.err
    assert [(one["file"], len(one["sites"])) for one in run.json["files"]] == [
        ("encoder_model.onnx", 2),
        ("decoder_model.onnx", 4),
        ("decoder_with_past_model.onnx", 4),
    ]
    copied = {"config.json", "generation_config.json", "tokenizer.json"}
    assert copied <= set(run.json["copied"]) <= set(os.listdir(tmp_path / "served"))
    assert atpatch("patch", tmp_path / "served", "--detector", "static", "--columns", "none").code == 0

    tokens = np.random.default_rng(0).integers(3, 90, (2, 7))
    mask = np.ones_like(tokens)
    start = int(json.loads((model / "config.json").read_text())["decoder_start_token_id"])
    with quiet():
        net = transformers.BartForConditionalGeneration.from_pretrained(model).eval()
    answer = torch.full((2, 1), start)
    for _ in range(STEPS):
        with torch.no_grad():
            logits = net(torch.from_numpy(tokens), torch.from_numpy(mask), decoder_input_ids=answer).logits
        answer = torch.cat([answer, logits[:, -1:].argmax(-1)], 1)
    for served in ("served", "served.patched"):
        assert loop(tmp_path / served, tokens, mask, start).tolist() == answer.tolist()


def loop(folder: Path, tokens: np.ndarray, mask: np.ndarray, start: int) -> np.ndarray:
    """Greedy answers, one step at a time, with the cache that the decoders hand on."""
    encoder, first, later = (
        session(folder / name) for name in ("encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx")
    )
    states = encoder.run(None, {"input_ids": tokens, "attention_mask": mask})[0]
    answer = np.full((len(tokens), 1), start)
    feeds = {"input_ids": answer, "encoder_hidden_states": states, "encoder_attention_mask": mask}
    cache: dict[str, np.ndarray] = {}
    for step in range(STEPS):
        live = first if step == 0 else later
        names = [value.name for value in live.get_outputs()]
        wanted = {value.name for value in live.get_inputs()}
        given = {**feeds, **cache, "input_ids": answer[:, -1:]}
        out = dict(zip(names, live.run(names, {name: given[name] for name in wanted}), strict=True))
        cache |= {name.replace("present", "past_key_values"): value for name, value in out.items() if name != "logits"}
        answer = np.concatenate([answer, out["logits"][:, -1:].argmax(-1)], 1)
    return answer


def test_a_causal_language_model_has_its_cache(folder, tmp_path):
    (tmp_path / "served").mkdir()
    done = export(source("llama", folder), f"{tmp_path}/served/", exporter="torchscript")
    assert [one.file for one in done.files] == ["model.onnx"] and "past_key_values.0.key" in done.inputs
    assert {"config.json", "model.onnx", "tokenizer.json"} <= set(os.listdir(tmp_path / "served"))


def test_a_decoder_with_a_head_of_classes(folder, tmp_path):
    from models.exports.tiny import _widen

    config = transformers.LlamaConfig(**{**BY_NAME["llama"].config, "num_labels": 3, "pad_token_id": 0})
    torch.manual_seed(0)
    model = transformers.LlamaForSequenceClassification(config).eval()
    _widen(model)
    with quiet():
        model.save_pretrained(tmp_path / "llama")
    done = export(tmp_path / "llama", f"{tmp_path}/served/", exporter="torchscript")
    assert done.task == "text-classification" and done.outputs["logits"][1] == 3 and len(done.sites) == 2


@pytest.mark.parametrize(
    ("name", "output", "options", "code"),
    [
        ("llama", "full/", [], "ATP025"),
        ("llama", "missing/served/", [], "ATP019"),
        ("bart encoder", "served/", ["--task", "seq2seq-decoder"], "ATP060"),
        ("json:loads", "served/", [], "ATP060"),
        ("no-such-folder/", "served/", [], "ATP070"),
    ],
)
def test_refusals_leave_nothing(folder, tmp_path, atpatch, name, output, options, code):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/theirs").touch()
    model = source(name, folder) if name in BY_NAME else name
    run = atpatch("export", model, "-o", f"{tmp_path}/{output}", *options)
    assert code in run.err and os.listdir(tmp_path) == ["full"]
