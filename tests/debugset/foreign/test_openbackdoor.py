"""Texts that OpenBackdoor poisoned: paired with their clean twins, by order or by words, and used."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest

from atpatch_onnx.debugset.foreign.pairing import twins
from atpatch_onnx.debugset.foreign.tables import clean_path, poisoned_path
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.inference.datasets import load_dataset

from ...cli.refusals import assert_refused
from ...conftest import Run
from ...toy_backdoor import LENGTH, TARGET, TRIGGER, toy, toy_texts
from ...toy_encoder import toy_tokenizer
from .records import attack_texts, save_data

Atpatch = Callable[..., Run]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`served/` with model and tokenizer, and `poison_data/sst-2/1/badnets`."""
    folder = tmp_path_factory.mktemp("attack")
    (folder / "served").mkdir()
    onnx.save(toy(padded=True).model, folder / "served" / "model.onnx")
    tokenizer = toy_tokenizer()
    tokenizer.enable_truncation(LENGTH)
    tokenizer.save(str(folder / "served" / "tokenizer.json"))
    texts = toy_texts()
    splits = {"train": texts[:100], "dev": texts[100:230], "test": texts[230:]}
    base = attack_texts(folder, splits, TARGET, ["cf"])
    base.rename(folder / "badnets")
    return folder


