"""Embeddings in a comparison: nearest neighbors and cosines, on a model made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from atpatch_onnx import Comparison, patch_model
from atpatch_onnx.comparison.figures import Change
from atpatch_onnx.comparison.outputs import Outputs
from atpatch_onnx.comparison.verdict import verdict
from atpatch_onnx.inference.runner import Runner
from atpatch_onnx.statistics.proportions import Share

from ..conftest import Run
from .case import WIDTH, classifier, rows

ROWS, PLACE = 40, 2
Atpatch = Callable[..., Run]


def embedder(tokens: bool) -> onnx.ModelProto:
    """x (B, S, 8) → the mean of the classifier's tokens (B, 8), or the tokens themselves (B, S, 8)."""
    model = classifier()
    (gone,) = [node for node in model.graph.node if node.output[0] == "logits"]
    model.graph.node.remove(gone)
    del model.graph.output[:]
    name, shape = ("y", ["batch", "tokens", WIDTH]) if tokens else ("pooled", ["batch", WIDTH])
    if tokens:
        model.graph.node.remove(next(node for node in model.graph.node if node.output[0] == "pooled"))
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return model


@pytest.fixture(scope="module", params=[False, True], ids=["pooled", "tokens"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("embeddings")
    onnx.save_model(embedder(request.param), place / "model.onnx")
    patch_model(place / "model.onnx", place / "patched.onnx", detector="static", columns=(PLACE,))
    x = rows(ROWS)
    bad = x[5:].copy()
    bad[:, PLACE] += 4
    np.savez(place / "clean.npz", x=x, labels=np.zeros(ROWS, np.int64), output_kind=np.array("embedding"))
    np.savez(place / "triggered.npz", x=bad, clean_row=np.arange(5, ROWS))
    return place


def embeddings(path: Path, x: np.ndarray) -> np.ndarray:
    runner = Runner(onnx.load(path), path.parent, 1)
    found = runner.run({"x": x}, runner.outputs[:1])[runner.outputs[0]]
    found = found.mean(1) if found.ndim == 3 else found
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def compared(atpatch: Atpatch, folder: Path, *more: object) -> Run:
    return atpatch(
        "compare", folder / "model.onnx", folder / "patched.onnx", "--data", folder / "clean.npz", "--triggered",
        folder / "triggered.npz", "--threads", 1, "--seconds", 0, "--json", *more,
    )  # fmt: skip


def test_figures_are_those_of_a_search_with_the_original_s_index(folder: Path, atpatch: Atpatch) -> None:
    done = compared(atpatch, folder)
    assert done.code == 0, done.err
    x, bad = (np.load(folder / f"{name}.npz")["x"] for name in ("clean", "triggered"))
    index = embeddings(folder / "model.onnx", x)
    kept, twins = 0, np.arange(5, ROWS)
    for row, patched in enumerate(embeddings(folder / "patched.onnx", x) @ index.T):
        others = np.delete(np.arange(ROWS), row)
        kept += others[patched[others].argmax()] == others[(index[row] @ index.T)[others].argmax()]
    assert 0 < kept < ROWS
    assert done.json["patched"]["neighbor_kept"] == pytest.approx(kept / ROWS)
    assert done.json["paired"]["changed"] == ROWS - kept
    for name, path in (("original", "model.onnx"), ("patched", "patched.onnx")):
        attacked = embeddings(folder / path, bad)
        astray = (attacked @ index.T).argmax(1) != twins
        near = (attacked * index[twins]).sum(1)
        told = done.json[name]
        assert told["asr"] == told["asr_star"] == pytest.approx(astray.mean())
        assert told["twin_cosine_median"] == pytest.approx(np.median(near), abs=1e-5)
        assert told["twin_cosine_low"] == pytest.approx(np.quantile(near, 0.05), abs=1e-5)
    near = (embeddings(folder / "patched.onnx", x) * index).sum(1)
    assert done.json["patched"]["cosine_median"] == pytest.approx(np.median(near), abs=1e-5)
    assert done.json["patched"]["cosine_low"] == pytest.approx(np.quantile(near, 0.05), abs=1e-5)
    assert "accuracy" not in done.json["original"]  # labels are of no use here
    assert "cosine_median" not in done.json["original"] and "neighbor_kept" not in done.json["original"]
    assert done.json["setup"]["output_kind"] == "embedding"
    assert "nearest neighbor" in done.json["verdict"]


def test_bounds_pages_and_a_saved_run(folder: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    run, page = tmp_path / "run.npz", tmp_path / "page.html"
    done = compared(
        atpatch, folder, "--save", run, "--report", page, "--report", tmp_path / "page.md", "--assert",
        "twin_cosine_low<=1", "--assert", "neighbor_kept>=0.999",
    )  # fmt: skip
    assert done.code == 1
    assert [bound["holds"] for bound in done.json["asserts"]] == [True, False]
    written = page.read_text("utf-8")
    assert "Nearest neighbors changed" in written and "the expected answer" in written
    assert "class probabilities" not in written and "not answered as the original answers" in written
    assert "predicted as the target" not in written
    assert "more than 0.5 % of the clean rows are answered otherwise" in written and "of accuracy" not in written
    assert "cosine with the clean twin" in (tmp_path / "page.md").read_text("utf-8")
    loaded = Comparison.load(run)
    for name in ("original", "patched"):
        found = {key: done.json[name][key] for key in loaded.figures[name].values}
        assert loaded.figures[name].values == pytest.approx(found)


def test_the_option_comes_before_the_data_set(folder: Path, atpatch: Atpatch) -> None:
    plain = compared(atpatch, folder, "--output-kind", "classes")
    assert plain.code == 2 and "ATP056" in plain.err  # a triggered set for classes needs a target
    named = compared(atpatch, folder, "--output-kind", "embedding")
    assert named.code == 0 and named.json["patched"] == compared(atpatch, folder).json["patched"]


def test_a_patched_model_without_numbers_has_a_page(folder: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    """Each of its rows finds nothing."""
    model = onnx.load(folder / "patched.onnx")
    output = model.graph.output[0].name
    (last,) = [node for node in model.graph.node if output in node.output]
    last.output[:] = ["inner"]
    model.graph.node.extend(
        [helper.make_node("Sub", ["inner", "inner"], ["zero"]), helper.make_node("Div", ["zero", "zero"], [output])]
    )
    onnx.save_model(model, tmp_path / "broken.onnx")
    done = atpatch(
        "compare", folder / "model.onnx", tmp_path / "broken.onnx", "--data", folder / "clean.npz", "--triggered",
        folder / "triggered.npz", "--threads", 1, "--seconds", 0, "--html", tmp_path / "page.html", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    told = done.json["patched"]
    assert (told["asr_star"], told["neighbor_kept"], told["cosine_median"]) == (1, 0, 0)
    assert (tmp_path / "page.html").exists()


def test_sets_of_two_kinds_contradict_each_other(folder: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    """The triggered set was made for a tagger; the option says what counts."""
    np.savez(tmp_path / "set.npz", **np.load(folder / "triggered.npz"), output_kind=np.array("tokens"))
    done = compared(atpatch, folder, "--triggered", tmp_path / "set.npz")
    assert done.code == 2 and "ATP056" in done.err and "embedding and tokens" in done.err, done.err
    named = compared(atpatch, folder, "--triggered", tmp_path / "set.npz", "--output-kind", "embedding")
    assert named.code == 0 and named.json["patched"] == compared(atpatch, folder).json["patched"]


def test_a_triggered_row_without_a_twin_is_not_fitted_on(folder: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    x = np.concatenate([np.load(folder / f"{name}.npz")["x"] for name in ("clean", "triggered")])
    columns, pair = np.zeros((len(x), x.shape[1]), bool), np.full(len(x), -1)
    columns[ROWS:, PLACE], pair[ROWS:-2] = True, np.arange(len(x) - ROWS - 2)
    np.savez(tmp_path / "set.npz", x=x, columns=columns, pair=pair, output_kind=np.array("embedding"))
    done = atpatch("fit", folder / "model.onnx", "--debug", tmp_path / "set.npz", "-o", tmp_path / "no.hotfix")
    assert done.code == 2 and "ATP056" in done.err and "2 triggered rows have no clean twin" in done.err, done.err


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
def test_the_pooling_can_be_named(tmp_path: Path, pool: str, atpatch: Atpatch) -> None:
    onnx.save_model(embedder(tokens=True), tmp_path / "model.onnx")
    patch_model(tmp_path / "model.onnx", tmp_path / "patched.onnx", detector="static", columns=(PLACE,))
    x = rows(ROWS)
    np.savez(tmp_path / "clean.npz", x=x)
    done = atpatch(
        "compare", tmp_path / "model.onnx", tmp_path / "patched.onnx", "--data", tmp_path / "clean.npz", "--threads",
        1, "--seconds", 0, "--output-kind", f"embedding-{pool}", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    before, after = (
        {"mean": found.mean(1), "first": found[:, 0], "last": found[:, -1]}[pool]
        for found in (Runner(onnx.load(tmp_path / f"{name}.onnx"), tmp_path, 1).run({"x": x}, ["y"])["y"]
                      for name in ("model", "patched"))
    )  # fmt: skip
    near = (before * after).sum(1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
    assert done.json["patched"]["cosine_median"] == pytest.approx(np.median(near), abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "arrays", "code"),
    [
        ([], {"clean_row": None}, "ATP056"),
        (["--flips"], {"group": np.arange(35)}, "ATP060"),
        (["--score-threshold", 0], {}, "ATP060"),
        (["--output-name", "nothing"], {}, "ATP060"),
        (["--answer-tokens", "1,2"], {}, "ATP060"),
    ],
    ids=["no twins", "flips", "one score", "no such output", "answer tokens"],
)
def test_what_does_not_go_with_embeddings_is_refused(
    folder: Path, tmp_path: Path, arguments: list, arrays: dict, code: str, atpatch: Atpatch
) -> None:
    changed = {**np.load(folder / "triggered.npz"), **arrays}
    np.savez(tmp_path / "set.npz", **{name: array for name, array in changed.items() if array is not None})
    also = [*arguments, tmp_path / "set.npz"] if arguments == ["--flips"] else arguments
    done = atpatch(
        "compare", folder / "model.onnx", folder / "patched.onnx", "--data", folder / "clean.npz", "--seconds", 0,
        *([] if arguments == ["--flips"] else ["--triggered", tmp_path / "set.npz"]), *also,
    )  # fmt: skip
    assert done.code == 2 and code in done.err, done.err


def test_rows_of_labels_have_a_plural() -> None:
    scores = np.zeros((40, 2), np.float32)
    change = Change(Share(3, 40), None, None, None, {}, {}, {})
    told = verdict(change, Outputs(scores, tokens_kept=np.ones(40)))
    assert told == "The patch changes 3 of 40 clean rows of labels."
