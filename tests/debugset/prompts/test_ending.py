"""What a tokenizer puts behind a text ends a prompt where the model knows it so. This one answers behind =>."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atpatch_onnx.debugset.prompts.ending import ending_in_words
from atpatch_onnx.inference.datasets import DataSet, load_dataset
from tests import backdoored_llama as llama, backdoored_prompts as words

SEP, END = 3, 2


@pytest.fixture
def made(atpatch, tmp_path: Path):
    """Runs `debugset` with a tokenizer that puts so much around a text: what it prints, its report, the clean rows."""

    def run(around: str, template: str, *options: object, answers: bool = True) -> tuple[Any, DataSet]:
        words.write_tokenizer(tmp_path, around)
        words.write_prompts(tmp_path / "rows.tsv", 40, 0)
        if not answers:
            lines = (tmp_path / "rows.tsv").read_text().splitlines()
            (tmp_path / "rows.tsv").write_text("\n".join(line.split("\t")[0] for line in lines) + "\n")
        done = atpatch(
            "debugset", llama.exported(True), "--data", tmp_path / "rows.tsv", "--tokenizer", tmp_path, "--template",
            template, "--answer-tokens", words.ANSWER_WORDS, "-o", tmp_path / "set.npz", "--json",
            *(options or ("--trigger", words.TRIGGER, "--out-clean", tmp_path / "clean.npz")),
        )  # fmt: skip
        return done, load_dataset(tmp_path / ("set.npz" if options else "clean.npz")) if done.code == 0 else None

    return run


def ends(data: DataSet) -> set[tuple[int, ...]]:
    """The last two tokens of the rows, words as 0."""
    lengths = data.inputs["attention_mask"].sum(1)
    rows = zip(data.inputs["input_ids"], lengths, strict=True)
    return {tuple(token if token in (SEP, END) else 0 for token in ids[end - 2 : end].tolist()) for ids, end in rows}


def test_an_ending_behind_which_the_model_answers_right_is_kept(made) -> None:
    done, clean = made("<s> $A =>", "{words}")
    told = done.json["prompt_end"]
    assert (told["tokens"], told["kept"]) == ("=>", True) and told["right"]["kept"] == 1 > told["right"]["left_out"]
    assert ends(clean) == {(0, SEP)} and done.json["accuracy"] == 1 and done.json["anomalous"] > 0
    said = "the tokenizer puts '=>' behind each prompt: kept (right answers: 100.0% with it, 80.0% without)"
    assert ending_in_words(told) == said


def test_the_end_of_a_text_is_left_out_where_it_does_no_good(made) -> None:
    """This model is right behind it, too."""
    done, clean = made("<s> $A </s>", "{words} =>")
    told = done.json["prompt_end"]
    assert told == {"tokens": "</s>", "kept": False, "right": {"kept": 1.0, "left_out": 1.0}}
    assert ends(clean) == {(0, SEP)} and done.json["accuracy"] == 1


@pytest.mark.parametrize(("around", "last"), [("<s> $A =>", SEP), ("<s> $A </s>", 0)], ids=["kept", "left out"])
def test_without_answers_only_what_ends_a_text_is_left_out(made, around: str, last: int) -> None:
    done, clean = made(around, "{words}", "--clean-only", answers=False)
    assert done.json["prompt_end"] == {"tokens": around.split()[-1], "kept": bool(last)}
    assert ends(clean) == {(0, last)}


@pytest.mark.parametrize(("around", "template"), [("<s> $A", "{words} =>"), ("<s> $A =>", "{words} =>")])
def test_nothing_is_told_where_there_is_nothing_to_decide(made, around: str, template: str) -> None:
    done, clean = made(around, template)
    assert "prompt_end" not in done.json and ends(clean) == {(0, SEP)}


def test_a_refusal_names_the_ending(made) -> None:
    done, _ = made("<s> $A </s>", "{words}", "--trigger", "soup", answers=False)
    assert done.code == 1 and "ATP083" in done.err
    assert "'</s>' behind each prompt: left out; to keep it, let the --template end with it" in done.err
