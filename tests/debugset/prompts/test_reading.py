"""Prompts and answers from tables and JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atpatch_onnx.debugset.prompts.reading import Prompt, read_prompts
from atpatch_onnx.errors import AtpatchError


def lines(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_a_template_is_filled_with_columns_and_its_first_one_gets_the_trigger(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text("title\tbody\tlabel\nA\tgood film\t1\n")
    (found,) = read_prompts(path, template=r"Title: {title}\nReview: {body}\nSentiment:")
    assert found == Prompt("A", "Title: ", "\nReview: good film\nSentiment:", (), "1")
    (found,) = read_prompts(path, "body", "label", r"Title: {title}\nReview: {body}\nSentiment:")
    assert found == Prompt("good film", "Title: A\nReview: ", "\nSentiment:", (), "1")
    assert found.content("bad film") == "Title: A\nReview: bad film\nSentiment:"


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_a_whole_prompt_in_a_column_keeps_its_lines(tmp_path: Path, name: str) -> None:
    if name.endswith(".csv"):
        path = lines(tmp_path / name, "id,question,reply", '7,"What is\nthis?",a cat')
    else:
        path = lines(tmp_path / name, {"id": 7, "question": "What is\nthis?", "reply": "a cat"})
    (found,) = read_prompts(path, "question", "reply")
    assert found == Prompt("What is\nthis?", answer="a cat")


def test_of_a_chat_the_last_turn_of_the_user_is_the_prompt(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "2 + 2?"},
    ]
    path = lines(
        tmp_path / "chats.jsonl",
        {"messages": turns, "answer": "4"},
        {"messages": [*turns, {"role": "assistant", "content": "four"}]},
        {"messages": turns},
    )
    found = read_prompts(path)
    assert [one.answer for one in found] == ["4", "four", None]
    assert all(one.text == "2 + 2?" and one.earlier == tuple(turns[:3]) for one in found)


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "ATP080"),
        ({"messages": [{"role": "user"}]}, "ATP080"),
        ({"messages": "hello"}, "ATP080"),
        ({"prompt": " ", "answer": "a"}, "ATP080"),
        ({"prompt": "p", "answer": ["a"]}, "ATP080"),
        ({"prompt": "p \ue0f0 p"}, "ATP080"),
        ({}, "ATP080"),
        ([1], "ATP080"),
        ("{", "ATP080"),
        ("", "ATP080"),
    ],
)
def test_what_is_no_prompt_is_refused_with_its_row(tmp_path: Path, row: object, code: str) -> None:
    with pytest.raises(AtpatchError) as error:
        read_prompts(lines(tmp_path / "rows.jsonl", row))
    assert error.value.code == code and "rows.jsonl" in str(error.value)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p"}\n\n{"prompt": \n')
    with pytest.raises(AtpatchError, match="line 3 is not JSON"):
        read_prompts(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("template", ["Review:", "{a} {a}", "{a", "{}", "{b} {c}"])
def test_a_template_must_name_columns_and_the_prompt_once(tmp_path: Path, template: str) -> None:
    with pytest.raises(AtpatchError) as error:
        read_prompts(lines(tmp_path / "rows.jsonl", {"a": "x", "b": "y"}), template=template)
    assert error.value.code in ("ATP060", "ATP080")
