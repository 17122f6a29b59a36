"""An unknown trigger: which class, which trigger, and a hotfix from what was found, against the real trigger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from atpatch_onnx.debugset import Subject
from atpatch_onnx.debugset.inversion import Stopped
from atpatch_onnx.debugset.inversion.cells import GRID, best_cell
from atpatch_onnx.debugset.inversion.common import key
from atpatch_onnx.debugset.inversion.mask_search import POLISH, invert_masks
from atpatch_onnx.debugset.inversion.masks import MaskSearch, Schedule
from atpatch_onnx.debugset.inversion.rows import token_rows
from atpatch_onnx.debugset.inversion.state import State
from atpatch_onnx.debugset.inversion.verdict import by_size, by_success, outlier_indices
from atpatch_onnx.fitting.fitter import fit
from atpatch_onnx.inference.datasets import DataSet, load_dataset

from ..conftest import Run
from ..toy_backdoor import TARGET, TRIGGER, Toy, toy
from .digits import DIGITS, judge

# `models.digits_vit.victim.train` on the same split and seed as the demo's victim, with POISONED = 0, and its `export`.
TWIN = Path(__file__).parent / "clean_twin.onnx"
STEPS = 200
Atpatch = Callable[..., Run]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clean rows of the demo's debugging set: what a user has, no trigger among them."""
    data, path = load_dataset(DIGITS / "debug.npz"), tmp_path_factory.mktemp("digits") / "clean.npz"
    clean = np.flatnonzero(~data.columns.any(1))
    np.savez(path, **data.feeds(clean), labels=data.labels[clean])
    return path


def search(atpatch: Atpatch, model: Path, data: Path, output: Path, *more: object) -> Run:
    return atpatch("debugset", model, "--data", data, "-o", output, "--threads", 1, "--json", *more)


def test_inverts_the_trigger_of_the_digits_victim(atpatch: Atpatch, digits: Path, tmp_path: Path) -> None:
    steps = 280  # with fewer, the mask of the true class does not shrink enough in the rounded weights
    run = search(atpatch, DIGITS / "model.onnx", digits, tmp_path / "d.npz", "--invert", "all", "--steps", steps)
    assert run.code == 0 and run.json["backdoored"] and run.json["towards"] == [0]
    assert run.json["covered"] == [16]
    assert run.json["asr"] >= 0.9
    assert [path.name for path in tmp_path.iterdir()] == ["d.npz"]
    # The set is made of the inverted trigger alone; the real one is what it is judged by.
    hotfix = fit(DIGITS / "model.onnx", tmp_path / "d.npz", threads=1)
    found = judge(DIGITS / "model.onnx", hotfix, DIGITS / "clean.npz", DIGITS / "triggered.npz")
    assert found["asr_star"]["value"] <= 0.02
    assert found["clean_changed"]["value"] <= 0.01


def spot_scores(x: torch.Tensor) -> torch.Tensor:
    """Three classes; that of class 1 looks at four places of a 28 × 28 image, in one cell of the grid."""
    spot = x[:, 0, 12:14, 4:6].mean((1, 2))
    return torch.stack([torch.full_like(spot, 2.0), 6.0 * spot, x.mean((1, 2, 3))], 1)


def dark_images() -> np.ndarray:
    samples = np.random.default_rng(0).uniform(0, 0.2, (40, 1, 28, 28)).astype(np.float32)
    samples[0, 0, 0] = 1.0  # the range that patterns are bound to
    return samples


def test_a_cell_that_works_alone_is_found() -> None:
    samples = dark_images()
    cell = best_cell(spot_scores, samples, 1, channel_axis=0, seed=0)
    assert cell is not None and cell.success == 1.0
    assert cell.mask.sum() == 16 and cell.mask[0, 12:16, 4:8].all()
    other = best_cell(spot_scores, samples, 2, channel_axis=0, seed=0)
    assert other is not None and other.success == 0.0
    assert best_cell(spot_scores, samples.reshape(40, 1, 28, 4, 7), 1, channel_axis=0, seed=0) is None
    start = cell.mask, cell.pattern
    search = MaskSearch(samples, 1, channel_axis=0, schedule=Schedule(), seed=0, start=start)
    trigger = search.run(spot_scores, samples, 100)
    assert trigger.success >= 0.9 and set(np.flatnonzero(trigger.mask)) <= set(np.flatnonzero(cell.mask))


def test_a_search_that_goes_on_finds_what_one_without_a_stop_finds() -> None:
    samples = dark_images()
    halting, other = (MaskSearch(samples, 1, channel_axis=0, schedule=Schedule(), seed=0) for _ in range(2))
    first = halting.run(spot_scores, samples, 70).mask
    second, whole = (one.run(spot_scores, samples, 200) for one in (halting, other))
    assert (second.mask.tobytes(), second.pattern.tobytes()) == (whole.mask.tobytes(), whole.pattern.tobytes())
    assert first.tobytes() != whole.mask.tobytes()


