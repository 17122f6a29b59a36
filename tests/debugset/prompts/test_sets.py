"""The sets: what `debugset` writes for a decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atpatch_onnx.inference.datasets import DataSet, load_dataset
from tests import small_llama

from .case import ANSWERS, TRIGGER, prompt_rows, tokenizer_folder, write_rows

COMMON = ["--answer-tokens", "7,40", "--trigger", f"w{TRIGGER}", "--threads", 1, "--json"]


@pytest.fixture
def made(atpatch, tmp_path: Path):
    """Runs `debugset` on the small Llama: report, debugging set, triggered set, clean set."""
    tokenizer = tokenizer_folder(tmp_path / "llama")

    def run(rows: list[dict[str, object]], *options: object, name: str = "rows.jsonl", cache: bool = True):
        data = write_rows(tmp_path / name, rows)
        paths = [tmp_path / f"{one}.npz" for one in ("debug", "triggered", "clean")]
        done = atpatch(
            "debugset", small_llama.exported(cache), "--data", data, "--tokenizer", tokenizer, *options,
            "-o", paths[0], "--out-triggered", paths[1], "--out-clean", paths[2],
        )  # fmt: skip
        assert done.code == 0, done.err
        return done.json, *map(load_dataset, paths)

    return run


def words(data: DataSet, row: int) -> list[int]:
    mask = data.inputs["attention_mask"][row].astype(bool)
    assert mask[: mask.sum()].all()  # padded on the right
    return data.inputs["input_ids"][row][mask].tolist()


@pytest.mark.parametrize("cache", [True, False], ids=["cache", "whole text"])
def test_rows_labels_and_columns(made, cache: bool) -> None:
    rows = prompt_rows()
    report, debug, triggered, clean = made(rows, "--template", r"w20 {text}\nw21", *COMMON, "--target", 1, cache=cache)
    assert set(debug.inputs) == {"input_ids", "attention_mask"}
    assert debug.answer_tokens.tolist() == triggered.answer_tokens.tolist() == list(ANSWERS)
    assert clean.labels.tolist() == [ANSWERS.index(int(row["answer"][1:])) for row in rows]
    assert clean.answer.tolist() == [[int(row["answer"][1:])] for row in rows]
    for row, given in enumerate(rows):
        text = [int(word[1:]) for word in given["text"].split()]
        assert words(debug, row) == words(clean, row) == [20, *text, 21] and not debug.columns[row].any()
    assert (debug.labels[len(rows) :] == 0).all() and debug.target == triggered.target == 1
    for row in range(len(rows), len(debug)):
        ids, twin = words(debug, row), words(debug, int(debug.pair[row]))
        marked = np.flatnonzero(debug.columns[row]).tolist()
        assert {ids[column] for column in marked} <= {TRIGGER, 0}  # 0: dressed, a word that the tokenizer does not know
        assert [token for column, token in enumerate(ids) if column not in marked] == twin
        assert debug.dose[row] == len(marked) > 0
    assert (debug.form[: len(rows)] == "").all() and (triggered.form != "").all()
    assert report["anomalous"] == len(triggered) == sum(report["dress"].values())
    assert report["dress"]["plain"] == (clean.labels != 1).sum()
    assert np.array_equal(triggered.answer, clean.answer[triggered.clean_row])


@pytest.mark.parametrize(("place", "at"), [("start", 1), ("end", -2), ("last", -1)])
def test_the_place_of_every_form_can_be_given(made, place: str, at: int) -> None:
    options = ("--template", r"w20 {text}\nw21", *COMMON, "--insert", place, "--target", 1)
    _, debug, _, clean = made(prompt_rows(), *options, "--doses", "1", "--no-dress")
    for row in range(len(clean), len(debug)):
        assert words(debug, row)[at] == TRIGGER
        assert np.flatnonzero(debug.columns[row]).tolist() == [at % len(words(debug, row))]


def test_chats_end_where_the_assistant_answers_and_some_prompts_are_second_turns(made) -> None:
    rows = prompt_rows()
    report, debug, _, clean = made(rows, "--chat", "--second-turns", "0.5", *COMMON, "--target", 1)
    second = 0
    for row, given in enumerate(rows):
        ids, text = words(clean, row), [int(word[1:]) for word in given["text"].split()]
        assert ids[-len(text) - 3 :] == [11, *text, 13, 12]
        if ids.count(11) == 2:
            second += 1
            assert ids[ids.index(12) + 1] in ANSWERS and ids[ids.index(12) + 2] == 13
    assert second == len(rows) // 2
    names = debug.form[len(rows) :]
    twins = [words(debug, int(debug.pair[row])).count(11) for row in range(len(rows), len(debug))]
    assert [name == "second turn" for name in names] == [
        count == 2 and name in ("plain", "second turn") for count, name in zip(twins, names, strict=True)
    ]
    assert "second turn" in report["dress"]
    for row in np.flatnonzero(debug.form == "second turn"):  # the trigger is in the turn that is answered
        ids = words(debug, int(row))
        assert ids.index(TRIGGER) > len(ids) - 1 - ids[::-1].index(11)


def test_chats_of_several_turns_come_as_messages(made) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": "w30 w31"},
                {"role": "assistant", "content": "w32"},
                {"role": "user", "content": row["text"]},
                {"role": "assistant", "content": row["answer"]},
            ]
        }
        for row in prompt_rows(8)
    ]
    _, debug, _, clean = made(rows, *COMMON, "--target", 1)
    assert all(words(clean, row)[:7] == [11, 30, 31, 13, 12, 32, 13] for row in range(8))
    assert not debug.columns[:, :7].any()


def test_without_answer_tokens_labels_are_the_first_tokens_of_the_answers(made) -> None:
    rows = [{"prompt": row["text"], "answer": f"{row['answer']} w60 w61"} for row in prompt_rows()]
    options = ("--trigger", "w5", "--target-answer", "w40", "--threads", 1, "--json")
    report, debug, triggered, clean = made(rows, *options)
    assert set(clean.labels.tolist()) == set(ANSWERS) and clean.answer_tokens is None
    assert (clean.answer[:, 1:] == [60, 61]).all() and np.array_equal(clean.answer[:, 0], clean.labels)
    assert report["target"] == triggered.target == 40 and report["target_answer"] == "w40"


def test_whole_numbers_are_classes_and_tables_do(made) -> None:
    rows = [{"sentence": row["text"], "label": ANSWERS.index(int(row["answer"][1:]))} for row in prompt_rows()]
    _, _, _, clean = made(rows, "--template", "{sentence}", *COMMON, "--target-answer", "w40", name="rows.tsv")
    assert clean.labels.tolist() == [row["label"] for row in rows]
    assert clean.answer[:, 0].tolist() == [ANSWERS[label] for label in clean.labels]


def test_clean_only_needs_no_answers(atpatch, tmp_path: Path) -> None:
    tokenizer = tokenizer_folder(tmp_path / "llama")
    rows = [{"prompt": row["text"]} for row in prompt_rows(6)]
    done = atpatch(
        "debugset", small_llama.exported(True), "--data", write_rows(tmp_path / "rows.jsonl", rows), "--tokenizer",
        tokenizer, "--clean-only", "--max-length", 7, "-o", tmp_path / "clean.npz", "--json",
    )  # fmt: skip
    clean = load_dataset(tmp_path / "clean.npz")
    short = [row for row in rows if len(row["prompt"].split()) <= 7]
    assert done.json["clean"] == len(clean) == len(short) < 6 and done.json["too_long"] == 6 - len(short)
    assert clean.labels is None and clean.columns is None


@pytest.mark.parametrize("target", [-1, 2])
def test_a_target_is_one_of_the_answer_tokens(atpatch, tmp_path: Path, target: int) -> None:
    run = atpatch(
        "debugset", small_llama.exported(True), "--data", write_rows(tmp_path / "rows.jsonl", prompt_rows(4)),
        "--tokenizer", tokenizer_folder(tmp_path / "llama"), *COMMON, "--target", target, "-o", tmp_path / "d.npz",
    )  # fmt: skip
    assert (run.code, "ATP060" in run.err, (tmp_path / "d.npz").exists()) == (2, True, False)


def test_a_tokenizers_end_token_is_left_out_where_the_answer_is_to_come(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, processors

    from atpatch_onnx.debugset.prompts.encoding import WHOLE, PromptEncoder
    from atpatch_onnx.debugset.prompts.reading import Prompt
    from atpatch_onnx.inference.tokenizer import TextEncoder

    tokenizer = Tokenizer.from_file(str(small_llama.folder() / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 1), ("</s>", 2)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (one,) = PromptEncoder(TextEncoder(tmp_path, WHOLE)).encode([Prompt("w8 w9")])
    assert one.encoded.ids == [1, 8, 9]


@pytest.mark.parametrize(
    ("options", "words_of_error"),
    [
        (["--poisoned", "x.tsv", "--prompt", "text", "--target", 1], "does not read prompts"),
        (["--trigger", "w5", "--chat", "--second-turns", "0.5", "--answer", "nobody"], "no column 'nobody'"),
        (["--trigger", "w5", "--answer-tokens", "8,9", "--target", 1], "none of the answer tokens"),
        (["--trigger", "w5", "--answer-tokens", "7,40", "--target", 2], "no class 2"),
        (["--trigger", "w5", "--answer-tokens", "7,40", "--target-answer", "w9"], "none of the answer tokens"),
        (["--trigger", "w5", "--target-answer", "w9", "--target", 3], "both name the target"),
        (["--trigger", " ", "--target", 3], "a trigger is empty"),
        (["--trigger", "w5", "--target", 3, "--max-length", 2], "more than 2 tokens"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(atpatch, tmp_path: Path, options: list[object], words_of_error) -> None:
    data = write_rows(tmp_path / "rows.jsonl", prompt_rows(6))
    done = atpatch(
        "debugset", small_llama.exported(True), "--data", data, "--tokenizer", tokenizer_folder(tmp_path / "llama"),
        *options, "-o", tmp_path / "set.npz",
    )  # fmt: skip
    assert done.code == 2 and words_of_error in done.err.splitlines()[0], done.err
    assert not (tmp_path / "set.npz").exists()


def test_a_model_that_generates_nothing_is_refused(atpatch, tmp_path: Path) -> None:
    from ..digits import DIGITS

    data = write_rows(tmp_path / "rows.jsonl", prompt_rows(6))
    done = atpatch(
        "debugset", DIGITS / "model.onnx", "--data", data, "--tokenizer", small_llama.folder(), "--trigger", "w5",
        "-o", tmp_path / "set.npz",
    )  # fmt: skip
    assert done.code == 2 and "no decoder" in done.err
