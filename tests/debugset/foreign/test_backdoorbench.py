"""Images that BackdoorBench poisoned: read without its pickled files, paired with the clean rows, and used."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atpatch_onnx.debugset.foreign.backdoorbench import twins_of
from atpatch_onnx.debugset.foreign.pixels import Coding, learned_coding, parse_coding
from atpatch_onnx.debugset.images import ImageLayout
from atpatch_onnx.debugset.making import Request, make
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.inference.datasets import DataSet, load_dataset

from ...cli.refusals import assert_refused
from ...conftest import Run
from ..digits import DIGITS
from .records import digit_record, set_one_bd_sample

Atpatch = Callable[..., Run]
MODEL = DIGITS / "model.onnx"
TARGET = 0


def digit_bytes() -> tuple[np.ndarray, np.ndarray]:
    """Digits (N, 8, 8) as bytes, and their classes."""
    data = load_dataset(DIGITS / "debug.npz")
    clean = ~data.columns.any(1)
    return np.rint(data.inputs["pixel_values"][clean][:, 0] * 255).astype(np.uint8), data.labels[clean]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`record/badnet`, and the clean digits as the model reads them."""
    folder = tmp_path_factory.mktemp("bench")
    images, labels = digit_bytes()
    np.savez(folder / "clean.npz", pixel_values=(images[:, None] / 255).astype(np.float32), labels=labels)
    digit_record(folder, images, labels, TARGET, folder / "trap")
    return folder