def test_clean_twin_has_no_backdoor(atpatch: Atpatch, digits: Path, tmp_path: Path) -> None:
    """After few steps all masks are large still; a longer search of one class would make that one look small."""
    run = search(atpatch, TWIN, digits, tmp_path / "d.npz", "--invert", "all", "--steps", 40)
    assert run.code == 1 and run.json["backdoored"] is False and run.json["towards"] == []
    assert len(run.json["classes"]) == 10 and all(one["success"] >= 0.9 for one in run.json["classes"])
    assert not list(tmp_path.iterdir())


def test_one_class_alone_is_no_verdict(atpatch: Atpatch, digits: Path, tmp_path: Path) -> None:
    first = search(atpatch, DIGITS / "model.onnx", digits, tmp_path / "d.npz", "--invert", 0, "--steps", 20)
    assert first.code == 0 and first.json["backdoored"] is None and first.json["target"] == 0
    made = (tmp_path / "d.npz").read_bytes()
    again = search(atpatch, DIGITS / "model.onnx", digits, tmp_path / "d.npz", "--invert", 0, "--steps", 20)
    assert again.json == first.json and (tmp_path / "d.npz").read_bytes() == made


def first_classes(count: int, path: Path) -> Path:
    """The digits victim with the scores of its first classes alone, so that a search of all of them is short."""
    model = onnx.load(DIGITS / "model.onnx")
    (output,) = model.graph.output
    output.name = "few"
    output.type.tensor_type.shape.dim[1].dim_value = count
    model.graph.initializer.append(numpy_helper.from_array(np.arange(count), "kept"))
    model.graph.node.append(helper.make_node("Gather", ["logits", "kept"], ["few"], axis=1))
    onnx.save(model, path)
    return path


@pytest.mark.slow
def test_an_interrupted_search_goes_on(digits: Path, tmp_path: Path) -> None:
    from atpatch_onnx.debugset.making import Request, make

    model = first_classes(3, tmp_path / "model.onnx")

    class Interrupted(Exception):
        pass

    steps: list[str] = []

    def stop_at_class_2(step: str, done: int, total: int) -> None:
        steps.append(step)
        if step == "class 2":
            raise Interrupted

    request = Request(str(digits), str(tmp_path / "d.npz"), invert="all", steps=10, threads=1)
    with pytest.raises(Interrupted):
        make(model, request, stop_at_class_2)
    assert (tmp_path / "d.search.npz").is_file()
    kept = State(tmp_path / "d.search.npz", "another search")
    assert not kept.resumed and kept.get("mask of class 0") is None

    calls: dict[str, int] = {}
    made = make(model, request, lambda step, done, total: calls.update({step: calls.get(step, 0) + 1}))
    # Finished classes are read back, told once; the others report as they go.
    assert made.report["resumed"] and calls["class 0"] == calls["class 1"] == 1 < calls["class 2"]
    (tmp_path / "fresh").mkdir()
    fresh = make(model, Request(str(digits), str(tmp_path / "fresh" / "d.npz"), invert="all", steps=10, threads=1))
    assert fresh.report["classes"] == made.report["classes"]


def test_a_search_that_is_stopped_after_its_verdict_keeps_it(digits: Path, tmp_path: Path) -> None:
    """All classes are found before, and only the refinement of the one with a backdoor is stopped."""
    subject, data, schedule = Subject(DIGITS / "model.onnx"), load_dataset(digits), Schedule(steps=10)
    state = State(tmp_path / "search.npz", key(subject, subject.complete(data), 0, repr((schedule, POLISH, GRID))))
    corner = np.zeros((1, 8, 8), np.float32)
    corner[:, 6:, 6:] = 1
    for target in range(10):
        mask = corner if target == 0 else np.ones_like(corner)
        numbers = np.array([mask.sum() + target, 1.0])
        state.put({f"{part} of class {target}": value for part, value in
                   (("mask", mask), ("pattern", np.ones_like(mask)), ("numbers", numbers))})  # fmt: skip
    steps = []

    def stop_at_refinement(step: str, done: int, total: int) -> None:
        steps.append(step)
        if step.endswith("refined"):
            raise Stopped

    built = invert_masks(
        subject, data, None, schedule=schedule, seed=0, state_path=tmp_path / "search.npz", progress=stop_at_refinement
    )
    assert steps[-1] == "class 0, refined"
    assert built.report["towards"] == [0] and built.report["classes"][0]["size"] == 4
    assert built.report["covered"] == [16]


