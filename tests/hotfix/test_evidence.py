"""The types of a hotfix's evidence say what is in the files: those of today, and those of older versions."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest

from atpatch_onnx.fitting.fitter import fit
from atpatch_onnx.hotfix.evidence import Evidence, Rate
from atpatch_onnx.hotfix.file import Hotfix
from tests import toy_backdoor as toys

DEMO = Path(__file__).parents[2] / "atpatch_onnx" / "demo" / "digits" / "model.hotfix"


def faults(value: Any, kind: Any, at: str) -> Iterator[str]:
    """Where plain data differ from a type."""
    if get_origin(kind) in (Required, NotRequired):
        yield from faults(value, get_args(kind)[0], at)
    elif is_typeddict(kind):
        hints = get_type_hints(kind, include_extras=False)
        yield from (f"{at}: {key} is missing" for key in sorted(kind.__required_keys__ - value.keys()))
        for key, entry in value.items():
            yield from faults(entry, hints[key], f"{at}.{key}") if key in hints else [f"{at}.{key} is not declared"]
    elif get_origin(kind) in (Union, types.UnionType):
        if all(list(faults(value, one, at)) for one in get_args(kind)):
            yield f"{at}: {value!r} is none of {kind}"
    elif get_origin(kind) is Literal:
        if value not in get_args(kind):
            yield f"{at}: {value!r}"
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from faults(entry, get_args(kind)[1], f"{at}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, entry in enumerate(value):
            yield from faults(entry, get_args(kind)[0], f"{at}[{index}]")
    elif not isinstance(value, (int, float) if kind is float else kind):
        yield f"{at}: {value!r} is no {kind}"


def test_the_hotfix_of_the_demo_is_what_the_types_say() -> None:
    evidence = Hotfix.load(DEMO).evidence
    assert list(faults(evidence, Evidence, "evidence")) == []
    assert evidence["report"]["after"]["asr_star"]["k"] == 0


@pytest.mark.parametrize("options", [{}, {"detector": "oneclass"}], ids=["labelled", "label-free"])
def test_what_a_fit_writes_is_what_the_types_say(options: dict[str, Any]) -> None:
    toy = toys.toy(padded=True)
    dose = toy.debug["columns"].sum(1)
    hotfix = fit(toy.model, {**toy.debug, "dose": dose}, toy.clean, threads=1, **options)
    assert hotfix.evidence["report"]["doses"].keys() == {"1"}
    assert list(faults(hotfix.describe()["evidence"], Evidence, "evidence")) == []


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"k": 1}, "rate: n is missing"),
        ({"k": 1, "n": 2, "middle": 0.5}, "rate.middle is not declared"),
        ({"k": "1", "n": 2}, "rate.k: '1' is no <class 'int'>"),
    ],
)
def test_another_form_is_noticed(value: dict[str, Any], fault: str) -> None:
    assert list(faults(value, Rate, "rate")) == [fault]
