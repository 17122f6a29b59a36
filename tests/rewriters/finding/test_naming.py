"""What a site is called."""

from __future__ import annotations

import pytest

from rewriters.finding.naming import Names, scope_of

SCOPES = {
    "last-module": ("n", "['', 'encoder', 'encoder.layer.0', 'softmax']", "encoder.layer.0"),
    "without-empty-names": ("n", "['encoder', '', 'softmax']", "encoder"),
    "without-what-is-no-name": ("n", "['encoder', 3, None, 'softmax']", "encoder"),
    "only-the-operator": ("a/b", "['softmax']", "a"),
    "no-list": ("a/b", "{'encoder': 1, 'softmax': 2}", "a"),
    "number": ("a/b", "3", "a"),
    "no-literal": ("a/b", "encoder, softmax(", "a"),
    "no-literal-but-an-expression": ("a/b", "print('x')", "a"),
    "none": ("a/b", None, "a"),
    "folders": ("/encoder/layer.0/attention/Softmax", None, "encoder.layer.0.attention"),
    "no-folder": ("Softmax_12", None, "Softmax_12"),
    "no-folder-but-slashes": ("/Softmax_12/", None, "Softmax_12"),
    "nothing": ("", None, ""),
}


@pytest.mark.parametrize(("name", "literal", "scope"), SCOPES.values(), ids=SCOPES)
def test_scope_of_a_node(name: str, literal: str | None, scope: str) -> None:
    assert scope_of(name, {} if literal is None else {"pkg.torch.onnx.name_scopes": literal}) == scope


def test_every_id_is_handed_out_once() -> None:
    names = Names()
    taken = [names.take(scope) for scope in ("a", "a", "a.2", "a", "b", "a")]
    assert taken == ["a", "a.2", "a.2.2", "a.3", "b", "a.4"]


def test_an_id_fits_into_names_of_files_and_values() -> None:
    assert [Names().take(scope) for scope in ("/a b/(c)", "_x.y-z_", "", "///")] == [
        "a_b_c",
        "x.y-z",
        "softmax",
        "softmax",
    ]
