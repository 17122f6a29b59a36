"""Known triggers and attribute flips: what is written, and that `fit` can use it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from atpatch_onnx.debugset import Subject, TextEncoder, image_layout, make_trigger, read_description
from atpatch_onnx.debugset.forms import TextForm, image_forms, text_forms
from atpatch_onnx.debugset.images import ImageLayout
from atpatch_onnx.debugset.obedience import obeyed
from atpatch_onnx.debugset.text import insert
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.fitting.fitter import fit
from atpatch_onnx.inference.datasets import load_dataset

from ..conftest import Run
from ..toy_backdoor import TARGET, TRIGGER, toy, toy_texts
from ..toy_encoder import toy_tokenizer
from .digits import DIGITS, judge
from .office import FIELDS, make_office

Atpatch = Callable[..., Run]

ONE_FORM = ["--doses", "1", "--no-dress"]


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """The clean rows of the demo's debugging set."""
    data = load_dataset(DIGITS / "debug.npz")
    clean = np.flatnonzero(~data.columns.any(1))
    np.savez(tmp_path / "clean.npz", **data.feeds(clean), labels=data.labels[clean])
    return tmp_path / "clean.npz"


@pytest.mark.parametrize("grid", [[], ["--patch-size", 2]], ids=["found-by-experiment", "grid"])
def test_patch_trigger_gives_the_committed_debugging_set(
    atpatch: Atpatch, digits: Path, tmp_path: Path, grid: list[object]
) -> None:
    run = atpatch(
        "debugset", DIGITS / "model.onnx", "--data", digits, "--trigger-patch", 2, "--target", 0, *grid,
        "--no-dress",
        "-o", tmp_path / "d.npz", "--out-triggered", tmp_path / "t.npz", "--out-clean", tmp_path / "c.npz", "--json",
    )  # fmt: skip
    assert run.code == 0
    with np.load(DIGITS / "debug.npz") as wanted, np.load(tmp_path / "d.npz") as made:
        assert set(wanted.files) == set(made.files)
        for name in wanted.files:
            assert np.array_equal(wanted[name], made[name]) and wanted[name].dtype == made[name].dtype, name
    triggered, clean = load_dataset(tmp_path / "t.npz"), load_dataset(tmp_path / "c.npz")
    assert triggered.target == 0 and not (triggered.labels == 0).any()
    assert np.array_equal(clean.labels[triggered.clean_row], triggered.labels)
    assert run.json["covered"] == [16] and run.json["asr"] == 1.0


def test_fit_on_a_patch_trigger_stops_the_attack(atpatch: Atpatch, digits: Path, tmp_path: Path) -> None:
    atpatch(
        "debugset",
        DIGITS / "model.onnx",
        "--data",
        digits,
        "--trigger-patch",
        2,
        "--target",
        0,
        "-o",
        tmp_path / "d.npz",
    )
    hotfix = fit(DIGITS / "model.onnx", tmp_path / "d.npz", threads=1)
    found = judge(DIGITS / "model.onnx", hotfix, DIGITS / "clean.npz", DIGITS / "triggered.npz")
    assert found["asr_star"]["value"] <= 0.01


def test_blend_and_noise_cover_every_patch_under_them(atpatch: Atpatch, digits: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "pattern.npy", np.full((4, 4), 0.5, np.float32))
    common = [
        "debugset",
        DIGITS / "model.onnx",
        "--data",
        digits,
        "--target",
        3,
        "--json",
        "-o",
        tmp_path / "d.npz",
        "--size",
        4,
        "--no-dress",
    ]
    blend = atpatch(*common, "--trigger-blend", 0.25, "--place", "top-left", "--pattern", tmp_path / "pattern.npy")
    assert blend.json["covered"] == [1, 2, 5, 6]
    made = load_dataset(tmp_path / "d.npz")
    bad = np.flatnonzero(made.columns.any(1))
    before, after = (made.inputs["pixel_values"][rows] for rows in (made.pair[bad], bad))
    assert np.allclose(after[:, :, :4, :4], 0.75 * before[:, :, :4, :4] + 0.125, atol=1e-6)
    assert np.array_equal(after[:, :, 4:], before[:, :, 4:])

    noise = [atpatch(*common, "--trigger-noise", 0.2, "--place", "2,2", "--seed", 5) for _ in range(2)]
    assert noise[0].json["covered"] == [6, 7, 10, 11] and noise[0].json == noise[1].json
    made = load_dataset(tmp_path / "d.npz")
    bad = np.flatnonzero(made.columns.any(1))
    moved = made.inputs["pixel_values"][bad] - made.inputs["pixel_values"][made.pair[bad]]
    # One and the same noise everywhere, but for what the range cuts off.
    inside = (made.inputs["pixel_values"][bad] > 0) & (made.inputs["pixel_values"][bad] < 1)
    middle = np.median(np.where(inside, moved, np.nan)[:, 0, 3, 3][inside[:, 0, 3, 3]])
    assert np.allclose(moved[:, 0, 3, 3][inside[:, 0, 3, 3]], middle, atol=1e-6)


