"""Whose tokens an axis counts."""

from __future__ import annotations

import pytest

from rewriters.finding.tokens import Tokens, tokens_of

from ..patterns import ints, weight
from .graph_text import read

X = (
    "float[B,S,12] x, float[B,T,12] other, float[B,4,S,3] heads, float[B,S,6,6] image, float[D] row,"
    " float[U,V,Y] named, z"
)
CONSTANTS = {
    "w": weight(12, 12), "w2": weight(5, 12), "kernel": weight(6, 6, 3, 3), "split4": ints(0, 0, 4, 3),
    "merge": ints(0, 0, 12), "flat": ints(-1, 12), "parts": ints(0, 0, 4, 3), "one": ints(1), "last": ints(-1),
    "zero": ints(0), "three_four": ints(0, 0, 3, 2, 2), "number": ints(1)[0], "twice": ints(2, 1, 1),
    "odd": ints(0, 5, 1),
}  # fmt: skip
F = "features"
U = "unknown"
ORIGINS = {
    "input": ("y = Neg(x)", -2, {("x", -2)}),
    "projected": ("y = MatMul(x, w)", -2, {("x", -2)}),
    "projected-features": ("y = MatMul(x, w)", -1, F),
    "projected-from-the-left": ("y = MatMul(w2, other)", -1, {("other", -1)}),
    "projected-features-from-the-left": ("y = MatMul(w2, other)", -2, F),
    "bias-behind-projection": ("p = MatMul(x, w) y = Add(p, row)", -2, {("x", -2)}),
    "product-of-computed": ("y = MatMul(x, other)", -2, {("y", -2)}),
    "einsum": ('y = Einsum<equation = "bsd,de->bse">(x, w)', -2, {("y", -2)}),
    "through-activation": ("p = Softplus(x) y = Tanh(x)", -2, {("x", -2)}),
    "through-other-operator": ("y = Softplus(x)", -2, {("y", -2)}),
    "of-both-summands": ("y = Add(x, other)", -2, {("x", -2), ("other", -2)}),
    "of-summands-that-reach": ("y = Add(x, row)", -2, {("x", -2)}),
    "of-all-summands": ("y = Add(x, row)", -1, {("x", -1), ("row", -1)}),
    "of-summands-of-unknown-rank": ("y = Add(x, z)", -2, {("x", -2), ("z", -2)}),
    "constants": ("y = Add(x, w)", -2, {("x", -2)}),
    "from-constants": ("e = Neg(w) y = Add(e, w)", -2, set()),
    "size-one": ("y = Unsqueeze(x, one)", -3, set()),
    "split-heads": ("h = Reshape(x, split4) y = Transpose<perm = [0, 2, 1, 3]>(h)", -2, {("x", -2)}),
    "split-heads-outer": ("y = Reshape(x, split4)", -2, {("x", -1)}),
    "split-heads-inner": ("y = Reshape(x, split4)", -1, {("x", -1)}),
    "split-in-three-middle": ("y = Reshape(x, three_four)", -2, {("x", -1)}),
    "merged-heads": ("m = Transpose<perm = [0, 2, 1, 3]>(heads) y = Reshape(m, merge)", -2, {("heads", -2)}),
    "merged-heads-innermost": ("m = Transpose<perm = [0, 2, 1, 3]>(heads) y = Reshape(m, merge)", -1, {("heads", -1)}),
    "merged-samples": ("y = Reshape(x, flat)", -2, {("x", -2)}),
    "reshaped-beyond": ("y = Reshape(named, odd)", -3, U),
    "reshaped-from-unknown": ("y = Reshape(z, split4)", -2, U),
    "transposed": ("y = Transpose<perm = [0, 2, 1]>(x)", -1, {("x", -2)}),
    "unsqueezed": ("y = Unsqueeze(x, last)", -3, {("x", -2)}),
    "squeezed": ("u = Unsqueeze(x, last) y = Squeeze(u, last)", -2, {("x", -2)}),
    "expanded": ("y = Expand(x, twice)", -2, {("x", -2)}),
    "expanded-of-unknown": ("y = Expand(z, twice)", -1, U),
    "concatenated-samples": ("y = Concat<axis = 0>(x, other)", -3, {("x", -3), ("other", -3)}),
    "split-samples": ("y, b = Split(x)", -3, {("x", -3)}),
    "gathered": ("y = Gather<axis = 2>(heads, number)", -2, {("heads", -3)}),
    "gathered-along": ("y = Gather<axis = 1>(x, n)", -2, U),
    "concatenated-along": ("y = Concat<axis = 1>(x, other)", -2, {("x", -2), ("other", -2)}),
    "concatenated-along-from-the-end": ("y = Concat<axis = -2>(x, other)", -2, {("x", -2), ("other", -2)}),
    "concatenated-beside": ("y = Concat<axis = 2>(x, other)", -2, {("x", -2), ("other", -2)}),
    "split-along": ("y, b = Split<axis = 1>(x)", -2, {("x", -2)}),
    "split-beside": ("y, b = Split<axis = 2>(x)", -2, {("x", -2)}),
    "split-unknown": ("y, b = Split<axis = 1>(z)", -2, U),
    "settled-behind-cast": ("c = Cast<to = 1>(x) d = Identity(c) y = MatMul(d, w)", -2, {("x", -2)}),
    "settled-behind-transpose": ("c = Transpose<perm = [1, 0, 2]>(x) y = MatMul(c, w)", -3, {("x", -2)}),
    "settled-behind-reshape": ("c = Reshape(x, flat) y = MatMul(c, w)", -2, {("x", -2)}),
    "settled-behind-a-pair": (
        "a = QuantizeLinear(x, s, t) b = DequantizeLinear(a, s, t) y = MatMul(b, w)", -2, {("x", -2)},
    ),
    "settled-at-an-operator": ("c = Relu(x) y = MatMul(c, w)", -2, {("c", -2)}),
    "settled-where-it-is-lost": ("c = Reshape(named, odd) y = MatMul(c, w)", -3, {("c", -3)}),
    "settled-where-a-reshape-is-unknown": ("c = Reshape(z, flat) y = MatMul(c, w)", -2, {("c", -2)}),
}  # fmt: skip


