"""The rules by which sites are joined, on small graphs."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest

from rewriters.finding.finder import find_sites
from rewriters.finding.token_groups import token_groups

ONES = ",".join("1" * 16)
CONSTANTS = (
    f"float[4,4] w = {{{ONES}}}, int64[1] a1 = {{1}}, float one = {{1}}, float low = {{-10000}}, "
    f"int64[4] split = {{0,0,2,2}}, int64[3] join = {{0,0,4}}, int64[3] merge = {{-1,5,2}},"
    " int64[4] apart = {-1,2,5,2}"
)


def block(x: str, y: str, keys: str = "", bias: str = "") -> str:
    """Self-attention of `x` (or over the tokens of `keys`), summed with its input."""
    k, mask = keys or x, f"m{y} = Add(s{y}, {bias})" if bias else f"m{y} = Identity(s{y})"
    return (
        f"q{y} = MatMul({x}, w) k{y} = MatMul({k}, w) v{y} = MatMul({k}, w) t{y} = Transpose<perm = [0,2,1]>(k{y})"
        f" s{y} = MatMul(q{y}, t{y}) {mask} p{y} = Softmax<axis = -1>(m{y}) o{y} = MatMul(p{y}, v{y})"
        f" {y} = Add(o{y}, {x})"
    )


def block_of_heads(x: str, y: str) -> str:
    """The same with two heads, whose axis stays behind that of the tokens."""
    parts = " ".join(f"{n}w{y} = MatMul({x}, w) {n}{y} = Reshape({n}w{y}, split)" for n in "qkv")
    return (
        f'{parts} s{y} = Einsum<equation = "bqhd,bkhd->bhqk">(q{y}, k{y}) p{y} = Softmax<axis = -1>(s{y})'
        f' o{y} = Einsum<equation = "bhqk,bkhd->bqhd">(p{y}, v{y}) oj{y} = Reshape(o{y}, join) {y} = Add(oj{y}, {x})'
    )


PADDING = "f = Cast<to = 1>(attention_mask) u = Unsqueeze(f, a1) n = Sub(one, u) h = Mul(n, low)"
FIXED, OPEN = "float[B,5,4] x", "float[B,K,4] x"

# inputs, nodes → the groups, by the names of the blocks
GROUPS = {
    "one after the other": (FIXED, f"{block('x', 'a')} {block('a', 'b')} {block('b', 'c')}", [["a", "b", "c"]]),
    "heads behind the tokens": (FIXED, f"{block_of_heads('x', 'a')} {block_of_heads('a', 'b')}", [["a", "b"]]),
    "one only": (FIXED, block("x", "a"), []),
    "of open length": (OPEN, f"{block('x', 'a')} {block('a', 'b')}", []),
    "towers": (
        f"{FIXED}, float[B,5,4] z",
        " ".join(block(*pair) for pair in ("xa", "zb", "ac", "bd")),
        [["a", "c"], ["b", "d"]],
    ),
    "side by side": (FIXED, f"{block('x', 'a')} {block('x', 'b')}", []),
    "joined towers": (
        f"{FIXED}, float[B,5,4] z",
        " ".join((block("x", "a"), block("z", "b"), "c = Add(a, b)", block("c", "d"))),
        [],
    ),
    "with cross attention": (
        f"{FIXED}, float[B,6,4] z",
        f"{block('x', 'a')} {block('a', 'b')} {block('b', 'c', 'z')}",
        [],
    ),
    "of another length behind": (
        FIXED,
        " ".join((block("x", "a"), "r = Transpose<perm = [0,2,1]>(a)", block("r", "b").replace("w)", "w5)"))),
        [],
    ),
    "in another order": (
        FIXED,
        f"{block('x', 'a')} r = Gather<axis = 1>(a, order) {block('r', 'b')}",
        [],
    ),
    "one mask": (
        f"{OPEN}, int64[B,K] attention_mask",
        " ".join((PADDING, block("x", "a", bias="h"), block("a", "b", bias="h"))),
        [["a", "b"]],
    ),
    "one mask, side by side": (
        f"{OPEN}, int64[B,K] attention_mask",
        " ".join((PADDING, block("x", "a", bias="h"), block("x", "b", bias="h"))),
        [["a", "b"]],
    ),
    "one mask, cross attention": (
        f"{OPEN}, float[B,Q,4] z, int64[B,K] attention_mask",
        f"{PADDING} {block('x', 'a', bias='h')} {block('z', 'b', 'a', bias='h')}",
        [["a", "b"]],
    ),
    "one with a mask, one without": (
        f"{OPEN}, int64[B,K] attention_mask",
        f"{PADDING} {block('x', 'a', bias='h')} {block('a', 'b')}",
        [],
    ),
    "chains beside a mask": (
        f"{FIXED}, int64[B,5] attention_mask",
        f"{PADDING} {block('x', 'a')} {block('a', 'b')} {block('b', 'c', bias='h')} {block('c', 'd', bias='h')}",
        [["a", "b"], ["c", "d"]],
    ),
    "of one sample": ("float[1,5,4] x", f"{block('x', 'a')} {block('a', 'b')}", []),
    "of windows": (
        "float[B,25,4] whole",
        f"x = Reshape(whole, windows) {block('x', 'a')} {block('a', 'b')}",
        [],
    ),
    "of values of which nothing is known": (
        FIXED,
        block("x", "a").replace("va = MatMul(x, w)", "va = own.Values(x)")
        + block("x", "b").replace("vb = MatMul(x, w)", "vb = MatMul(a, w)"),
        [],
    ),
    "of five axes": (
        "float[B,2,2,5,4] x",
        f"{block('x', 'a')} {block('a', 'b')}".replace("[0,2,1]", "[0,1,2,4,3]"),
        [],
    ),
    "without samples": (
        "float[5,4] x",
        f"{block('x', 'a')} {block('a', 'b')}".replace("[0,2,1]", "[1,0]"),
        [],
    ),
}


def groups(inputs: str, nodes: str, *, only: int | None = None) -> list[list[str]]:
    last = nodes.split(" = Add(o")[-2].split()[-1]
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g ({inputs}) => (float[?,?,?] {last}) <{CONSTANTS},
        int64[5] order = {{4,3,2,1,0}}, int64[3] windows = {{-1,5,4}},
        float[5,5] w5 = {{{",".join("1" * 25)}}}> {{ {nodes} }}"""
    )
    sites, rejected = find_sites(model)
    assert not rejected and len(sites) == nodes.count("Softmax")
    names = {site.id: site.product.removeprefix("o") for site in sites}
    return [[names[site] for site in group] for group in token_groups(model, sites[:only])]