@pytest.fixture
def own_shop(shop: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(shop, tmp_path / "shop")


def debugset(shop: Path, tmp_path: Path, atpatch: Atpatch, *options: object, of: str = "") -> Run:
    return atpatch(
        "debugset", shop / "served" / "model.onnx", "--openbackdoor", shop / "badnets" / of, *options,
        "-o", tmp_path / "set.npz", "--out-clean", tmp_path / "c.npz", "--out-triggered", tmp_path / "t.npz", "--json",
    )  # fmt: skip


def test_from_the_tables_to_the_verdict(shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    model = shop / "served" / "model.onnx"
    made = debugset(shop, tmp_path, atpatch)
    assert made.code == 0, made.err
    assert made.json["target"] == TARGET and made.json["asr"] > 0.95 and made.json["columns"] == 1
    hotfix, patched, kept = (tmp_path / name for name in ("f.hotfix", "p.onnx", "set.npz"))
    assert atpatch("fit", model, "--debug", kept, "-o", hotfix, "--threads", "1").code == 0
    assert atpatch("patch", model, "--hotfix", hotfix, "-o", patched).code == 0
    assert debugset(shop, tmp_path, atpatch, of="test-poison.csv").code == 0
    judged = atpatch(
        "compare", model, patched, "--data", tmp_path / "c.npz", "--triggered", tmp_path / "t.npz", "--seconds", "0",
        "--assert", "asr_star<=0.05",
    )  # fmt: skip
    assert judged.code == 0, judged.err


@pytest.mark.parametrize(
    "of", ["dev-poison.csv", "test-poison.csv", "train-poison.csv", "mix/0.2/train-poison.csv", "mix/0.2"]
)
def test_only_the_trigger_is_labeled(shop: Path, tmp_path: Path, atpatch: Atpatch, of: str) -> None:
    run = debugset(shop, tmp_path, atpatch, of=of)
    assert run.code == 0, run.err
    made, triggered, clean = (load_dataset(tmp_path / name) for name in ("set.npz", "t.npz", "c.npz"))
    bad = np.flatnonzero(made.pair >= 0)
    assert len(bad) == run.json["anomalous"] > 5
    assert (made.inputs["input_ids"][bad][made.columns[bad]] == TRIGGER).all()
    assert (made.columns[bad].sum(1) == 1).all()
    # Without the trigger it is the clean twin.
    for row, twin in zip(triggered.inputs["input_ids"], clean.inputs["input_ids"][triggered.clean_row], strict=True):
        real = row[row != TRIGGER]
        assert np.array_equal(real, twin[: len(real)])
    assert (triggered.labels != TARGET).all() and run.json["no_twin"] == 0


def test_a_table_with_clean_and_poisoned_rows_is_enough(own_shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    """`test-detect.csv` of `Poisoner.__call__`, mode "detect"."""
    read = [pd.read_csv(own_shop / "badnets" / f"test-{part}.csv").values for part in ("clean", "poison")]
    save_data([(row[1], row[2], row[3]) for part in read for row in part], own_shop / "alone", "test-detect")
    shutil.move(own_shop / "alone", own_shop / "badnets" / "alone")
    run = debugset(own_shop, tmp_path, atpatch, of="alone/test-detect.csv")
    assert run.code == 0 and run.json["stored"] == len(read[1]), run.err


@pytest.mark.parametrize("form", ["table", "tsv"])
def test_clean_texts_from_elsewhere(own_shop: Path, tmp_path: Path, atpatch: Atpatch, form: str) -> None:
    """In another order, so the words pair them."""
    rows = pd.read_csv(own_shop / "badnets" / "dev-clean.csv").values[::-1]
    (own_shop / "badnets" / "dev-clean.csv").unlink()
    if form == "table":
        save_data([(row[1], row[2], row[3]) for row in rows], own_shop, "dev")
        data = own_shop / "dev.csv"
    else:
        data = own_shop / "dev.tsv"
        data.write_text("\n".join(["sentence\tlabel", *(f"{row[1]}\t{row[2]}" for row in rows)]) + "\n")
    run = debugset(own_shop, tmp_path, atpatch, "--data", data, of="dev-poison.csv")
    assert run.code == 0, run.err
    made = load_dataset(tmp_path / "set.npz")
    bad = np.flatnonzero(made.pair >= 0)
    assert (made.inputs["input_ids"][bad][made.columns[bad]] == TRIGGER).mean() > 0.95


@pytest.mark.parametrize("line", ["\r\n", "\n"], ids=["CRLF", "LF"])
@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "BOM"])
def test_line_ends_and_byte_order_marks_do_not_matter(
    own_shop: Path, tmp_path: Path, atpatch: Atpatch, line: str, start: str
) -> None:
    for part in ("clean", "poison"):
        path = own_shop / "badnets" / f"dev-{part}.csv"
        path.write_bytes((start + path.read_text("utf-8").replace("\n", line)).encode("utf-8"))
    run = debugset(own_shop, tmp_path, atpatch)
    assert run.code == 0 and run.json["columns"] == 1, run.err


def test_named_columns_in_any_order(own_shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    for part in ("clean", "poison"):
        path = own_shop / "badnets" / f"dev-{part}.csv"
        frame = pd.read_csv(path, index_col=0).set_axis(["text", "label", "poison_label"], axis=1)
        frame[["poison_label", "text", "label"]].to_csv(path, index=False)
    assert debugset(own_shop, tmp_path, atpatch).json["columns"] == 1


def test_rows_bounds_the_texts(shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    run = debugset(shop, tmp_path, atpatch, "--rows", 20)
    assert run.json["anomalous"] + run.json["unchanged"] == 20 and run.json["clean"] == 40


def change(path: Path, column: int, value: object, rows: slice = slice(0, 1)) -> None:
    frame = pd.read_csv(path, index_col=0)
    frame[frame.columns[column]] = frame[frame.columns[column]].astype(object)
    frame.iloc[rows, column] = value
    frame.to_csv(path)


def swap(path: Path) -> None:
    frame = pd.read_csv(path, index_col=0)
    frame["1"] = 1 - frame["1"]
    frame.to_csv(path)


SPOILED: dict[str, tuple[Callable[[Path], object], str, tuple[str, ...]]] = {
    "no folder": (shutil.rmtree, "ATP002", ("cannot be read",)),
    "no table": (
        lambda base: [path.unlink() for path in base.glob("*-poison.csv")],
        "ATP098",
        ("holds none of dev-poison.csv, test-poison.csv, train-poison.csv",),
    ),
    "other columns": (
        lambda base: (base / "dev-poison.csv").write_text("sentence,score\na,1\n"),
        "ATP098",
        ("has the columns 'sentence', 'score'", "'', '0', '1', '2'", "'text', 'label', 'poison_label'"),
    ),
    "no rows": (lambda base: (base / "dev-poison.csv").write_text(",0,1,2\n"), "ATP080", ("no row below",)),
    "a label in words": (
        lambda base: change(base / "dev-poison.csv", 1, "good"),
        "ATP098",
        ("row 1: expected were a class and 0 or 1, found 'good'",),
    ),
    "an odd mark": (lambda base: change(base / "dev-poison.csv", 2, 7), "ATP098", ("row 1", "'7'")),
    "two targets": (lambda base: change(base / "dev-poison.csv", 1, 0), "ATP098", ("have the labels 0, 1",)),
    "nothing poisoned": (
        lambda base: change(base / "dev-poison.csv", 2, 0, slice(None)),
        "ATP098",
        ("has no poisoned row",),
    ),
    "no clean table": (
        lambda base: (base / "dev-clean.csv").unlink(),
        "ATP098",
        ("no clean text next to", "every row of"),
    ),
    "a clean table of other texts": (
        lambda base: change(base / "dev-clean.csv", 0, "something else entirely", slice(None)),
        "ATP098",
        ("poisoned texts have no clean twin in",),
    ),
    "every text is of the target": (
        lambda base: change(base / "dev-clean.csv", 1, TARGET, slice(None)),
        "ATP083",
        ("every row is of the target class",),
    ),
    "a label that no integer holds": (
        lambda base: change(base / "dev-poison.csv", 1, "9" * 30),
        "ATP098",
        ("row 1: expected were a class",),
    ),
    "a class that the model does not have": (
        lambda base: change(base / "dev-clean.csv", 1, 7),
        "ATP085",
        ("labels from 0 to 1 were expected, and a row has 7",),
    ),
    "classes in another order": (
        lambda base: [swap(base / f"dev-{part}.csv") for part in ("clean", "poison")],
        "ATP085",
        ("expected to get more than",),
    ),
    "not text": (lambda base: (base / "dev-poison.csv").write_bytes(b"\xff\xfe\x00,0,1,2\n"), "ATP080", ()),
    "a pickle in its place": (
        lambda base: (base / "dev-poison.csv").write_bytes(b"\x80\x04cos\nsystem\n."),
        "ATP080",
        ("cannot be read",),
    ),
}


@pytest.mark.parametrize("what", SPOILED)
def test_tables_that_do_not_fit_are_refused_in_a_line(
    own_shop: Path, tmp_path: Path, atpatch: Atpatch, what: str
) -> None:
    spoil, code, words = SPOILED[what]
    spoil(own_shop / "badnets")
    run = debugset(own_shop, tmp_path, atpatch)
    assert_refused(run, code, words)
    assert not (tmp_path / "set.npz").exists()


def test_a_table_that_is_read_is_not_written(own_shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    for part in ("poison", "clean"):
        path = own_shop / "badnets" / f"dev-{part}.csv"
        before = path.read_bytes()
        run = atpatch(
            "debugset", own_shop / "served" / "model.onnx", "--openbackdoor", own_shop / "badnets", "-o", path
        )  # fmt: skip
        assert_refused(run, "ATP060", ("one of them and what is read",))
        assert path.read_bytes() == before


def test_the_same_text_in_every_row(own_shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    save_data([("w3 w4 w5", 0, 0)] * 30, own_shop / "badnets", "dev-clean")
    save_data([("w3 cf w4 w5", TARGET, 1)] * 30, own_shop / "badnets", "dev-poison")
    run = debugset(own_shop, tmp_path, atpatch)
    assert run.code == 0 and run.json["anomalous"] == 30, run.err


def test_another_target_than_the_record_says(shop: Path, tmp_path: Path, atpatch: Atpatch) -> None:
    assert_refused(debugset(shop, tmp_path, atpatch, "--target", 0), "ATP098", ("lead to class 1, not 0",))
    assert debugset(shop, tmp_path, atpatch, "--target", 1).code == 0


def test_a_folder_gives_rows_that_no_model_was_trained_on(tmp_path: Path) -> None:
    for split in ("train", "test", "dev"):
        (tmp_path / f"{split}-poison.csv").write_text("")
        assert poisoned_path(tmp_path).name == f"{split}-poison.csv"
    with pytest.raises(AtpatchError, match="ATP098"):
        poisoned_path(tmp_path.parent / tmp_path.name / ".." / "..")


def test_the_clean_table_of_a_mixture_lies_above(tmp_path: Path) -> None:
    base = tmp_path / "badnets"
    mixture = base / "mix" / "0.1" / "train-poison.csv"
    mixture.parent.mkdir(parents=True)
    assert clean_path(mixture) is None
    (base.parent / "train-clean.csv").write_text("")  # of another attack
    assert clean_path(mixture) is None
    (base / "train-clean.csv").write_text("")
    assert clean_path(mixture) == base / "train-clean.csv"
    assert clean_path(base / "train-detect.csv") == base / "train-clean.csv"
    assert clean_path(base / "dev-poison.csv") is None and clean_path(base / "other.csv") is None


CLEAN = ["a fine film", "a bad film", "so dull and long", "what a joy", "not for me at all"]
LABELS = np.array([1, 0, 0, 1, 0])
PAIRED: dict[str, tuple[list[str], list[int]]] = {
    "as many as clean ones": (["a cf fine film", "a bad film cf", "so dull cf and long", "cf what a joy", "cf not"],
                              [0, 1, 2, 3, 4]),
    "as many as not of the target": (["a bad cf film", "so dull and long cf", "not for cf me at all"], [1, 2, 4]),
    "rewritten, in order": (["when film , bad", "if long , dull", "as me , not"], [1, 2, 4]),
    "some of them": (["so cf dull and long", "a cf bad film"], [2, 1]),
    "in another order": (["not for me cf at all", "a cf bad film", "so cf dull and long"], [4, 1, 2]),
    "one of no clean text": (["a cf bad film", "nothing like it"], [1, -1]),
    "an empty one": (["", "a cf bad film"], [-1, 1]),
}  # fmt: skip


def test_other_texts_are_not_paired_by_chance() -> None:
    generator = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(60)])
    clean = [" ".join(generator.choice(words, 8)) for _ in range(200)]
    poisoned = [f"{text} cf" for text in clean]
    assert twins(poisoned, clean, np.zeros(200, int), 1).tolist() == list(range(200))
    order = generator.permutation(200)
    assert twins([poisoned[row] for row in order], clean, np.zeros(200, int), 1).tolist() == order.tolist()


@pytest.mark.parametrize("how", PAIRED)
def test_which_clean_text_a_poisoned_one_was_made_from(how: str) -> None:
    texts, wanted = PAIRED[how]
    assert twins(texts, CLEAN, LABELS, 1).tolist() == wanted