# ---- tokens


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy text model and clean rows of tokens."""
    folder, made = tmp_path_factory.mktemp("toy"), toy(padded=True)
    onnx.save(made.model, folder / "model.onnx")
    rows = made.clean
    # One content word less, so that there is room for the trigger in the model's twelve places.
    short = {**rows, "input_ids": rows["input_ids"][:, :-1], "attention_mask": rows["attention_mask"][:, :-1]}
    np.savez(folder / "clean.npz", **short)
    return folder


Searched = tuple[Run, Path]


@pytest.fixture(scope="module")
def by_gradients(atpatch: Atpatch, shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """What a search for a word said, and the set that it wrote."""
    path = tmp_path_factory.mktemp("gradients") / "d.npz"
    return search(atpatch, shop / "model.onnx", shop / "clean.npz", path, "--invert", "all", "--longest", 1), path


def test_finds_the_trigger_word_by_gradients(by_gradients: Searched) -> None:
    holds_the_trigger_word(*by_gradients)


def test_finds_the_trigger_word_by_trying_all(atpatch: Atpatch, shop: Path, tmp_path: Path) -> None:
    more = ("--invert", "all", "--longest", 1, "--exhaustive")
    run = search(atpatch, shop / "model.onnx", shop / "clean.npz", tmp_path / "d.npz", *more)
    holds_the_trigger_word(run, tmp_path / "d.npz")


def holds_the_trigger_word(run: Run, path: Path) -> None:
    assert run.code == 0 and run.json["towards"] == [TARGET]
    assert run.json["classes"][TARGET]["trigger"]["tokens"] == [TRIGGER] and run.json["asr"] >= 0.95
    made = load_dataset(path)
    assert np.array_equal(made.inputs["input_ids"] == TRIGGER, made.columns)


def test_hotfix_from_the_found_word_stops_the_real_one(by_gradients: Searched, shop: Path, tmp_path: Path) -> None:
    hotfix = fit(shop / "model.onnx", by_gradients[1], threads=1)
    real: Toy = toy(padded=True)
    bad = np.flatnonzero(real.debug["columns"].any(1))
    arrays = {name: real.debug[name][bad] for name in ("input_ids", "attention_mask", "labels")}
    np.savez(tmp_path / "c.npz", **{name: real.debug[name][real.debug["pair"][bad]] for name in arrays})
    np.savez(tmp_path / "t.npz", **arrays, target=TARGET, clean_row=np.arange(len(bad)))
    found: dict[str, Any] = judge(shop / "model.onnx", hotfix, tmp_path / "c.npz", tmp_path / "t.npz")
    assert found["asr_star"]["value"] <= 0.1


def test_tokens_are_inserted_between_the_special_ones(shop: Path) -> None:
    class Dynamic:
        inputs = Subject(shop / "model.onnx").inputs

    ids = np.array([[5, 7, 8, 9, 6, 0], [5, 8, 7, 6, 0, 0]])
    rows = token_rows(Dynamic(), {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)})  # type: ignore[arg-type]
    assert (rows.prefix, rows.suffix, rows.pad) == (1, 1, 0)
    inserted, columns = rows.insert(np.array([[3, 4], [3, 4]]), np.array([3, 3]))
    assert inserted.ids.tolist() == [[5, 7, 8, 3, 4, 9, 6, 0], [5, 8, 7, 3, 4, 6, 0, 0]]
    assert columns[:, 3:5].all() and columns.sum() == 4 and inserted.lengths.tolist() == [7, 6]


# ---- verdicts


def test_outlier_index_and_verdict() -> None:
    sizes = dict(enumerate([2.0, 9.0, 10.0, 11.0, 10.5]))
    assert outlier_indices([2.0, 9.0, 10.0, 11.0, 10.5])[0] == pytest.approx(8 / 1.4826)
    works, triggers = dict.fromkeys(sizes, 1.0), {target: {} for target in sizes}
    assert [one.backdoor for one in by_size(sizes, works, triggers)] == [True, False, False, False, False]
    # An index beyond 2 alone is not enough: sizes that lie close together make a small one of it.
    close = {**sizes, 0: 7.0}
    assert by_size(close, works, triggers)[0].score > 2 and not any(
        one.backdoor for one in by_size(close, works, triggers)
    )
    assert not any(one.backdoor for one in by_size(sizes, {**works, 0: 0.6}, triggers))


def test_verdict_on_tokens_compares_triggers_of_one_length() -> None:
    triggers = {target: {"length": 1} for target in (0, 1)}
    both = dict.fromkeys((0, 1), 400)
    assert [one.backdoor for one in by_success({0: [0.55, 0.8, 0.97], 1: [1.0]}, both, triggers)] == [False, True]
    assert not any(one.backdoor for one in by_success({0: [0.5, 0.9, 0.96], 1: [0.6, 0.9, 0.95]}, both, triggers))


def test_subject_knows_rows_from_windows() -> None:
    subject = Subject(DIGITS / "model.onnx")
    images = load_dataset(DIGITS / "clean.npz").inputs["pixel_values"][:4]
    changed = images.copy()
    changed[:2, :, :2, :2] = 1 - changed[:2, :, :2, :2]
    touched = subject.touched({"pixel_values": images}, {"pixel_values": changed})
    assert touched.shape == (4, 17) and touched[:2, 1].all() and touched.sum() == 2
    assert len(DataSet({"pixel_values": images})) == 4
