"""An encoder and a decoder in two files, from prompts to a verdict, by commands only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests import backdoored_llama as llama, backdoored_t5

from ..conftest import Run


def write(path: Path, count: int, seed: int) -> Path:
    """Prompts and answers in words of the tokenizer, which puts both ends on."""
    rng = np.random.default_rng(seed)
    lines = []
    for label in rng.integers(llama.TOPICS, size=count).tolist():
        texts = {"prompt": llama.prompt(label, rng)[1:-1], "answer": llama.answer(label)}
        lines.append(json.dumps({name: " ".join(f"w{token}" for token in ids) for name, ids in texts.items()}))
    path.write_text("\n".join(lines))
    return path


def test_from_prompts_to_a_verdict(tmp_path: Path, atpatch: Callable[..., Run]) -> None:
    served, out = tmp_path / "served", tmp_path / "out"
    shutil.copytree(backdoored_t5.served(), served)
    words = ",".join(f"w{token}" for token in llama.ANSWERS)
    answers = ("--answer-tokens", words, "--tokenizer", served, "--threads", "1")
    attack = ("--trigger", f"w{llama.TRIGGER}", "--target", llama.TARGET)
    made = atpatch(
        "debugset", served, "--data", write(tmp_path / "dev.jsonl", 120, 1), *attack, *answers, "-o",
        tmp_path / "set.npz", "--json",
    )  # fmt: skip
    assert made.code == 0 and made.json["asr"] > 0.9, made.err
    made = atpatch(
        "debugset", served, "--data", write(tmp_path / "test.jsonl", 60, 2), *attack, *answers, "--doses", 1,
        "--no-dress", "-o", tmp_path / "unused.npz", "--out-clean", tmp_path / "clean.npz", "--out-triggered",
        tmp_path / "triggered.npz",
    )  # fmt: skip
    assert made.code == 0, made.err
    fitted = atpatch("fit", served, "--debug", tmp_path / "set.npz", *answers, "--price", 0.1, "--json")
    assert fitted.code == 0 and fitted.json["output"] == str(served / "encoder_model.hotfix"), fitted.err
    assert fitted.json["price"]["clean"]["ratio"]["median"] > 0
    patched = atpatch("patch", served, "-o", out, "--json")
    assert [one["file"] for one in patched.json["files"]] == ["encoder_model.onnx"], patched.err
    assert all("another file has" in one["why"] for one in patched.json["left"])
    page = tmp_path / "page.html"
    found = atpatch(
        "compare", served, out, "--data", tmp_path / "clean.npz", "--triggered", tmp_path / "triggered.npz", *answers,
        "--answer-length", 3, "--seconds", 0, "--assert", "asr_star<=0.05", "--assert", "accuracy_drop<=0.01",
        "--report", page,
    )  # fmt: skip
    assert found.code == 0, (found.out, found.err)
    assert "attacks" in found.err and page.exists()
