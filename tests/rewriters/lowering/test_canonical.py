"""Between a site's own layout and the canonical one, both ways, in every layout."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from rewriters.emit import Emitter
from rewriters.finding.finder import find_sites
from rewriters.lowering.canonical import Canonical
from rewriters.sites import Layout, Site

from ..patterns import model
from ..subgraphs.emitted import emitted, ran

B, W, H, Q, K, D = 2, 3, 4, 5, 6, 7
PLAIN = find_sites(
    model(
        "s = MatMul(q, k) p = Softmax<axis = -1>(s) out = MatMul(p, v)",
        "float[B,S,4] q, float[B,4,T] k, float[B,T,4] v",
    )
)[0][0]


@dataclass(frozen=True)
class Case:
    """A layout, and the shapes of map, values and output in memory; `canonical`: those in canonical order, B and H
    as the layout gives them.
    """

    layout: Layout
    map: tuple[int, ...]
    values: tuple[int, ...]
    output: tuple[int, ...]
    canonical_map: tuple[int, int, int, int] = (B, H, Q, K)
    canonical_values: tuple[int, int, int, int] = (B, H, K, D)


CASES = {
    "4d": Case(Layout(4), (B, H, Q, K), (B, H, K, D), (B, H, Q, D)),
    "4d-heads-last": Case(
        Layout(4, None, (0, 2, 1, 3), (0, 2, 1, 3)), (B, H, Q, K), (B, K, H, D), (B, Q, H, D),
    ),
    "4d-turned": Case(Layout(4, (0, 1, 3, 2), (0, 1, 3, 2), (0, 1, 3, 2)), (B, H, K, Q), (B, H, D, K), (B, H, D, Q)),
    "4d-shared": Case(
        Layout(4, values=None, values_lack=(-3,)), (B, H, Q, K), (B, K, D), (B, H, Q, D), canonical_values=(B, 1, K, D),
    ),
    "4d-shared-turned": Case(
        Layout(4, values=(0, 2, 1), values_lack=(-3,)), (B, H, Q, K), (B, D, K), (B, H, Q, D),
        canonical_values=(B, 1, K, D),
    ),
    "4d-shared-by-samples": Case(
        Layout(4, values_lack=(-4, -3)), (B, H, Q, K), (K, D), (B, H, Q, D), canonical_values=(1, 1, K, D),
    ),
    "4d-two-widths": Case(
        Layout(4, None, (0, 1, 2, 3, 4), (0, 1, 2, 3, 4)), (B, H, Q, K), (B, H, K, 2, 3), (B, H, Q, 2, 3),
        canonical_values=(B, H, K, 6),
    ),
    "4d-single-head": Case(
        Layout(4, single_head=True), (B, W, Q, K), (B, W, K, D), (B, W, Q, D), (B * W, 1, Q, K), (B * W, 1, K, D),
    ),
    "3d": Case(Layout(3), (B, Q, K), (B, K, D), (B, Q, D), (B, 1, Q, K), (B, 1, K, D)),
    "3d-turned": Case(
        Layout(3, (0, 2, 1), (0, 2, 1), (0, 2, 1)), (B, K, Q), (B, D, K), (B, D, Q), (B, 1, Q, K), (B, 1, K, D),
    ),
    "3d-two-widths": Case(
        Layout(3, None, (0, 1, 2, 3), (0, 1, 2, 3)), (B, Q, K), (B, K, 2, 3), (B, Q, 2, 3), (B, 1, Q, K), (B, 1, K, 6),
    ),
    "merged": Case(Layout(3, merged_heads=H), (B * H, Q, K), (B * H, K, D), (B * H, Q, D)),
    "2d": Case(Layout(2), (Q, K), (K, D), (Q, D), (1, 1, Q, K), (1, 1, K, D)),
    "2d-turned": Case(Layout(2, (1, 0), (1, 0), (1, 0)), (K, Q), (D, K), (D, Q), (1, 1, Q, K), (1, 1, K, D)),
    "5d": Case(Layout(5), (B, W, H, Q, K), (B, W, H, K, D), (B, W, H, Q, D), (B * W, H, Q, K), (B * W, H, K, D)),
    "5d-heads-first": Case(
        Layout(5, (1, 2, 0, 3, 4), (1, 2, 0, 3, 4), (1, 2, 0, 3, 4)),
        (H, B, W, Q, K), (H, B, W, K, D), (H, B, W, Q, D), (B * W, H, Q, K), (B * W, H, K, D),
    ),
}  # fmt: skip


def made(name: str, dtype: int = TensorProto.FLOAT) -> tuple[Canonical, Case]:
    case = CASES[name]
    site: Site = replace(PLAIN, layout=case.layout, probabilities="p", values="v", dtype=dtype)
    return Canonical(site), case


def drawn(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(shape).normal(size=shape).astype(dtype)


def ordered(array: np.ndarray, permutation: tuple[int, ...] | None) -> np.ndarray:
    return array if permutation is None else array.transpose(permutation)


@pytest.mark.parametrize("name", CASES)
def test_map_and_back(name: str) -> None:
    canonical, case = made(name)
    p = drawn(case.map)
    got = ran(lambda e: canonical.probabilities(e, "p"), p=p)
    np.testing.assert_array_equal(got, ordered(p, case.layout.probabilities).reshape(case.canonical_map))
    back = ran(lambda e: canonical.restore(e, "a", "p", case.layout.probabilities), a=got, p=p)
    np.testing.assert_array_equal(back, p)


@pytest.mark.parametrize("name", CASES)
def test_values(name: str) -> None:
    canonical, case = made(name)
    v = drawn(case.values)
    got = ran(lambda e: canonical.values(e, "v"), v=v, p=drawn(case.map))
    np.testing.assert_array_equal(got, ordered(v, case.layout.values).reshape(case.canonical_values))


@pytest.mark.parametrize("name", CASES)
def test_output_and_back(name: str) -> None:
    canonical, case = made(name)
    out = drawn(case.output)
    got = ran(lambda e: canonical.output(e, "out"), out=out)
    want = ordered(out, case.layout.output).reshape(*case.canonical_map[:3], -1)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(ran(lambda e: canonical.restore_output(e, "a", "out"), a=got, out=out), out)


@pytest.mark.parametrize("name", CASES)
def test_column_mask(name: str) -> None:
    """Hiding columns of the values in their own layout is hiding them in canonical order."""
    canonical, case = made(name)
    samples = case.canonical_map[0]
    mask = np.random.default_rng(1).random((samples, K)) < 0.5
    v = np.abs(drawn(case.values)) + np.float32(1)
    p = drawn(case.map)

    def hidden(e: Emitter) -> str:
        visible = e.op("Where", canonical.column_mask(e, "mask", "p"), e.constant(0.0), "v")
        return e.op("Identity", visible)

    got = ran(hidden, mask=mask, v=v, p=p)
    extra = got.ndim - len(case.layout.values or range(got.ndim))  # leading axes that V lacks
    order = (*range(extra), *(extra + axis for axis in case.layout.values or range(got.ndim)))
    columns = np.moveaxis(got.transpose(order), -1 - case.layout.widths, -1)
    gone = (columns.reshape(*columns.shape[: -1 - case.layout.widths], -1, K) == 0).all(-2)
    assert (gone.reshape(samples, -1, K) == mask[:, None]).all()
    assert got.size == v.size or case.layout.values_lack


def test_values_that_all_windows_share_are_spread_out() -> None:
    canonical, _ = made("5d")
    v = drawn((B, 1, H, K, D))
    got = ran(lambda e: canonical.values(e, "v"), v=v, p=drawn((B, W, H, Q, K)))
    np.testing.assert_array_equal(got, np.broadcast_to(v, (B, W, H, K, D)).reshape(B * W, H, K, D))


def test_values_that_all_heads_share_may_lack_their_axis_in_five_axes() -> None:
    site = replace(PLAIN, layout=Layout(5, values_lack=(-3,)), probabilities="p")
    v = drawn((B, W, K, D))
    got = ran(lambda e: Canonical(site).values(e, "v"), v=v, p=drawn((B, W, H, Q, K)))
    np.testing.assert_array_equal(got, v.reshape(B * W, 1, K, D))


def test_values_of_merged_heads_may_be_shared_by_all() -> None:
    site = replace(PLAIN, layout=Layout(3, merged_heads=H, values_lack=(-3,)), probabilities="p")
    v = drawn((K, D))
    got = ran(lambda e: Canonical(site).values(e, "v"), v=v)
    np.testing.assert_array_equal(got, v.reshape(1, 1, K, D))


DTYPES = {"half": TensorProto.FLOAT16, "double": TensorProto.DOUBLE, "float": TensorProto.FLOAT}


@pytest.mark.parametrize("kind", DTYPES)
def test_outputs_keep_what_they_hold(kind: str) -> None:
    """Half precision is computed in float32; double stays double at the output, and is float32 in map and values."""
    canonical, case = made("4d-heads-last", DTYPES[kind])
    exact = {"half": np.float32, "double": np.float64, "float": np.float32}[kind]
    own = {"half": np.float16, "double": np.float64, "float": np.float32}[kind]
    p, v, out = (drawn(shape, own) for shape in (case.map, case.values, case.output))
    assert ran(lambda e: canonical.probabilities(e, "p"), p=p).dtype == np.float32
    assert ran(lambda e: canonical.values(e, "v"), v=v).dtype == np.float32
    got = ran(lambda e: canonical.output(e, "out"), out=out)
    assert got.dtype == exact
    back = ran(lambda e: canonical.restore_output(e, "a", "out"), a=got, out=out)
    assert back.dtype == own and (back == out).all()


def test_float32_is_not_cast() -> None:
    canonical, case = made("4d")
    for emit in (
        lambda e: canonical.probabilities(e, e.op("Identity", "p")),
        lambda e: canonical.output(e, e.op("Identity", "p")),
        lambda e: canonical.restore(e, e.op("Identity", "p"), "p", None),
    ):
        assert [node.op_type for node in emitted(emit, {"p": drawn(case.map)}).graph.node] == ["Identity"]


def test_no_more_operators_than_a_layout_asks_for() -> None:
    """Each of them costs time in a graph that is not flagged."""

    def kinds(name: str, emit: str) -> list[str]:
        canonical, case = made(name)
        calls = {
            "map": lambda e: canonical.probabilities(e, "x"),
            "back": lambda e: canonical.restore_output(e, "x", "like"),
            "mask": lambda e: canonical.column_mask(e, "x", "p"),
        }
        return [node.op_type for node in emitted(calls[emit], {"x": drawn(case.map)}).graph.node]

    assert kinds("3d", "map") == kinds("2d", "map") == ["Unsqueeze"]
    assert kinds("4d-turned", "map") == kinds("4d-turned", "back") == kinds("4d-heads-last", "back") == ["Transpose"]
    assert kinds("3d", "mask") == kinds("4d", "mask") == ["Unsqueeze"] and kinds("2d", "mask") == ["Transpose"]


def test_values_that_all_rows_of_a_square_share_are_spread_out() -> None:
    canonical, _ = made("4d-single-head")
    v = drawn((B, 1, K, D))
    got = ran(lambda e: canonical.values(e, "v"), v=v, p=drawn((B, W, Q, K)))
    np.testing.assert_array_equal(got, np.broadcast_to(v, (B, W, K, D)).reshape(B * W, 1, K, D))
