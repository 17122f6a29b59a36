"""A mask of padding that is read by index: it is the mask of the site where entry j is read at column j, and only
there.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from rewriters.finding.finder import find_sites

from ..graphs import run

B, K = 3, 5
SIZES = (
    "bs = Shape<start = 0, end = 1>(attention_mask) b = Squeeze(bs) ks = Shape<start = 1, end = 2>(attention_mask) k ="
    " Squeeze(ks)"
)
RANGES = f"{SIZES} jr = Range(zero, k, one) br = Range(zero, b, one)"
COLUMN, SAMPLE = "jj = Identity(jr)", "bb = Identity(br)"

READS = {
    "pairs": (
        "b3 = Unsqueeze(bb, right) j3 = Unsqueeze(jj, left) all = Add(b3, j3) size = Shape(all)"
        " be = Expand(b3, size) je = Expand(j3, size) b4 = Unsqueeze(be, last) j4 = Unsqueeze(je, last)"
        " bj = Concat<axis = -1>(b4, j4) m = GatherND(attention_mask, bj)"
    ),
    "flat": (
        "f = Flatten<axis = 2>(attention_mask) b3 = Unsqueeze(bb, right) j3 = Unsqueeze(jj, left) bk = Mul(b3, ks) at ="
        " Add(j3, bk) size = Shape(at) g = Gather<axis = 0>(f, at) line = Reshape(g, last) m = Reshape(line, size)"
    ),
    "flat-vector": (
        "f = Reshape(attention_mask, last) b3 = Unsqueeze(bb, right) j3 = Unsqueeze(jj, left) bk = Mul(k, b3) at ="
        " Add(bk, j3) m = Gather(f, at)"
    ),
}
COLUMNS = {
    "reversed": "end = Sub(k, one) jj = Sub(end, jr)",
    "reversed-range": "end = Sub(k, one) jj = Range(end, minus, minus)",
    "shifted-and-wrapped": "next = Add(jr, one) jj = Mod(next, k)",
    "shifted-back": "jj = Add(jr, minus)",
    "range-from-minus-one": "end = Sub(k, one) jj = Range(minus, end, one)",
    "first-repeated": "jj = Mul(jr, zero)",
    "counted-from-the-right": "jj = Mul(jr, minus)",
    "constant-reversed": "jj = Identity(backwards)",
    "given": "jj = Identity(order)",
    "halved": "jj = Div(jr, two)",
}
SAMPLES = {
    "reversed": "end = Sub(b, one) bb = Sub(end, br)",
    "first-repeated": "bb = Mul(br, zero)",
    "shifted-back": "bb = Add(br, minus)",
}


def made(
    read: str, column: str = COLUMN, sample: str = SAMPLE, *, sizes: tuple[str, str] = ("B", "K")
) -> onnx.ModelProto:
    """One head, its padded columns shut by the mask as it is read, `m`."""
    b, k = sizes
    order = np.arange(K)[::-1]
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[{b},{k},4] q, float[{b},{k},4] keys, float[{b},{k},4] v, bool[{b},{k}] attention_mask, int64[{k}] order)
      => (float[B,K,4] out)
    <int64 zero = {{0}}, int64 one = {{1}}, int64 two = {{2}}, int64 minus = {{-1}}, float low = {{-10000}},
    int64[2] right = {{1,2}},
     int64[2] left = {{0,1}}, int64[1] last = {{-1}}, int64[{K}] forwards = {{{",".join(map(str, order[::-1]))}}},
     int64[{K}] backwards = {{{",".join(map(str, order))}}}, int64[{B}] samples = {{{",".join(map(str, range(B)))}}}>
    {{ {RANGES} {column} {sample} {read} kt = Transpose<perm = [0,2,1]>(keys) qk = MatMul(q, kt) s = Where(m, qk, low)
       p = Softmax<axis = -1>(s) out = MatMul(p, v) }}"""
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    return model


def claimed_and_read(model: onnx.ModelProto) -> tuple[str | None, bool]:
    """The mask of the site, and whether a run reads column j at j in every sample."""
    (site,), _ = find_sites(model)
    mask = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]], bool)
    model.graph.output.append(onnx.helper.make_tensor_value_info("m", onnx.TensorProto.BOOL, None))
    x = np.ones((B, K, 4), np.float32)
    found = run(model, {"q": x, "keys": x, "v": x, "attention_mask": mask, "order": np.roll(np.arange(K), 1)})["m"]
    return site.key_mask, np.array_equal(found, mask[:, None])


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize(
    ("column", "sample"),
    [
        (COLUMN, SAMPLE),
        ("jj = Identity(forwards)", SAMPLE),
        ("jj = Add(jr, zero)", SAMPLE),
        (COLUMN, "bb = Mul(br, one)"),
    ],
    ids=["ranges", "constant", "plus-zero", "times-one"],
)
def test_plain_positions_are_the_mask(read: str, column: str, sample: str) -> None:
    assert claimed_and_read(made(READS[read], column, sample)) == ("attention_mask", True)


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("column", COLUMNS)
def test_other_columns_are_not(read: str, column: str) -> None:
    assert claimed_and_read(made(READS[read], COLUMNS[column])) == (None, False)


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("sample", SAMPLES)
def test_other_samples_are_not(read: str, sample: str) -> None:
    assert claimed_and_read(made(READS[read], sample=SAMPLES[sample])) == (None, False)


@pytest.mark.parametrize("read", READS)
def test_fixed_sizes_and_constant_positions_are_the_mask(read: str) -> None:
    model = made(READS[read], "jj = Identity(forwards)", "bb = Identity(samples)", sizes=(str(B), str(K)))
    assert claimed_and_read(model) == ("attention_mask", True)


def test_columns_picked_along_their_axis_in_another_order_are_not() -> None:
    read = "g = Gather<axis = 1>(attention_mask, jj) size = Concat<axis = 0>(bs, ones, ks) m = Reshape(g, size)"
    read = f"ones = Unsqueeze(one, zero) {read}"
    assert claimed_and_read(made(read, COLUMNS["reversed"])) == (None, False)


def test_pairs_in_the_other_order_are_not() -> None:
    """mask[j, b] fits a square mask only."""
    read = READS["pairs"].replace("Concat<axis = -1>(b4, j4)", "Concat<axis = -1>(j4, b4)")
    (site,), _ = find_sites(made(read))
    assert site.key_mask is None


def test_another_step_between_samples_is_not() -> None:
    """sample · B + column."""
    assert claimed_and_read(made(READS["flat"].replace("Mul(b3, ks)", "Mul(b3, bs)"))) == (None, False)