@pytest.mark.parametrize("case", GROUPS)
def test_groups(case: str) -> None:
    inputs, nodes, expected = GROUPS[case]
    assert groups(inputs, nodes) == expected


def test_only_selected_sites_are_joined() -> None:
    nodes = f"{block('x', 'a')} {block('a', 'b')} {block('b', 'c')}"
    assert groups(FIXED, nodes, only=2) == [["a", "b"]]
    assert groups(FIXED, nodes, only=1) == []


@pytest.mark.parametrize("layout", ["heads", "merged"])
def test_sites_with_heads(layout: str) -> None:
    def heads(x: str, y: str) -> str:
        made = [
            f"{n}1{y} = MatMul({x}, w) {n}2{y} = Reshape({n}1{y}, split) {n}{y} = Transpose<perm = [0,2,1,3]>({n}2{y})"
            for n in "qkv"
        ]
        if layout == "merged":
            made += [f"{n}3{y} = Reshape({n}{y}, merge)" for n in "qkv"]
            a, perm, back = "3", "[0,2,1]", f"r{y} = Reshape(o{y}, apart)"
        else:
            a, perm, back = "", "[0,1,3,2]", f"r{y} = Identity(o{y})"
        return (
            f"{' '.join(made)} t{y} = Transpose<perm = {perm}>(k{a}{y}) s{y} = MatMul(q{a}{y}, t{y})"
            f" p{y} = Softmax<axis = -1>(s{y}) o{y} = MatMul(p{y}, v{a}{y}) {back}"
            f" z{y} = Transpose<perm = [0,2,1,3]>(r{y})"
            f" j{y} = Reshape(z{y}, join) {y} = Add({x}, j{y}) e{y} = Add(o{y}, o{y})"
        )

    assert groups(FIXED, f"{heads('x', 'a')} {heads('a', 'b')}") == [["a", "b"]]