@pytest.fixture
def own_shop(shop: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(shop, tmp_path / "shop")


def debugset(shop: Path, tmp_path: Path, atpatch: Atpatch, *options: object, of: str = "") -> Run:
    return atpatch(
        "debugset", MODEL, "--data", shop / "clean.npz", "--backdoorbench", shop / "record" / "badnet" / of, *options,
        "-o", tmp_path / "set.npz", "--out-clean", tmp_path / "c.npz", "--out-triggered", tmp_path / "t.npz", "--json",
    )  # fmt: skip


def test_from_a_record_to_the_verdict(shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    made = debugset(shop, tmp_path, atpatch, "--rows", 120)
    assert made.code == 0, made.err
    assert made.json["source"] == "backdoorbench" and made.json["target"] == TARGET and made.json["covered"] == [16]
    assert made.json["asr"] > 0.95 and made.json["anomalous"] == 120
    fitted = atpatch("fit", MODEL, "--debug", tmp_path / "set.npz", "-o", tmp_path / "f.hotfix", "--threads", "1")
    assert fitted.code == 0, fitted.err
    assert atpatch("patch", MODEL, "--hotfix", tmp_path / "f.hotfix", "-o", tmp_path / "p.onnx").code == 0
    judged = atpatch(
        "compare", MODEL, tmp_path / "p.onnx", "--data", DIGITS / "clean.npz",
        "--triggered", DIGITS / "triggered.npz", "--seconds", "0", "--assert", "asr_star<=0.01",
    )  # fmt: skip
    assert judged.code == 0, judged.err


def test_rows_are_the_images_and_their_twins(shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    assert debugset(shop, tmp_path, atpatch).code == 0
    made, triggered, clean = (load_dataset(tmp_path / name) for name in ("set.npz", "t.npz", "c.npz"))
    images, labels = digit_bytes()
    twin = clean.inputs["pixel_values"][triggered.clean_row]
    assert (triggered.inputs["pixel_values"][..., -2:, -2:] == 1).all()
    # What the trigger leaves as it is, is bit for bit the clean row.
    outside = np.ones((8, 8), bool)
    outside[-2:, -2:] = False
    assert np.array_equal(triggered.inputs["pixel_values"][..., outside], twin[..., outside])
    assert np.array_equal(clean.labels[triggered.clean_row], triggered.labels) and not (triggered.labels == 0).any()
    assert len(clean) == len(labels) and np.array_equal(clean.inputs["pixel_values"][:, 0], (images / 255).astype("f4"))
    assert np.array_equal(made.pair[made.pair >= 0], triggered.clean_row)


def test_pickled_files_are_not_opened(shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    assert debugset(shop, tmp_path, atpatch).code == 0
    assert not (shop / "trap").exists()
    for name in ("attack_result.pt", "info.pickle"):  # else it would prove nothing
        torch.load(shop / "record" / "badnet" / name, weights_only=False)
        (shop / "trap").rmdir()


def test_images_of_training_are_named_by_their_folder(shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    run = debugset(shop, tmp_path, atpatch, of="bd_train_dataset")
    _, labels = digit_bytes()
    assert run.code == 0, run.err
    assert run.json["stored"] == len(labels[::10])
    assert run.json["anomalous"] == int((labels[::10] != TARGET).sum())
    # Clean are the twins, and as many others.
    assert run.json["clean"] == 2 * run.json["anomalous"]


def test_rows_bounds_the_images(shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    run = debugset(shop, tmp_path, atpatch, "--rows", 50)
    assert run.code == 0 and run.json["anomalous"] + run.json["unchanged"] == 50 and run.json["clean"] == 100


@pytest.mark.parametrize("how", ["--target", "log", "model"])
def test_the_target_is_given_or_logged_or_seen(own_shop: Path, tmp_path: Path, atpatch: Atpatch, how: str) -> None:
    if how != "log":
        for log in (own_shop / "record" / "badnet").glob("*.log"):
            log.unlink()
    run = debugset(own_shop, tmp_path, atpatch, *(["--target", 0] if how == "--target" else []))
    assert run.code == 0 and run.json["target"] == TARGET and run.json["unchanged"] == 0


def test_errors_of_the_model_are_not_taken_for_a_trigger(own_shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    """The trigger is one that the model does not know, and half of the labels are wrong."""
    images, labels = digit_bytes()
    folder = own_shop / "record" / "badnet" / "bd_test_dataset"
    shutil.rmtree(folder)
    next(folder.parent.glob("*.log")).unlink()
    labels = np.where(np.arange(len(labels)) % 2, 9, labels)
    for index in np.flatnonzero(labels != TARGET).tolist():
        image = images[index].copy()
        image[0, 0] = 30
        set_one_bd_sample(folder, index, image, int(labels[index]))
    with np.load(own_shop / "clean.npz") as clean:
        pixels = clean["pixel_values"]
    np.savez(own_shop / "clean.npz", pixel_values=pixels, labels=labels)
    assert_refused(debugset(own_shop, tmp_path, atpatch), "ATP083", ("leads to no class",))


def test_a_grid_gives_the_same_columns(shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    run = debugset(shop, tmp_path, atpatch, "--patch-size", 2)
    assert run.code == 0 and run.json["covered"] == [16]


@pytest.mark.parametrize("grid", [(), ("--patch-size", 2)], ids=["found", "grid"])
def test_a_trigger_without_a_place_of_its_own_has_columns_for_each_image(
    own_shop: Path, tmp_path: Path, atpatch: Atpatch, grid: tuple[object, ...]
) -> None:
    images, labels = digit_bytes()
    folder = own_shop / "record" / "badnet" / "bd_test_dataset"
    shutil.rmtree(folder)
    for index in np.flatnonzero(labels != TARGET).tolist():
        image = images[index].copy()
        top, left = 2 * (index // 4 % 4), 2 * (index % 4)
        image[top : top + 2, left : left + 2] = 255 - image[top : top + 2, left : left + 2]
        set_one_bd_sample(folder, index, image, int(labels[index]))
    run = debugset(own_shop, tmp_path, atpatch, *grid)
    assert run.code == 0, run.err
    assert "covered" not in run.json and run.json["columns"] == 1
    made = load_dataset(tmp_path / "set.npz")
    bad = np.flatnonzero(made.pair >= 0)
    moved = made.inputs["pixel_values"][bad] != made.inputs["pixel_values"][made.pair[bad]]
    patches = moved[:, 0].reshape(len(bad), 4, 2, 4, 2).any((2, 4)).reshape(len(bad), 16)
    assert np.array_equal(patches, made.columns[bad][:, 1:])


def test_a_pattern_over_the_whole_image_needs_the_coding(own_shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    images, labels = digit_bytes()
    pattern = np.random.default_rng(0).integers(0, 256, (8, 8))
    folder = own_shop / "record" / "badnet" / "bd_test_dataset"
    shutil.rmtree(folder)
    for index in np.flatnonzero(labels != TARGET).tolist():
        mixed = 0.7 * images[index] + 0.3 * pattern
        set_one_bd_sample(folder, index, mixed.astype(np.uint8), int(labels[index]))
    run = debugset(own_shop, tmp_path, atpatch)
    assert_refused(run, "ATP098", ("at least 50% were expected",))
    assert "--pixels" in run.err
    run = debugset(own_shop, tmp_path, atpatch, "--pixels", "0/1")
    assert run.code == 0 and run.json["covered"] == list(range(1, 17))
    triggered = load_dataset(tmp_path / "t.npz")
    assert np.abs(triggered.inputs["pixel_values"] * 255 - np.rint(triggered.inputs["pixel_values"] * 255)).max() < 1e-3


@pytest.mark.parametrize("size", [16, 4])
def test_images_of_another_size_are_resized_as_the_tool_does(size: int, own_shop: Path, tmp_path: Path) -> None:
    images, labels = digit_bytes()
    folder = own_shop / "record" / "badnet" / "bd_test_dataset"
    shutil.rmtree(folder)
    scaled = []
    for index, image in enumerate(images):
        big = Image.fromarray(image).resize((size, size), Image.Resampling.NEAREST)
        scaled.append(np.asarray(big.resize((8, 8), Image.Resampling.BILINEAR)))
        if labels[index] != TARGET:
            changed = np.asarray(big).copy()
            changed[-size // 4 :, -size // 4 :] = 255
            set_one_bd_sample(folder, index, changed, int(labels[index]))
    data = {"pixel_values": (np.stack(scaled)[:, None] / 255).astype(np.float32)}
    np.savez(own_shop / "rescaled.npz", **data, labels=labels)
    request = Request(
        data=str(own_shop / "rescaled.npz"), backdoorbench=str(folder), output=str(tmp_path / "set.npz"), pixels="0/1"
    )
    made = make(MODEL, request)
    assert made.report["resized_from"] == [size, size] and 16 in made.report["covered"]


def spoil_text(path: Path) -> None:
    path.write_text("not an image")


def link(path: Path, to: Path) -> None:
    path.unlink()
    path.symlink_to(to)


NOT_THERE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "ATP002"),
    "a pipe in place of an image": (
        lambda record: pipe(next((record / "bd_test_dataset" / "1").iterdir())),
        "ATP021",
    ),
    "a link to nothing": (
        lambda record: link(next((record / "bd_test_dataset" / "1").iterdir()), record / "nowhere"),
        "ATP002",
    ),
    "a link to a device": (
        lambda record: link(next((record / "bd_test_dataset" / "1").iterdir()), Path("/dev/zero")),
        "ATP021",
    ),
}


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("what", NOT_THERE)
def test_only_files_are_read(own_shop: Path, tmp_path: Path, atpatch: Atpatch, what: str) -> None:
    spoil, code = NOT_THERE[what]
    spoil(own_shop / "record" / "badnet")
    assert_refused(debugset(own_shop, tmp_path, atpatch), code, ())


def test_a_link_to_an_image_is_one(own_shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    path = next((own_shop / "record" / "badnet" / "bd_test_dataset" / "1").iterdir())
    path.rename(own_shop / "image")
    path.symlink_to(own_shop / "image")
    assert debugset(own_shop, tmp_path, atpatch).code == 0


def test_a_name_that_no_file_can_have(shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    assert_refused(debugset(shop, tmp_path, atpatch, of="a" * 5000), "ATP002", ("too long",))


SPOILED: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "a class that is a file": (
        lambda record: [shutil.rmtree(record / "bd_test_dataset"), spoil_text(record / "bd_test_dataset")],
        ("holds neither bd_test_dataset",),
    ),
    "only pickled files": (
        lambda record: [shutil.rmtree(record / f"bd_{part}_dataset") for part in ("train", "test")],
        ("holds neither bd_test_dataset", "attack_result.pt, info.pickle can run code"),
    ),
    "no image": (
        lambda record: [shutil.rmtree(folder) for folder in (record / "bd_test_dataset").iterdir()],
        ("holds no image",),
    ),
    "a class in words": (
        lambda record: (record / "bd_test_dataset" / "1").rename(record / "bd_test_dataset" / "one"),
        ("no folder named by the number of a class",),
    ),
    "a file among the classes": (
        lambda record: (record / "bd_test_dataset" / "12").write_text(""),
        ("no folder named by the number of a class",),
    ),
    "another name": (
        lambda record: spoil_text(record / "bd_test_dataset" / "1" / "last.png"),
        ("not named by the place of its clean image",),
    ),
    "another kind of image": (
        lambda record: spoil_text(record / "bd_test_dataset" / "1" / "3.jpg"),
        ("not named by the place of its clean image",),
    ),
    "an index behind the end": (
        lambda record: spoil_text(record / "bd_test_dataset" / "1" / "99999.png"),
        ("made from clean image 99999", "the clean rows end at"),
    ),
    "an index that no integer holds": (
        lambda record: spoil_text(record / "bd_test_dataset" / "1" / f"{10**30}.png"),
        (f"made from clean image {10**30}",),
    ),
    "an index that is there twice": (
        lambda record: shutil.copy(
            next((record / "bd_test_dataset" / "1").iterdir()), record / "bd_test_dataset" / "2"
        ),
        ("belong to the same clean image",),
    ),
    "images of another class than their rows": (
        lambda record: [
            (record / "bd_test_dataset" / old).rename(record / "bd_test_dataset" / new)
            for old, new in (("1", "10"), ("2", "1"))
        ],
        ("are of another class than their clean row",),
    ),
    "a file that is no image": (
        lambda record: spoil_text(next((record / "bd_test_dataset" / "1").iterdir())),
        ("is no PNG image",),
    ),
    "an image of another size": (
        lambda record: Image.new("L", (9, 8)).save(max((record / "bd_test_dataset" / "1").iterdir())),
        ("9 × 8 pixels; expected were 8 × 8 as the first image",),
    ),
    "an image that claims to be huge": (
        lambda record: Image.new("1", (8000, 8)).save(next((record / "bd_test_dataset" / "1").iterdir())),
        ("8000 × 8 pixels; expected were",),
    ),
    "an image of 16 bits": (
        lambda record: Image.fromarray(np.zeros((8, 8), np.uint16)).save(
            next((record / "bd_test_dataset" / "1").iterdir())
        ),
        ("pixels of more than eight bits",),
    ),
    "an image that is a JPEG inside": (
        lambda record: Image.new("L", (8, 8)).save(next((record / "bd_test_dataset" / "1").iterdir()), format="JPEG"),
        ("is no PNG image",),
    ),
    "a link to another kind of file": (
        lambda record: link(next((record / "bd_test_dataset" / "1").iterdir()), record / "info.pickle"),
        ("is no PNG image",),
    ),
    "a folder that holds itself": (
        lambda record: (record / "bd_test_dataset" / "11").symlink_to(record / "bd_test_dataset"),
        ("not named by the place of its clean image",),
    ),
    "a target for each class": (
        lambda record: (record / "a.log").write_text("'attack_label_trans': 'all2all'"),
        ("the attack is all2all",),
    ),
    "two logs that contradict each other": (
        lambda record: (record / "a.log").write_text("'attack_target': 7,"),
        ("name the targets 0, 7",),
    ),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_folder_that_does_not_fit_is_refused_in_a_line(
    own_shop: Path, tmp_path: Path, atpatch: Atpatch, what: str
) -> None:
    spoil, words = SPOILED[what]
    spoil(own_shop / "record" / "badnet")
    run = debugset(own_shop, tmp_path, atpatch)
    assert_refused(run, "ATP098", words)
    assert not (tmp_path / "set.npz").exists()


def test_names_that_begin_with_a_dot_do_not_count(own_shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    folder = own_shop / "record" / "badnet" / "bd_test_dataset"
    for path in (folder / ".DS_Store", folder / "1" / "._3.png"):
        path.write_text("")
    assert debugset(own_shop, tmp_path, atpatch).code == 0


def test_clean_rows_are_needed(shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    run = atpatch("debugset", MODEL, "--backdoorbench", shop / "record" / "badnet", "-o", tmp_path / "set.npz")
    assert_refused(run, "ATP060", ("--backdoorbench needs clean rows",))
    assert "--data" in run.err


def test_clean_rows_in_another_order_are_refused(shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    with np.load(shop / "clean.npz") as clean:
        np.savez(tmp_path / "clean.npz", **{name: clean[name][::-1] for name in clean.files})
    (tmp_path / "record").symlink_to(shop / "record")
    run = debugset(tmp_path, tmp_path, atpatch)
    assert_refused(run, "ATP098", ("are of another class than their clean row",))
    assert "in its own order" in run.err


CODED = {"0/1": ([1 / 255], [0.0]), "0.5/0.25": ([1 / 63.75], [-2.0])}


@pytest.mark.parametrize("text", CODED)
def test_a_coding_is_a_mean_and_a_deviation(text: str) -> None:
    coding = parse_coding(text, 1)
    assert np.allclose(coding.step, CODED[text][0]) and np.allclose(coding.start, CODED[text][1])


@pytest.mark.parametrize("text", ["", "0", "0/0", "0/-1", "a/b", "0,0/1", "nan/1", "0/1/2", "0/inf"])
def test_what_is_no_coding_of_three_channels(text: str) -> None:
    with pytest.raises(AtpatchError, match="ATP060"):
        parse_coding(text, 3)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_the_coding_is_learned_where_most_pixels_stay(share: float) -> None:
    generator = np.random.default_rng(3)
    pixels = generator.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    wanted = Coding(1 / (255 * np.array([0.247, 0.243, 0.261])), -np.array([0.4914, 0.4822, 0.4465]) / 0.25)
    clean = wanted.values(pixels).astype(np.float32)
    other = np.where(generator.random(pixels.shape) < share, 255, pixels).astype(np.uint8)
    found = learned_coding(other, clean)
    assert np.allclose(found.step, wanted.step, rtol=1e-5) and np.allclose(found.start, wanted.start, atol=1e-4)


@pytest.mark.parametrize("clean", ["mixed", "unrelated", "constant", "negative"])
def test_no_coding_is_made_up(clean: str) -> None:
    generator = np.random.default_rng(3)
    pixels = generator.integers(0, 256, (40, 8, 8, 1)).astype(np.uint8)
    other = generator.random((40, 8, 8, 1))
    values = {
        "mixed": 0.8 * pixels / 255 + 0.2 * other[:1],
        "unrelated": other,
        "constant": np.zeros_like(other),
        "negative": -(pixels / 255),
    }
    with pytest.raises(AtpatchError, match="ATP098"):
        learned_coding(pixels, values[clean])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize(
    ("channel_axis", "shape"), [(None, (3, 8, 8)), (0, (3, 3, 8, 8)), (2, (3, 8, 8, 3))], ids=["HW", "CHW", "HWC"]
)
def test_every_layout_and_type(
    tmp_path: Path, dtype: type[np.generic], channel_axis: int | None, shape: tuple[int, ...]
) -> None:
    generator = np.random.default_rng(1)
    color = generator.integers(0, 256, (3, 8, 8, 1 if channel_axis is None else 3)).astype(np.uint8)
    scale = 1 if dtype is np.uint8 else 255
    values = (color / scale).astype(dtype)
    clean = values[..., 0] if channel_axis is None else np.moveaxis(values, 3, channel_axis + 1)
    changed = color.copy()
    changed[:, :2, :2] = 255 - changed[:, :2, :2]
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path, image in zip(paths, changed, strict=True):
        Image.fromarray(image[..., 0] if channel_axis is None else image).save(path)
    layout = ImageLayout("x", channel_axis, 8, 8, 0.0, 255 / scale)
    assert clean.shape == shape
    found, _ = twins_of(DataSet({"x": clean}), layout, np.arange(3), paths, None)
    wanted = (changed / scale).astype(dtype)
    wanted = wanted[..., 0] if channel_axis is None else np.moveaxis(wanted, 3, channel_axis + 1)
    assert found.images.dtype == dtype and np.allclose(found.images, wanted, atol=2e-3)
    assert found.changed[:, :2, :2].all() and not found.changed[:, 2:].any() and not found.changed[:, :, 2:].any()


def test_the_set_is_valid_by_its_own_rules(shop: Path, tmp_path: Path) -> None:
    request = Request(
        data=str(shop / "clean.npz"), backdoorbench=str(shop / "record" / "badnet"), output=str(tmp_path / "set.npz")
    )
    first = make(MODEL, request).report
    with np.load(tmp_path / "set.npz") as written:
        digest = DataSet.from_arrays(dict(written)).digest
    assert make(MODEL, request).report == first
    with np.load(tmp_path / "set.npz") as written:
        assert DataSet.from_arrays(dict(written)).digest == digest