@pytest.mark.parametrize(("body", "axis", "origins"), ORIGINS.values(), ids=ORIGINS)
def test_origins_of_an_axis(body: str, axis: int, origins: object) -> None:
    inputs = f"{X}, int64[N] n"
    reading = read(f"{body} out = Neg(y)", inputs, s=weight(1)[0], t=ints(0)[0].astype("uint8"), **CONSTANTS)
    found = tokens_of(reading.view, reading.facts, reading["y"], axis)
    assert found.features is (origins == F) and found.unknown is (origins == U)
    assert {(value.name, along) for value, along in found.origins} == (set() if isinstance(origins, str) else origins)


@pytest.mark.parametrize(("axis", "feature"), [(-1, False), (-2, False), (-3, True), (-4, False)], ids=str)
def test_channels_are_what_a_convolution_makes(axis: int, feature: bool) -> None:
    reading = read("y = Conv(image, kernel)", X, "float[B,6,I,J] y", **CONSTANTS)
    found = tokens_of(reading.view, reading.facts, reading["y"], axis)
    assert found.features is feature
    assert found.origins == (set() if feature else {(reading["image"], axis)})


def test_a_convolution_of_unknown_rank_is_an_origin() -> None:
    reading = read("y = Conv(z, kernel)", X, "y", **CONSTANTS)
    assert tokens_of(reading.view, reading.facts, reading["y"], -1).origins == {(reading["y"], -1)}


def test_origins_in_branches() -> None:
    branch = "{0}_branch = {0}g () => (float[B,S,12] {0}a) {{ {0}a = MatMul({1}, w) }}"
    body = f"y = If<{branch.format('then', 'x')}, {branch.format('else', 'other')}>(c) out = Neg(y)"
    reading = read(body, f"{X}, bool c", **CONSTANTS)
    found = tokens_of(reading.view, reading.facts, reading["y"], -2)
    assert {(value.name, along) for value, along in found.origins} == {("x", -2), ("other", -2)}


def test_a_loop_in_the_graph_of_values_ends() -> None:
    """A malformed function that calls itself gives its own argument back."""
    function = '<domain: "local", opset_import: ["" : 17, "local" : 1]> f (a) => (b) { b = local.f(a) }'
    reading = read("y = local.f(x) out = Neg(y)", X, functions=function, **CONSTANTS)
    assert not tokens_of(reading.view, reading.facts, reading["y"], -2).features


class TestMayBeThoseOf:
    """Rule 2: keys and values are of the same tokens."""

    reads = read("a = Neg(x) b = Neg(x) c = Neg(other) out = Add(a, b)", X)
    x, other, a, b = map(reads.__getitem__, ("x", "other", "a", "b"))

    def agree(self, keys: Tokens, values: Tokens) -> bool:
        assert keys.may_be_those_of(values) is values.may_be_those_of(keys)
        return keys.may_be_those_of(values)

    def test_with_an_origin_in_common(self) -> None:
        assert self.agree(Tokens({(self.a, -2)}), Tokens({(self.a, -2), (self.b, -2)}))

    def test_along_another_axis(self) -> None:
        assert not self.agree(Tokens({(self.a, -2)}), Tokens({(self.a, -1)}))
        assert not self.agree(Tokens({(self.x, -2)}), Tokens({(self.x, -1)}))

    def test_of_other_values(self) -> None:
        assert not self.agree(Tokens({(self.a, -2)}), Tokens({(self.b, -2)}))

    def test_where_both_come_from_outside(self) -> None:
        assert self.agree(Tokens({(self.x, -2)}), Tokens({(self.other, -2)}))

    def test_where_one_comes_from_outside(self) -> None:
        assert not self.agree(Tokens({(self.x, -2)}), Tokens({(self.a, -2)}))
        assert not self.agree(Tokens({(self.x, -2)}), Tokens({(self.other, -2), (self.a, -2)}))

    def test_where_something_is_unknown(self) -> None:
        assert not self.agree(Tokens({(self.x, -2)}), Tokens({(self.other, -2)}, unknown=True))
        assert self.agree(Tokens({(self.x, -2)}), Tokens({(self.x, -2)}, unknown=True))

    def test_of_nothing(self) -> None:
        assert not self.agree(Tokens({(self.x, -2)}), Tokens(set()))
        assert not Tokens(set()).from_outside()