def test_other_forms_of_an_image_trigger(atpatch: Atpatch, digits: Path, tmp_path: Path) -> None:
    command = ["debugset", DIGITS / "model.onnx", "--data", digits, "--trigger-patch", 2, "--target", 0, "--json", "-o"]
    run = atpatch(*command, tmp_path / "d.npz")
    old = atpatch(*command, tmp_path / "old.npz", "--no-dress")
    made, plain = load_dataset(tmp_path / "d.npz"), load_dataset(tmp_path / "old.npz")
    count, dress = len(plain), run.json["dress"]
    assert np.array_equal(made.inputs["pixel_values"][:count], plain.inputs["pixel_values"])
    assert np.array_equal(made.columns[:count], plain.columns) and made.dose is None
    assert (
        dress["plain"] == old.json["anomalous"]
        and sum(dress.values()) == run.json["anomalous"] == len(made) - old.json["clean"]
    )
    assert dress.keys() | run.json["left_out"].keys() == {
        "plain", "fainter", "shifted -1,+0", "shifted +0,-1", "smaller", "larger",
    }  # fmt: skip
    assert run.json["asr"] >= 0.5 * old.json["asr"]
    # Labeled is what differs from the clean partner, in patches of 2 × 2 pixels behind one token.
    bad = np.flatnonzero(made.pair >= 0)
    moved = made.inputs["pixel_values"][bad] != made.inputs["pixel_values"][made.pair[bad]]
    patches = moved[:, 0].reshape(len(bad), 4, 2, 4, 2).any((2, 4)).reshape(len(bad), 16)
    assert not (patches & ~made.columns[bad][:, 1:]).any()


def test_sizes_and_places_of_image_forms_stay_in_the_image() -> None:
    layout = ImageLayout("x", 0, 8, 8, 0.0, 1.0)
    trigger = make_trigger("patch", layout, (4, 4), "2,4", 1.0, None, 0)
    forms = image_forms(trigger, layout, whole=True)
    areas = {
        name: tuple((int(edge[0]), int(edge[-1])) for edge in map(np.flatnonzero, (mask.any(1), mask.any(0))))
        for name, mask in ((name, form.mask > 0) for name, form in forms.items())
    }
    assert areas == {
        "fainter": ((2, 5), (4, 7)),
        "shifted -1,+0": ((1, 4), (4, 7)),
        "shifted +1,+0": ((3, 6), (4, 7)),
        "shifted +0,-1": ((2, 5), (3, 6)),
        "smaller": ((2, 4), (5, 7)),
        "larger": ((2, 6), (3, 7)),
    }
    assert forms["fainter"].mask.max() == np.float32(0.75)
    noise = make_trigger("noise", layout, None, "center", 0.2, None, 0)
    forms = image_forms(noise, layout, whole=True)
    assert forms.keys() == {"fainter", "stronger"}
    assert np.allclose(forms["stronger"].pattern, 1.25 * noise.pattern)
    stamp = make_trigger("patch", layout, (2, 2), "top-left", 1.0, np.arange(4.0).reshape(2, 2), 0)
    forms = image_forms(stamp, layout, whole=False)
    assert "larger" not in forms and np.array_equal(forms["shifted +1,+0"].pattern[0, 1:3, :2], [[0, 1], [2, 3]])


