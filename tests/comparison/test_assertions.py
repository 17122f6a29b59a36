"""Bounds on figures: what is read, what holds, and that nothing passes for want of data."""

from __future__ import annotations

import pytest

from atpatch_onnx import AtpatchError
from atpatch_onnx.comparison.assertions import Assertion, check, parse

VALUES = {
    "original": {"asr": 0.98},
    "patched": {"asr": 0.02, "accuracy_drop": -0.001, "changed": 3.0},
    "other.v2": {"asr": 0.5},
}


@pytest.mark.parametrize(
    ("text", "graph", "name", "sign", "bound"),
    [
        ("asr_star<=0.01", "patched", "asr_star", "<=", 0.01),
        ("  accuracy_drop <= .003 ", "patched", "accuracy_drop", "<=", 0.003),
        ("asr_star<=1%", "patched", "asr_star", "<=", 0.01),
        ("accuracy_drop>-1e-2", "patched", "accuracy_drop", ">", -0.01),
        ("changed==0", "patched", "changed", "==", 0),
        ("original.asr>=0.9", "original", "asr", ">=", 0.9),
        ("other.v2.asr<1", "other.v2", "asr", "<", 1),
        ("uf!=2", "patched", "uf", "!=", 2),
    ],
)
def test_a_bound_is_read(text: str, graph: str, name: str, sign: str, bound: float) -> None:
    assert parse(text) == Assertion(text.strip(), graph, name, sign, bound)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "asr",
        "asr<=",
        "<=0.1",
        "asr=0.1",
        "asr=<0.1",
        "asr<=x",
        "asr<=0.1 and uf<=0.1",
        "0.1>=asr",
        "asr<=1e",
        "asr<=__import__('os')",
        "asr<=nan",
    ],
)
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(AtpatchError) as error:
        parse(text)
    assert error.value.code == "ATP060"
    assert error.value.exit_code == 2
    assert "\n" not in error.value.what and repr(text) in error.value.what


def test_an_unknown_figure_is_refused_with_the_known_ones() -> None:
    with pytest.raises(AtpatchError, match="asr_stra") as error:
        parse("asr_stra<=0.1")
    assert "asr_star" in error.value.fix and "accuracy_drop" in error.value.fix


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("asr<=0.02", True),
        ("asr<0.02", False),
        ("asr>=0.02", True),
        ("asr>0.02", False),
        ("asr==0.02", True),
        ("asr!=0.02", False),
        ("accuracy_drop<=0", True),
        ("original.asr<=0.5", False),
        ("other.v2.asr<=50%", True),
    ],
)
def test_bounds_hold_or_do_not(text: str, holds: bool) -> None:
    assert check(parse(text), VALUES)[0] is holds


@pytest.mark.parametrize(
    ("text", "word"), [("uf<=1", "uf is not known"), ("nobody.asr<=1", "nobody"), ("original.changed<=1", "changed")]
)
def test_what_is_not_known_does_not_hold(text: str, word: str) -> None:
    with pytest.raises(AtpatchError, match=word):
        check(parse(text), VALUES)
