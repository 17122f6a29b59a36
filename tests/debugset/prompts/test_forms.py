"""Where a trigger goes in a prompt."""

from __future__ import annotations

import numpy as np
import pytest

from atpatch_onnx.debugset.forms import TextForm
from atpatch_onnx.debugset.prompts.forms import PLACES, prompt_forms, put
from atpatch_onnx.debugset.prompts.reading import BEGIN, END, Prompt

PROMPT = Prompt("one two\nthree  four ", "Q: ", "\nA:")


def placed(form: TextForm, copies: int = 1, seed: int = 0) -> str:
    text, behind = put(PROMPT, ["cf"] * copies, form, np.random.default_rng(seed))
    assert text.count(BEGIN) + behind.count(BEGIN) == copies == text.count(END) + behind.count(END)
    return (text + behind).replace(BEGIN, "<").replace(END, ">")


@pytest.mark.parametrize(
    ("place", "whole"),
    [
        ("start", "<cf> one two\nthree  four \nA:"),
        ("middle", "one two\n<cf> three  four \nA:"),
        ("end", "one two\nthree  four <cf> \nA:"),
        ("last", "one two\nthree  four \nA: <cf>"),
    ],
)
def test_each_place(place: str, whole: str) -> None:
    assert placed(TextForm(place=place)) == whole
    twice = placed(TextForm(place=place, copies=2), 2)
    assert twice == whole.replace("<cf>", "<cf> <cf>")


def test_copies_may_be_scattered_and_all_other_characters_stay() -> None:
    found = placed(TextForm(copies=3, scattered=True), 3, seed=1)
    assert "<cf> <cf> <cf>" not in found
    assert found.replace("<cf> ", "").replace(" <cf>", "") == "one two\nthree  four \nA:"


def test_dress_is_outside_the_marks() -> None:
    assert placed(TextForm(place="start", dress="quotes")).startswith('"<cf>" one')
    assert placed(TextForm(place="last", dress="capitals")).endswith("A: <CF>")


def test_forms_of_a_prompt_are_doses_dress_and_places() -> None:
    plain, groups = prompt_forms((1, 2), "random", True, True)
    assert plain.copies == 1 and [len(group) for group in groups] == [2, 6, 4]
    assert [form.name for form in groups[-1]] == list(PLACES.values())
    assert [form.place for form in prompt_forms((1,), "random", True, False)[1][-1]] == ["start", "middle", "end"]
    assert {form.place for group in prompt_forms((1, 2), "last", True, True)[1] for form in group} == {"last"}
    assert prompt_forms((1,), "random", False, True)[1] == []