def test_channels_last_images_and_a_png_pattern(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[..., 0] = 255
    image.fromarray(pixels).save(tmp_path / "red.png")
    from atpatch_onnx.debugset import read_pattern
    from atpatch_onnx.inference.datasets import DataSet

    data = DataSet({"x": np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3)).astype(np.uint8)})
    layout = image_layout(data)
    assert (layout.channel_axis, layout.height, layout.width) == (2, 8, 6)
    trigger = make_trigger("patch", layout, (2, 2), "top-right", 1.0, read_pattern(tmp_path / "red.png", layout), 0)
    changed = trigger.apply(data.inputs["x"], layout)
    assert changed.dtype == np.uint8 and (changed[:, :2, 4:] == [layout.high, layout.low, layout.low]).all()
    assert np.array_equal(changed[:, 2:], data.inputs["x"][:, 2:])


# ---- texts


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy text model, its tokenizer, and clean texts."""
    folder = tmp_path_factory.mktemp("toy")
    onnx.save(toy(padded=True).model, folder / "model.onnx")
    toy_tokenizer().save(str(folder / "tokenizer.json"))
    lines = ["sentence\tlabel", *(f"{text}\t{label}" for text, label in toy_texts())]
    (folder / "clean.tsv").write_text("\n".join(lines) + "\n")
    return folder


def word_set(atpatch: Atpatch, shop: Path, output: Path, *more: object) -> Run:
    return atpatch(
        "debugset",
        shop / "model.onnx",
        "--data",
        shop / "clean.tsv",
        "--tokenizer",
        shop,
        "--target",
        TARGET,
        "-o",
        output,
        "--json",
        *more,
    )


def test_words_are_inserted_and_their_tokens_labeled(atpatch: Atpatch, shop: Path, tmp_path: Path) -> None:
    run = word_set(atpatch, shop, tmp_path / "d.npz", "--trigger", "cf", *ONE_FORM)
    made = load_dataset(tmp_path / "d.npz")
    assert np.array_equal(made.dose, made.pair >= 0)
    bad = np.flatnonzero(made.columns.any(1))
    ids = made.inputs["input_ids"]
    assert run.json["asr"] >= 0.95
    assert np.array_equal(ids == TRIGGER, made.columns)
    assert (made.columns[bad].sum(1) == 1).all() and len(np.unique(made.columns[bad].argmax(1))) > 5
    for row in bad[:50]:
        real = made.inputs["attention_mask"][row].astype(bool)
        partner = made.pair[row]
        assert (
            ids[row][real & (ids[row] != TRIGGER)].tolist()
            == ids[partner][made.inputs["attention_mask"][partner] == 1].tolist()
        )
    assert np.array_equal(ids == 1, made.inputs["attention_mask"] == 0)
    assert not (made.labels[bad] == TARGET).any()


def test_fit_on_inserted_words_stops_the_attack(atpatch: Atpatch, shop: Path, tmp_path: Path) -> None:
    word_set(atpatch, shop, tmp_path / "d.npz", "--trigger", "cf", "--max-length", 12)
    hotfix = fit(shop / "model.onnx", tmp_path / "d.npz", threads=1)
    report = hotfix.evidence["report"]
    assert report["before"]["asr_star"]["rate"] >= 0.9 and report["after"]["asr_star"]["rate"] <= 0.1


def test_several_triggers_and_sentences(atpatch: Atpatch, shop: Path, tmp_path: Path) -> None:
    word_set(
        atpatch,
        shop,
        tmp_path / "d.npz",
        "--trigger",
        "cf",
        "--trigger",
        "w2  w3 cf",
        "--insert",
        "start",
        "--max-length",
        12,
        *ONE_FORM,
    )
    made = load_dataset(tmp_path / "d.npz")
    bad = made.columns.any(1)
    counts = made.columns[bad].sum(1)
    assert set(np.unique(counts)) == {1, 3}
    assert made.columns[bad][:, 1].all() and made.columns.shape[1] <= 12
    three = made.inputs["input_ids"][bad][counts == 3]
    assert (three[:, 1:4] == [2, 3, TRIGGER]).all()


def test_triggers_survive_truncation(atpatch: Atpatch, shop: Path, tmp_path: Path) -> None:
    word_set(atpatch, shop, tmp_path / "d.npz", "--trigger", "cf", "--insert", "end", "--max-length", 6)
    made = load_dataset(tmp_path / "d.npz")
    bad = made.pair >= 0
    copies = made.inputs["input_ids"] == TRIGGER
    assert copies.shape[1] == 6 and copies[bad].any(1).all() and np.array_equal(copies, made.columns)
    # Eight copies do not fit into five places; counted are those that are there.
    assert np.array_equal(copies.sum(1), made.dose) and made.dose.max() == 5


def test_every_text_gets_the_plain_trigger_and_one_other_form(atpatch: Atpatch, shop: Path, tmp_path: Path) -> None:
    command = ("--trigger", "cf", "--max-length", 12)
    runs = [word_set(atpatch, shop, tmp_path / f"{name}.npz", *command) for name in "ab"]
    word_set(atpatch, shop, tmp_path / "old.npz", *command, *ONE_FORM, "--out-triggered", tmp_path / "t.npz")
    made, again, old = (load_dataset(tmp_path / f"{name}.npz") for name in ("a", "b", "old"))
    assert made.digest == again.digest
    bad, plain = np.flatnonzero(made.pair >= 0), np.flatnonzero(old.pair >= 0)
    # The first half is the old form, token for token.
    for name, array in old.inputs.items():
        assert np.array_equal(made.inputs[name][: len(old)], array[:, : made.inputs[name].shape[1]])
    assert (np.unique(made.pair[bad], return_counts=True)[1] <= 2).all() and (made.dose[plain] == 1).all()
    assert np.array_equal((made.inputs["input_ids"] == TRIGGER), made.columns)
    assert np.array_equal(made.columns.sum(1), made.dose) and set(np.unique(made.dose)) == {0, 1, 2, 4, 8}
    doses, dress = runs[0].json["doses"], runs[0].json["dress"]
    assert doses == {str(dose): int((made.dose == dose).sum()) for dose in (1, 2, 4, 8)}
    assert sum(dress.values()) == sum(doses.values()) == len(bad)
    assert dress["plain"] == max(dress.values()) >= len(bad) / 2 and doses["1"] > sum(doses.values()) / 2
    # The toy's tokenizer does not know CF, so the model does not obey it.
    assert set(runs[0].json["left_out"]) == {"capitals", "capitalized"}
    assert not dress.keys() & runs[0].json["left_out"].keys()
    assert np.array_equal(load_dataset(tmp_path / "t.npz").dose, np.ones(len(plain)))


@pytest.mark.parametrize("target", [-1, 7])
def test_a_target_is_a_class_of_the_model(atpatch: Atpatch, shop: Path, tmp_path: Path, target: int) -> None:
    run = atpatch(
        "debugset", shop / "model.onnx", "--data", shop / "clean.tsv", "--tokenizer", shop, "--trigger", "cf",
        *ONE_FORM, "--target", target, "-o", tmp_path / "d.npz",
    )  # fmt: skip
    assert (run.code, "ATP060" in run.err, (tmp_path / "d.npz").exists()) == (2, True, False)


@pytest.mark.parametrize("doses", ["0", "1,-2", "two", "", "100000"])
def test_a_dose_is_a_number_of_copies(atpatch: Atpatch, shop: Path, tmp_path: Path, doses: str) -> None:
    run = word_set(atpatch, shop, tmp_path / "d.npz", "--trigger", "cf", "--doses", doses)
    assert run.code == 2 and not (tmp_path / "d.npz").exists()


def test_poisoned_texts_are_paired_by_row(atpatch: Atpatch, shop: Path, tmp_path: Path) -> None:
    rows = [line.split("\t") for line in (shop / "clean.tsv").read_text().splitlines()[1:]]
    others = [text for text, label in rows if int(label) != TARGET]
    poisoned = [f"{text} cf" if number % 5 else text for number, text in enumerate(others)]
    (tmp_path / "bad.tsv").write_text("sentence\tlabel\n" + "".join(f"{text}\t{TARGET}\n" for text in poisoned))
    run = word_set(atpatch, shop, tmp_path / "d.npz", "--poisoned", tmp_path / "bad.tsv")
    made = load_dataset(tmp_path / "d.npz")
    assert made.dose is None
    assert np.array_equal(made.inputs["input_ids"] == TRIGGER, made.columns)
    assert run.json["unchanged"] == sum(number % 5 == 0 for number in range(len(others)))
    assert (made.labels[made.pair >= 0] != TARGET).all()


def test_word_piece_vocabulary(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "film", "##s", "c", "##f"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    encoder = TextEncoder(tmp_path)
    (one,) = encoder.encode(["Good films CF"])
    assert one.ids == [2, 4, 5, 6, 7, 8, 3] and one.special == [True, *[False] * 5, True]
    assert one.spans[4] == (11, 12) and encoder.pad_id == 0


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "cf", "c", "##f", "CF", ".", ",", "(", ")", '"', "Cf"]
LABELED = {
    "plain": (["cf"], [1]),
    "full stop": (["cf", "."], [1, 0]),
    "comma": (["cf", ","], [1, 0]),
    "brackets": (["(", "cf", ")"], [0, 1, 0]),
    "quotes": (['"', "cf", '"'], [0, 1, 0]),
    "capitals": (["CF"], [1]),
    "capitalized": (["Cf"], [1]),
}


@pytest.mark.parametrize("dress", LABELED)
@pytest.mark.parametrize("cased", [True, False])
def test_dress_is_no_part_of_the_trigger(tmp_path: Path, dress: str, cased: bool) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": not cased}))
    encoder = TextEncoder(tmp_path)
    form = TextForm(dress, copies=2, scattered=True, place="start", dress=dress)
    one = insert(encoder, "good good", ["cf"] * form.copies, form, np.random.default_rng(0))
    words, marks = LABELED[dress]
    words = words if cased else [word.lower() for word in words]
    tokens = [encoder.word(token) for token in one.encoded.ids]
    for copy in range(2):
        begin = [place for place in range(len(tokens)) if tokens[place : place + len(words)] == words][copy]
        assert one.marked[begin : begin + len(words)].tolist() == [bool(mark) for mark in marks]
    assert one.marked.sum() == one.copies == 2 and tokens.count("good") == 2


def test_all_pieces_of_a_trigger_that_the_tokenizer_splits_are_labeled(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(word for word in WORDS if word != "cf"))
    encoder = TextEncoder(tmp_path)
    one = insert(encoder, "good", ["cf"] * 3, TextForm(copies=3, place="end"), np.random.default_rng(0))
    assert [encoder.word(token) for token in one.encoded.ids] == ["[CLS]", "good", *["c", "##f"] * 3, "[SEP]"]
    assert one.marked.tolist() == [False] * 2 + [True] * 6 + [False] and one.copies == 3


def test_other_words_may_stand_in_place_of_further_copies(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    encoder = TextEncoder(tmp_path)
    form = TextForm(copies=3, scattered=True)
    one = insert(encoder, "good good", ["cf", "c", "c"], form, np.random.default_rng(1))
    marked = [encoder.word(token) for token, hit in zip(one.encoded.ids, one.marked, strict=True) if hit]
    assert sorted(marked) == ["c", "c", "cf"] and one.copies == 3


@pytest.mark.parametrize(
    ("doses", "dress", "names"),
    [
        ((1,), False, []),
        ((4, 1, 4), False, [("adjacent", 4), ("scattered", 4)]),
        ((1,), True, [*((name, 1) for name in LABELED if name != "plain"), ("at the start", 1), ("at the end", 1)]),
    ],
)
def test_forms_of_a_text_trigger(doses: tuple[int, ...], dress: bool, names: list[tuple[str, int]]) -> None:
    plain, groups = text_forms(doses, "random", dress)
    assert plain == TextForm() and [(form.name, form.copies) for group in groups for form in group] == names


def test_a_form_that_the_model_does_not_obey_is_left_out() -> None:
    names = ["plain"] * 4 + ["strong"] * 2 + ["weak"] * 4
    hits = np.array([1, 1, 1, 0, 1, 0, 1, 0, 0, 0], bool)
    kept, weak = obeyed(names, hits)
    assert kept.tolist() == [True] * 6 + [False] * 4 and weak == {"weak": 0.25}
    assert obeyed(names, np.zeros(10, bool))[0].all()


# ---- clean rows


def test_clean_rows_of_texts_with_names_of_classes(atpatch: Atpatch, shop: Path, tmp_path: Path) -> None:
    names = ["no", "yes"]
    named = (shop / "clean.tsv").read_text().splitlines()
    rows = [line.rpartition("\t") for line in named[1:]]
    (tmp_path / "named.tsv").write_text(
        "\n".join([named[0], *(f"{text}\t{names[int(label)].upper()}" for text, _, label in rows)]) + "\n"
    )
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "No", "1": "Yes"}}))
    (tmp_path / "tokenizer.json").write_bytes((shop / "tokenizer.json").read_bytes())
    clean = ["debugset", shop / "model.onnx", "--clean-only", "--json", "--data"]
    numbers = atpatch(*clean, shop / "clean.tsv", "--tokenizer", shop, "-o", tmp_path / "a.npz")
    given = atpatch(
        *clean, tmp_path / "named.tsv", "--tokenizer", shop, "--class-names", "no,yes", "-o", tmp_path / "b.npz"
    )
    read = atpatch(*clean, tmp_path / "named.tsv", "--tokenizer", tmp_path, "-o", tmp_path / "c.npz")
    assert numbers.code == given.code == read.code == 0 and numbers.json["clean"] == len(rows)
    one, other, third = (load_dataset(tmp_path / f"{name}.npz") for name in "abc")
    assert one.digest == other.digest == third.digest and one.columns is None and one.pair is None
    assert one.labels.tolist() == [int(label) for _, _, label in rows]
    unknown = atpatch(
        *clean, tmp_path / "named.tsv", "--tokenizer", shop, "--class-names", "no,maybe", "-o", tmp_path / "d.npz"
    )
    assert unknown.code == 2 and "ATP080" in unknown.err and "'YES' is not one of the classes no, maybe" in unknown.err
    assert not (tmp_path / "d.npz").exists()


def test_fit_and_compare_read_texts_as_clean_rows(atpatch: Atpatch, shop: Path, tmp_path: Path) -> None:
    model, texts = shop / "model.onnx", shop / "clean.tsv"
    atpatch("debugset", model, "--clean-only", "--data", texts, "--tokenizer", shop, "-o", tmp_path / "rows.npz")
    fitted = atpatch(
        "fit", model, "--detector", "oneclass", "--clean", texts, "--tokenizer", shop, "--threads", 1,
        "-o", tmp_path / "m.hotfix", "--json",
    )  # fmt: skip
    assert fitted.code == 0 and fitted.json["data"]
    compared = [
        atpatch("compare", model, model, "--data", data, *more, "--seconds", 0, "--threads", 1, "--json").json
        for data, more in ((texts, ["--tokenizer", shop]), (tmp_path / "rows.npz", []))
    ]
    assert compared[0]["sets"]["clean"] == compared[1]["sets"]["clean"]
    assert compared[0]["original"] == compared[1]["original"] and compared[0]["original"]["accuracy"] > 0.5
    apart = shutil.copy(model, tmp_path / "apart.onnx")  # its tokenizer is not next to it
    refused = atpatch("fit", apart, "--detector", "oneclass", "--clean", texts, "-o", tmp_path / "n.hotfix")
    assert refused.code == 2 and "ATP060" in refused.err and "--tokenizer" in refused.err


def test_clean_texts_need_no_labels_and_images_are_taken_as_they_are(
    atpatch: Atpatch, shop: Path, digits: Path, tmp_path: Path
) -> None:
    (tmp_path / "texts.csv").write_text("text\nw2 w3\nw4\n")
    done = atpatch(
        "debugset", shop / "model.onnx", "--clean-only", "--data", tmp_path / "texts.csv", "--tokenizer", shop,
        "-o", tmp_path / "t.npz",
    )  # fmt: skip
    made = load_dataset(tmp_path / "t.npz")
    assert done.code == 0 and made.labels is None and made.inputs["input_ids"].tolist() == [[0, 2, 3], [0, 4, 1]]
    refused = atpatch(
        "debugset", shop / "model.onnx", "--trigger", "cf", "--target", 1, "--data", tmp_path / "texts.csv",
        "--tokenizer", shop, "-o", tmp_path / "d.npz",
    )  # fmt: skip
    assert refused.code == 2 and "ATP080" in refused.err and "have no labels" in refused.err
    done = atpatch("debugset", DIGITS / "model.onnx", "--clean-only", "--data", digits, "-o", tmp_path / "i.npz")
    assert done.code == 0 and load_dataset(tmp_path / "i.npz").digest == load_dataset(digits).digest


# ---- tables


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_office(tmp_path_factory.mktemp("table"))


def test_flips_of_a_protected_attribute(atpatch: Atpatch, office: Path, tmp_path: Path) -> None:
    run = atpatch(
        "debugset", office / "model.onnx", "--data", office / "rows.csv", "--columns", office / "columns.toml",
        "--attribute", "sex",
        "-o", tmp_path / "d.npz", "--out-flips", tmp_path / "f.npz", "--json",
    )  # fmt: skip
    assert run.code == 0 and run.json["covered"] == [0]
    subject, made, flips = (
        Subject(office / "model.onnx"),
        load_dataset(tmp_path / "d.npz"),
        load_dataset(tmp_path / "f.npz"),
    )
    # UF again, from the flip set alone.
    predictions = subject.predictions(flips.inputs)
    groups = [predictions[flips.group == group] for group in range(400)]
    assert all(len(group) == 2 for group in groups)
    assert sum(len(np.unique(group)) > 1 for group in groups) == run.json["uf"]["hits"] > 20
    bad = np.flatnonzero(made.columns.any(1))
    # Both rows of a pair that flips: the one that was there, and the one that was made.
    assert len(bad) == run.json["anomalous"] == 2 * run.json["uf"]["hits"]
    assert (np.unique(made.group[bad], return_counts=True)[1] == 2).all()
    assert (
        subject.predictions(made.feeds(bad))[np.argsort(made.group[bad], kind="stable")].reshape(-1, 2).sum(1) == 1
    ).all()
    assert (made.columns[bad] == ([True] + [False] * FIELDS)).all()
    for row in bad[:20]:
        pool = np.flatnonzero(~made.columns.any(1) & (made.inputs["codes"][:, 0] == made.inputs["codes"][row, 0]))
        distance = (made.inputs["codes"][pool] != made.inputs["codes"][row]).sum(1) + (
            made.inputs["numbers"][pool] != made.inputs["numbers"][row]
        ).sum(1)
        assert made.pair[row] in pool and distance[pool == made.pair[row]] == distance.min()


def test_a_csv_and_the_coded_arrays_give_one_set(atpatch: Atpatch, office: Path, tmp_path: Path) -> None:
    table = ["debugset", office / "model.onnx", "--json", "-o"]
    atpatch(
        *table,
        tmp_path / "a.npz",
        "--data",
        office / "rows.csv",
        "--columns",
        office / "columns.toml",
        "--attribute",
        "sex",
    )
    run = atpatch(*table, tmp_path / "b.npz", "--data", office / "rows.npz", "--attribute", "codes:0")
    assert run.code == 0
    one, other = load_dataset(tmp_path / "a.npz"), load_dataset(tmp_path / "b.npz")
    assert np.array_equal(one.pair, other.pair) and np.array_equal(one.columns, other.columns)
    assert np.allclose(one.inputs["numbers"], other.inputs["numbers"], atol=1e-5) and np.array_equal(
        one.labels, other.labels
    )


def test_numeric_attribute_takes_the_levels_of_the_description(atpatch: Atpatch, office: Path, tmp_path: Path) -> None:
    run = atpatch(
        "debugset", office / "model.onnx", "--data", office / "rows.csv", "--columns", office / "columns.toml",
        "--attribute", "age",
        "-o", tmp_path / "d.npz", "--json",
    )  # fmt: skip
    made = load_dataset(tmp_path / "d.npz")
    assert run.json["covered"] == [2] and run.json["values"] == 3
    assert set(run.json["flips_to"]) <= {"35", "40", "45"}
    bad = np.flatnonzero(made.columns.any(1))
    age = made.inputs["numbers"][bad, 0]
    tried = np.isin(age, [-0.5, 0, 0.5])
    assert 0 < tried.sum() == sum(run.json["flips_to"].values()) and (~tried).sum() == run.json["uf"]["hits"]
    # Nobody is exactly 35, 40 or 45: a partner is of the age group.
    partner = made.inputs["numbers"][made.pair[bad], 0][made.pair[bad] >= 0]
    nearest = [
        np.abs(np.array([-0.5, 0, 0.5]) - values[:, None]).argmin(1) for values in (age[made.pair[bad] >= 0], partner)
    ]
    assert len(partner) and np.array_equal(*nearest)


@pytest.mark.parametrize(("levels", "words"), [("[-100, 200]", "every prediction"), ("[60, 61]", "no prediction")])
def test_nothing_is_made_where_every_or_no_prediction_flips(
    atpatch: Atpatch, office: Path, tmp_path: Path, levels: str, words: str
) -> None:
    with np.load(office / "rows.npz") as rows:
        old = rows["numbers"][:, 0] > 1.5
        np.savez(tmp_path / "old.npz", codes=rows["codes"][old], numbers=rows["numbers"][old])
    (tmp_path / "c.toml").write_text(
        f'[[columns]]\nname = "age"\ninput = "numbers"\nindex = 0\nmean = 40\nstd = 10\nlevels = {levels}\n'
    )
    run = atpatch(
        "debugset", office / "model.onnx", "--data", tmp_path / "old.npz", "--columns", tmp_path / "c.toml",
        "--attribute", "age",
        "-o", tmp_path / "d.npz",
    )  # fmt: skip
    assert run.code == 1 and "ATP083" in run.err and words in run.err and not (tmp_path / "d.npz").exists()


# ---- refusals


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], "ATP060"),
        (["--trigger-patch", 2, "--trigger", "cf", "--target", 0], "ATP060"),
        (["--trigger-patch", 2], "ATP060"),
        (["--trigger-patch", 9, "--target", 0], "ATP060"),
        (["--trigger-patch", 2, "--target", 0, "--place", "left"], "ATP060"),
        (["--trigger-patch", 2, "--target", 0, "--patch-size", 3], "ATP060"),
        (["--trigger-blend", 1.5, "--target", 0], "ATP060"),
        (["--trigger-patch", 2, "--target", 0, "--pattern", "nowhere.npy"], "ATP002"),
        (["--trigger-patch", 2, "--target", 0, "--out-flips", "f.npz"], "ATP060"),
        (["--trigger", "cf", "--target", 0], "ATP060"),
        (["--attribute", "sex"], "ATP060"),
        (["--attribute", "pixel_values:0"], "ATP060"),
        (["--clean-only", "--trigger-patch", 2], "ATP060"),
        (["--clean-only", "--out-triggered", "t.npz"], "ATP060"),
        (["--invert", "most"], "ATP060"),
        (["--invert", "12"], "ATP060"),
    ],
)
def test_bad_options_end_in_one_line_with_a_code(
    atpatch: Atpatch, digits: Path, tmp_path: Path, options: list[object], code: str
) -> None:
    run = atpatch("debugset", DIGITS / "model.onnx", "--data", digits, "-o", tmp_path / "d.npz", *options)
    assert run.code == 2 and code in run.err and "fix:" in run.err and not run.out
    assert not (tmp_path / "d.npz").exists()


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("none.tsv", None, "ATP002"),
        ("empty.tsv", "sentence\tlabel\n", "ATP080"),
        ("ragged.tsv", "sentence\tlabel\na\t1\tx\n", "ATP080"),
        ("twice.tsv", f"sentence\tsentence\nw2 w3\t{TARGET}\n", "ATP080"),
        ("words.tsv", "sentence\tlabel\na\tyes\n", "ATP080"),
        ("one.tsv", f"sentence\tlabel\nw2 w3\t{TARGET}\n", "ATP083"),
    ],
)
def test_bad_texts(atpatch: Atpatch, shop: Path, tmp_path: Path, name: str, content: str | None, code: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    run = atpatch(
        "debugset", shop / "model.onnx", "--data", tmp_path / name, "--tokenizer", shop, "--trigger", "cf",
        "--target", TARGET,
        "-o", tmp_path / "d.npz",
    )  # fmt: skip
    assert run.code == (1 if code == "ATP083" else 2) and code in run.err and not (tmp_path / "d.npz").exists()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "columns = 3",
        '[[columns]]\nname = "sex"\ninput = "other"\nindex = 0\n',
        "[[columns]]\nname = 1\n",
        "columns = {x = 1}",
    ],
)
def test_bad_descriptions(atpatch: Atpatch, office: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "c.toml").write_text(content)
    run = atpatch(
        "debugset", office / "model.onnx", "--data", office / "rows.csv", "--columns", tmp_path / "c.toml",
        "--attribute", "sex",
        "-o", tmp_path / "d.npz",
    )  # fmt: skip
    assert run.code == 2 and "ATP080" in run.err


@pytest.mark.parametrize(
    ("right", "slip", "said"),
    [
        ('["f", "m"]', '"f"', "'sex'"),
        ('["f", "m"]', '["f", "m", "f"]', "'sex'"),
        ("levels", "level", "'level'"),
    ],
)
def test_a_slip_in_a_description_is_named(office: Path, tmp_path: Path, right: str, slip: str, said: str) -> None:
    text = (office / "columns.toml").read_text()
    assert right in text
    (tmp_path / "c.toml").write_text(text.replace(right, slip))
    with pytest.raises(AtpatchError, match=f"ATP080.*{said}"):
        read_description(tmp_path / "c.toml", Subject(office / "model.onnx"))


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(AtpatchError, match="ATP081"):
        TextEncoder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(AtpatchError, match="ATP081"):
        TextEncoder(tmp_path)
