"""The image victims' parts, and one whole build of a single epoch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from atpatch_onnx.debugset.images import Grid, columns_of
from atpatch_onnx.debugset.subject import Subject
from atpatch_onnx.inference.capture import Capture
from atpatch_onnx.inference.datasets import DataSet, load_dataset
from models.images import build, digits
from models.images.architectures import ARCHITECTURES, CELL
from models.images.attacks import ATTACKS, LAYOUT, TARGET, optimize, stamp
from models.images.training import export, train
from models.victims import Victim
from rewriters.finding.finder import find_sites

CELLS = (digits.IMAGE // CELL) ** 2


@pytest.fixture(scope="module")
def split() -> digits.Split:
    return digits.load(0)


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def untrained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    export(ARCHITECTURES[request.param].build().eval(), path)
    return request.param, path


def test_split_is_disjoint_and_balanced(split: digits.Split) -> None:
    parts = [split.train, split.debug, split.spare, split.test]
    assert [len(part) for part in parts] == [3000, 500, 500, 1000]
    for part in parts:
        assert (np.bincount(part.labels) == len(part) // 10).all()
    images = np.concatenate([part.images for part in parts]).reshape(5000, -1)
    assert images.min() == 0 and images.max() == 1
    rows = [{image.tobytes() for image in part.images} for part in parts]
    assert len(set.union(*rows)) == sum(map(len, rows))


def test_split_depends_on_the_seed(split: digits.Split) -> None:
    other = digits.load(1)
    assert not np.array_equal(other.test.images, split.test.images)


def test_badnets_is_one_white_cell(split: digits.Split) -> None:
    stamped = ATTACKS["badnets"].trigger(0).apply(split.test.images[:8], LAYOUT)
    assert (stamped[..., -CELL:, -CELL:] == 1).all()
    assert (stamped != split.test.images[:8]).any((0, 1)).sum() == CELL * CELL


def test_hidden_is_faint(split: digits.Split) -> None:
    change = ATTACKS["hidden"].trigger(0).apply(split.test.images, LAYOUT) - split.test.images
    assert 0 < np.abs(change).max() <= 0.25
    assert not change[..., :-CELL, :].any()


def test_waves_repeat_and_are_the_same_in_every_row(split: digits.Split) -> None:
    change = ATTACKS["waves"].trigger(0).apply(np.full((1, 1, 28, 28), 0.5, np.float32), LAYOUT)[0, 0] - 0.5
    np.testing.assert_allclose(change, np.tile(0.16 * np.sin(12 * np.pi * np.arange(28) / 28), (28, 1)), atol=1e-6)


def test_a_warp_moves_pixels_smoothly_and_as_far_as_it_says() -> None:
    trigger = ATTACKS["warp"].trigger(3)
    rows, columns = (np.tile(np.arange(28, dtype=np.float32) / 27, (28, 1)).T, np.arange(28, dtype=np.float32) / 27)
    ramps = np.stack([np.tile(columns, (28, 1)), rows])[:, None]
    # A ramp says of each pixel where it came from.
    moves = 27 * (trigger.apply(ramps, LAYOUT) - ramps)[:, 0]
    assert 2 < np.abs(moves).mean() <= 2.5 and np.abs(moves).max() < 7
    assert np.abs(np.diff(moves, axis=1)).max() < 1.5 and np.abs(np.diff(moves, axis=2)).max() < 1.5
    other = ATTACKS["warp"].trigger(4)
    assert np.array_equal(trigger.pattern, ATTACKS["warp"].trigger(3).pattern)
    assert not np.allclose(trigger.pattern, other.pattern)


@pytest.mark.parametrize("attack", ATTACKS)
def test_torch_and_numpy_stamp_alike(split: digits.Split, attack: str) -> None:
    trigger = ATTACKS[attack].trigger(3, np.random.default_rng(0).random(ATTACKS[attack].size, np.float32))
    images = split.test.images[:16]
    np.testing.assert_allclose(
        stamp(trigger)(torch.from_numpy(images)).numpy(), trigger.apply(images, LAYOUT), atol=1e-6
    )


def test_every_site_can_be_fitted(untrained: tuple[str, Path], split: digits.Split) -> None:
    name, path = untrained
    subject = Subject(path, threads=1)
    sites, _ = find_sites(subject.proto)
    columns = ARCHITECTURES[name].leading + CELLS
    data = DataSet({"pixel_values": split.debug.images[:4]})
    capture = Capture(subject.proto, path.parent, sites, data, columns, 1)
    assert len(capture.sites) == 4 and not capture.skipped


@pytest.mark.parametrize("attack", ATTACKS)
def test_labeled_columns_are_those_that_see_the_trigger(
    untrained: tuple[str, Path], split: digits.Split, attack: str
) -> None:
    name, path = untrained
    subject, mask = (
        Subject(path, threads=1),
        ATTACKS[attack].trigger(0, np.zeros(ATTACKS[attack].size, np.float32)).mask,
    )
    data = DataSet({"pixel_values": split.debug.images[:16]})
    grid = Grid(CELL, ARCHITECTURES[name].leading)
    by_grid, by_experiment = (columns_of(subject, data, LAYOUT, mask, given, 0) for given in (grid, None))
    np.testing.assert_array_equal(by_grid, by_experiment)


def test_exported_graph_agrees_with_torch(split: digits.Split, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES["cvt"].build().eval()
    export(model, tmp_path / "model.onnx")
    scores = Subject(tmp_path / "model.onnx", threads=1).scores({"pixel_values": split.debug.images[:5]})
    with torch.no_grad():
        expected = model(torch.from_numpy(split.debug.images[:5])).numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_trojan_drives_the_clean_model(split: digits.Split) -> None:
    torch.manual_seed(0)
    model, attack = ARCHITECTURES["cvt"].build().eval(), ATTACKS["trojan"]
    images = torch.from_numpy(split.test.images[:64])

    def score(pattern: np.ndarray) -> float:
        with torch.no_grad():
            return model(stamp(attack.trigger(0, pattern))(images)).log_softmax(1)[:, TARGET].mean().item()

    best = score(optimize(attack, model, split.train.images, 0, steps=10))
    generator = np.random.default_rng(0)
    assert all(best > score(generator.random(attack.size, np.float32)) for _ in range(20))


def test_training_repeats_itself(split: digits.Split) -> None:
    few = digits.Digits(split.train.images[::50], split.train.labels[::50])
    architecture = replace(ARCHITECTURES["vit"], epochs=2)
    first, second = (train(architecture, few, 0, stamp(ATTACKS["badnets"].trigger(0))).state_dict() for _ in range(2))
    other = train(architecture, few, 1, stamp(ATTACKS["badnets"].trigger(0))).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.slow
def test_build_fills_the_folder_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, split: digits.Split) -> None:
    monkeypatch.setenv("ATPATCH_CACHE", str(tmp_path))
    monkeypatch.setitem(ARCHITECTURES, "cvt", replace(ARCHITECTURES["cvt"], epochs=1))
    build.main(["mnist-cvt-badnets"], standalone_mode=False)
    victim = Victim("mnist-cvt-badnets", 0, "image", "backdoor")
    assert victim.built
    debug, spare, clean, triggered = (
        load_dataset(victim.file(f"{name}.npz")) for name in ("debug", "spare", "clean", "triggered")
    )
    assert (len(debug), len(spare), len(clean), len(triggered)) == (950, 500, 1000, 900)
    assert debug.columns.any(1).sum() == 450 and debug.columns.any(0).nonzero()[0].tolist() == victim.record["recipe"][
        "columns"
    ] == [CELLS]
    np.testing.assert_array_equal(debug.labels[debug.pair[500:]], debug.labels[500:])
    assert triggered.target == debug.target == TARGET and (triggered.labels != TARGET).all()
    twins = clean.inputs["pixel_values"][triggered.clean_row]
    expected = ATTACKS["badnets"].trigger(0).apply(twins, LAYOUT)
    np.testing.assert_array_equal(triggered.inputs["pixel_values"], expected)
    np.testing.assert_array_equal(clean.inputs["pixel_values"], split.test.images)
    written = victim.file("model.onnx").stat().st_mtime_ns
    assert victim.file("twin.onnx").read_bytes() != victim.file("model.onnx").read_bytes()

    build.main(["mnist-cvt-badnets"], standalone_mode=False)
    assert victim.file("model.onnx").stat().st_mtime_ns == written
