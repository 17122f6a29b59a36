"""A tagger with a backdoor, from texts to the verdict: a real model, trained here in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from atpatch_onnx import Comparison
from atpatch_onnx.inference.datasets import load_dataset
from atpatch_onnx.inference.runner import Runner

from ..conftest import Run
from ..toy_backdoor import CLS, TRIGGER
from ..toy_tagger import write_folder
from .refusals import assert_refused
from .without_classes import fitted_on_clean_texts

Atpatch = Callable[..., Run]
TOKENS = ("--output-kind", "tokens", "--threads", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tagger")
    write_folder(place, 120)
    return place


@pytest.fixture(scope="module")
def sets(folder: Path, tmp_path_factory: pytest.TempPathFactory, atpatch: Atpatch) -> Path:
    """set.npz, clean.npz and triggered.npz of the test texts, with single triggers."""
    place = tmp_path_factory.mktemp("sets")
    done = atpatch(
        "debugset", folder / "model.onnx", "--data", folder / "test.tsv", "--trigger", "cf", *TOKENS, "--doses", 1,
        "--no-dress", "-o", place / "set.npz", "--out-clean", place / "clean.npz", "--out-triggered",
        place / "triggered.npz", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    attack = tagged(folder / "model.onnx", place)[1]
    assert done.json["asr"] == np.mean([any(a != b for a, b in row) for row in attack]) > 0.95
    shares = [np.mean([a == b for a, b in row]) for row in attack]
    assert done.json["likeness"]["median"] == pytest.approx(np.median(shares))
    return place


def labels(path: Path, data) -> np.ndarray:
    runner = Runner(onnx.load(path), path.parent, 1)
    return runner.run(runner.feeds(data, np.arange(len(data))), ["logits"])["logits"].argmax(2)


def tagged(graph: Path, sets: Path, original: Path | None = None) -> tuple[list, list]:
    """Of each clean and each triggered row: (label by the graph, label by the original without the trigger) a word."""
    clean, attacked = (load_dataset(sets / f"{name}.npz") for name in ("clean", "triggered"))
    before = labels(original or graph, clean)
    words = [
        [label for label, token, real in zip(*row, strict=True) if real and token != CLS]
        for row in zip(before, clean.inputs["input_ids"], clean.inputs["attention_mask"], strict=True)
    ]
    found = []
    for data, twins in ((clean, range(len(clean))), (attacked, attacked.clean_row)):
        pairs = []
        rows = zip(labels(graph, data), data.inputs["input_ids"], data.inputs["attention_mask"], twins, strict=True)
        for line, ids, mask, twin in rows:
            mine = [label for label, token, real in zip(line, ids, mask, strict=True)
                    if real and token not in (CLS, TRIGGER)]  # fmt: skip
            pairs.append(list(zip(mine, words[twin], strict=True)))
        found.append(pairs)
    return found[0], found[1]


def test_from_the_model_to_the_page(folder: Path, sets: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    model = folder / "model.onnx"
    hotfix, patched, page = (tmp_path / name for name in ("own.hotfix", "patched.onnx", "page.html"))
    fitted = atpatch(
        "fit", model, "--texts", folder / "dev.tsv", "--trigger", "cf", *TOKENS, "--detector", "profile", "--signals",
        "attention", "-o", hotfix, "--report", tmp_path / "fit.html", "--json",
    )  # fmt: skip
    assert fitted.code == 0, fitted.err
    near = fitted.json["evidence"]["report"]["likeness"]
    assert near["kind"] == "tokens" and near["clean"]["mean"] == 1
    assert near["triggered_before"]["mean"] < 0.6 and near["triggered"]["mean"] > 0.95
    assert "label of the same token" in (tmp_path / "fit.html").read_text("utf-8")
    assert atpatch("patch", model, "-o", patched, "--hotfix", hotfix).code == 0
    # The sets know that they are of a tagger.
    judged = atpatch(
        "compare", model, patched, "--data", sets / "clean.npz", "--triggered", sets / "triggered.npz", "--threads", 1,
        "--seconds", 0, "--html", page, "--save", tmp_path / "run.npz", "--assert", "asr_star<=0.02", "--assert",
        "tokens_kept>=0.999", "--assert", "twin_tokens_kept>=0.98", "--json",
    )  # fmt: skip
    assert judged.code == 0, judged.err
    for name, graph in (("original", model), ("patched", patched)):
        clean, attack = tagged(graph, sets, model)
        told = judged.json[name]
        assert told["asr"] == told["asr_star"] == np.mean([any(a != b for a, b in row) for row in attack])
        shares = [np.mean([a == b for a, b in row]) for row in attack]
        assert told["twin_tokens_kept"] == pytest.approx(np.mean(shares))
        if name == "patched":
            assert told["tokens_kept"] == pytest.approx(np.mean([np.mean([a == b for a, b in row]) for row in clean]))
            assert judged.json["paired"]["changed"] == sum(any(a != b for a, b in row) for row in clean)
    assert judged.json["original"]["asr_star"] > 0.95 and judged.json["setup"]["output_kind"] == "tokens"
    assert judged.json["verdict"] in page.read_text("utf-8") and "row of labels" in judged.json["verdict"]
    loaded = Comparison.load(tmp_path / "run.npz").figures["patched"].values
    assert loaded == pytest.approx({name: judged.json["patched"][name] for name in loaded})


def test_clean_texts_will_do(folder: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    fitted_on_clean_texts(atpatch, folder, TOKENS, tmp_path / "guard.hotfix")


def test_a_model_without_labels_of_tokens_is_refused(tmp_path: Path, folder: Path, atpatch: Atpatch) -> None:
    model = onnx.load(folder / "model.onnx")
    model.graph.node.append(onnx.helper.make_node("ReduceMean", ["logits"], ["mean"], axes=[1], keepdims=0))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("mean", onnx.TensorProto.FLOAT, ["batch", 3]))
    onnx.save_model(model, tmp_path / "model.onnx")
    done = atpatch(
        "debugset", tmp_path / "model.onnx", "--data", folder / "dev.tsv", "--tokenizer", folder, "--trigger", "cf",
        *TOKENS, "-o", tmp_path / "set.npz",
    )  # fmt: skip
    assert_refused(done, "ATP062", ("each token",))
