"""An unknown trigger: which class, which trigger, and a hotfix from what was found, against the real trigger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from atpatch_onnx.debugset import Subject
from atpatch_onnx.debugset.gradients import TorchGraph
from atpatch_onnx.debugset.inversion import Stopped
from atpatch_onnx.debugset.inversion.cells import GRID, best_cell
from atpatch_onnx.debugset.inversion.common import key
from atpatch_onnx.debugset.inversion.mask_search import POLISH, invert_masks
from atpatch_onnx.debugset.inversion.masks import Schedule, invert_mask
from atpatch_onnx.debugset.inversion.rows import token_rows
from atpatch_onnx.debugset.inversion.state import State
from atpatch_onnx.debugset.inversion.verdict import by_size, by_success, outlier_indices
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.fitting.fitter import fit
from atpatch_onnx.inference.datasets import DataSet, load_dataset
from atpatch_onnx.inference.sessions import session

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


def test_a_cell_that_works_alone_is_found() -> None:
    """Scores that look at four places of a 28 × 28 image, in one cell of the grid."""

    def scores(x: torch.Tensor) -> torch.Tensor:
        spot = x[:, 0, 12:14, 4:6].mean((1, 2))
        return torch.stack([torch.full_like(spot, 2.0), 6.0 * spot, x.mean((1, 2, 3))], 1)

    samples = np.random.default_rng(0).uniform(0, 0.2, (40, 1, 28, 28)).astype(np.float32)
    samples[0, 0, 0] = 1.0  # the range that patterns are bound to
    cell = best_cell(scores, samples, 1, channel_axis=0, seed=0)
    assert cell is not None and cell.success == 1.0
    assert cell.mask.sum() == 16 and cell.mask[0, 12:16, 4:8].all()
    other = best_cell(scores, samples, 2, channel_axis=0, seed=0)
    assert other is not None and other.success == 0.0
    assert best_cell(scores, samples.reshape(40, 1, 28, 4, 7), 1, channel_axis=0, seed=0) is None
    trigger = invert_mask(
        scores, samples, 1, channel_axis=0, schedule=Schedule(steps=100), seed=0, start=(cell.mask, cell.pattern)
    )
    assert trigger.success >= 0.9 and set(np.flatnonzero(trigger.mask)) <= set(np.flatnonzero(cell.mask))


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


# ---- verdicts and gradients


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


def test_gradients_of_the_graph_are_those_of_differences() -> None:
    graph, subject = TorchGraph(onnx.load(DIGITS / "model.onnx"), DIGITS), Subject(DIGITS / "model.onnx")
    image = load_dataset(DIGITS / "clean.npz").inputs["pixel_values"][:1]
    x = torch.from_numpy(image).requires_grad_()
    score = graph.run({"pixel_values": x}, ["logits"])["logits"][0, 3]
    score.backward()
    step = np.random.default_rng(0).normal(size=image.shape).astype(np.float32)
    step *= 0.02 / np.linalg.norm(step)
    ahead, behind = (subject.scores({"pixel_values": image + sign * step})[0, 3] for sign in (1, -1))
    assert float((x.grad * torch.from_numpy(step)).sum()) == pytest.approx((ahead - behind) / 2, rel=0.02, abs=1e-5)


def test_unknown_operators_are_named() -> None:
    node = helper.make_node("FusedThing", ["x"], ["y"], domain="com.example")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 3]) for name in "xy"]
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    with pytest.raises(AtpatchError, match=r"ATP082.*com\.example\.FusedThing"):
        TorchGraph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), Path())


OPERATORS: list[tuple[str, list[np.ndarray], dict[str, Any]]] = [
    ("Slice", [np.ones((2, 3, 4), np.float32).cumsum(2), np.array([-1, 3]), np.array([-99, 0]), np.array([1, 2]),
    np.array([-1, -2])], {}),
    ("Split", [np.arange(10.0, dtype=np.float32).reshape(2, 5), np.array([2, 3])], {"axis": 1}),
    ("Gather", [np.arange(12.0, dtype=np.float32).reshape(3, 4), np.array([[-1, 0], [2, 1]])], {"axis": 1}),
    ("ReduceMean", [np.arange(12.0, dtype=np.float32).reshape(3, 4)], {"axes": [-1], "keepdims": 0}),
    ("CumSum", [np.arange(6.0, dtype=np.float32), np.array(0)], {"exclusive": 1, "reverse": 1}),
    ("Div", [np.array([7, -7]), np.array([2, 2])], {}),
    ("Mod", [np.array([7, -7]), np.array([3, 3])], {}),
    ("Trilu", [np.ones((3, 3), np.float32), np.array(1)], {"upper": 0}),
    ("Conv", [np.ones((1, 1, 5, 5), np.float32), np.ones((1, 1, 3, 3), np.float32)], {"auto_pad": "SAME_UPPER",
    "strides": [2, 2]}),
    ("MaxPool", [np.arange(16.0, dtype=np.float32).reshape(1, 1, 4, 4)], {"kernel_shape": [3, 3], "pads": [1, 1, 1,
    1], "strides": [2, 2]}),
    ("AveragePool", [np.ones((1, 1, 4, 4), np.float32)], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("Pad", [np.ones((2, 3), np.float32), np.array([0, 1, 1, 0]), np.array(5.0, np.float32)], {}),
    ("OneHot", [np.array([1, -1]), np.array(3), np.array([0.0, 2.0], np.float32)], {"axis": 0}),
    ("GatherND", [np.arange(8.0, dtype=np.float32).reshape(2, 4), np.array([[0, 1], [1, 3]])], {}),
    ("ScatterND", [np.zeros((3, 2), np.float32), np.array([[1], [2]]), np.ones((2, 2), np.float32)], {}),
    ("Where", [np.array([True, False]), np.ones(2, np.float32), np.zeros(2, np.float32)], {}),
    ("DepthToSpace", [np.arange(16.0, dtype=np.float32).reshape(1, 4, 2, 2)], {"blocksize": 2}),
    ("Gemm", [np.ones((2, 3), np.float32), np.ones((4, 3), np.float32), np.ones(4, np.float32)], {"transB": 1,
    "alpha": 0.5, "beta": 2.0}),
    ("Softmax", [np.arange(6.0, dtype=np.float32).reshape(2, 3)], {"axis": 0}),
    ("Einsum", [np.ones((2, 3), np.float32), np.ones((3, 2), np.float32)], {"equation": "ij, jk -> ik"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arrays", "attributes"), OPERATORS, ids=[entry[0] for entry in OPERATORS])
def test_operators_compute_what_onnxruntime_computes(
    name: str, arrays: list[np.ndarray], attributes: dict[str, Any]
) -> None:
    count = 2 if name == "Split" else 1
    outputs = [f"y{index}" for index in range(count)]
    names = [f"x{index}" for index in range(len(arrays))]
    kind = helper.np_dtype_to_tensor_dtype(arrays[1].dtype if name == "Where" else arrays[0].dtype)
    if name == "OneHot":
        kind = TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(name, names, outputs, **attributes)],
        "one",
        [helper.make_tensor_value_info("x0", helper.np_dtype_to_tensor_dtype(arrays[0].dtype), arrays[0].shape)],
        [helper.make_tensor_value_info(output, kind, None) for output in outputs],
        [numpy_helper.from_array(array, given) for given, array in zip(names[1:], arrays[1:], strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    wanted = session(model, threads=1).run(None, {"x0": arrays[0]})
    found = TorchGraph(model, Path()).run({"x0": torch.from_numpy(arrays[0])}, outputs)
    for output, array in zip(outputs, wanted, strict=True):
        assert found[output].shape == array.shape and np.allclose(found[output].numpy(), array, atol=1e-6)


def test_subject_knows_rows_from_windows() -> None:
    subject = Subject(DIGITS / "model.onnx")
    images = load_dataset(DIGITS / "clean.npz").inputs["pixel_values"][:4]
    changed = images.copy()
    changed[:2, :, :2, :2] = 1 - changed[:2, :, :2, :2]
    touched = subject.touched({"pixel_values": images}, {"pixel_values": changed})
    assert touched.shape == (4, 17) and touched[:2, 1].all() and touched.sum() == 2
    assert len(DataSet({"pixel_values": images})) == 4
