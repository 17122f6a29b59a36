"""Groups of sites over the same tokens: what can be shown is joined, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rewriters.finding.finder import find_sites
from rewriters.finding.token_groups import token_groups
from rewriters.model.io import load
from rewriters.sites import Site
from tests.exports import EXPORTERS, export_model

# Of each family the sites of each group; a site without padding mask beside cross attention is nobody's, for want of
# proof.
JOINED = {
    "bert": (("layer.0", "layer.1"),),
    "vit": (("layers.0", "layers.1"),),
    "gpt2": (("h.0", "h.1"),),
    "llama": (("layers.0", "layers.1"),),
    "deberta-v2": (("layer.0", "layer.1"),),
    "t5": (("encoder.block.0", "encoder.block.1", "decoder.block.0.layer.1", "decoder.block.1.layer.1"),),
    "whisper": (("decoder.layers.0.self_attn", "decoder.layers.1.self_attn"),),
    "swin": (),
}


def found(model: onnx.ModelProto) -> tuple[Site, ...]:
    return find_sites(model)[0]


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("family", JOINED)
def test_exports_are_joined_where_tokens_are_shown_to_be_the_same(family: str, exporter: str) -> None:
    model = load(export_model(family, exporter).path)
    groups = token_groups(model, found(model))
    assert len(groups) == len(JOINED[family])
    for group, expected in zip(groups, JOINED[family], strict=True):
        assert len(group) == len(expected)
        assert all(part in name for part, name in zip(expected, group, strict=True))


# --- graphs of self-attention blocks by hand

WIDTH = 8


class Graph:
    """Blocks (B, K, 8) → (B, K, 8); weights are drawn one after the other."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(0)

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(array, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def attention(self, queries: str, keys: str | None = None) -> str:
        keys = keys or queries
        q, k, v = (
            self.op("MatMul", x, self.constant(self._rng.normal(size=(WIDTH, WIDTH)).astype(np.float32)))
            for x in (queries, keys, keys)
        )
        weights = self.op("Softmax", self.op("MatMul", q, self.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
        return self.op("Add", queries, self.op("MatMul", weights, v))

    def model(self, inputs: dict[str, list[int | str]], *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 3) for name in outputs],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return model


def ids(sites: tuple[Site, ...], *picked: int) -> tuple[str, ...]:
    return tuple(sites[index].id for index in picked)


def test_one_tower_is_one_group() -> None:
    graph = Graph()
    model = graph.model({"x": ["B", 6, WIDTH]}, graph.attention(graph.attention(graph.attention("x"))))
    sites = found(model)
    assert [site.key_size for site in sites] == [6, 6, 6]
    assert token_groups(model, sites) == (ids(sites, 0, 1, 2),)


def test_towers_side_by_side_stay_apart_though_equally_long() -> None:
    graph = Graph()
    a = graph.attention("x")
    b = graph.attention("y")
    a, b = graph.attention(a), graph.attention(b)
    joined = graph.attention(graph.op("Add", a, b))
    model = graph.model({"x": ["B", 6, WIDTH], "y": ["B", 6, WIDTH]}, joined)
    sites = found(model)
    assert token_groups(model, sites) == (ids(sites, 0, 2), ids(sites, 1, 3))


def twice(shape: list[int | str], turned: list[int] | None) -> tuple[onnx.ModelProto, tuple[Site, ...]]:
    """Attention over the axis before the last, twice; the axes `turned` in between."""
    graph, last = Graph(), len(shape) - 1
    x, width = "x", shape[-1]
    for second in (False, True):
        q, k, v = (graph.op("MatMul", x, graph.constant(np.eye(width, dtype=np.float32))) for _ in range(3))
        keys = graph.op("Transpose", k, perm=[*range(last - 1), last, last - 1])
        weights = graph.op("Softmax", graph.op("MatMul", q, keys), axis=-1)
        x = graph.op("Add", x, graph.op("MatMul", weights, v))
        if turned and not second:
            x = graph.op("Transpose", x, perm=turned)
    model = graph.model({"x": shape}, x)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    sites = found(model)
    assert [(site.self_attention, site.key_size) for site in sites] == [(True, 5), (True, 5)]
    return model, sites


@pytest.mark.parametrize("turned", [None, [0, 2, 1]])
def test_along_rows_and_along_columns_of_a_square_table_are_other_tokens(turned: list[int] | None) -> None:
    """Maps (B, 5, 5): of one size, and of other places."""
    model, sites = twice(["B", 5, 5], turned)
    assert token_groups(model, sites) == (() if turned else (ids(sites, 0, 1),))


@pytest.mark.parametrize("turned", [None, [0, 2, 1, 3]])
def test_rows_of_an_image_are_never_joined(turned: list[int] | None) -> None:
    """Maps (B, row, 5, 5) and then (B, row or column, 5, 5): several a sample, each with columns of its own."""
    model, sites = twice(["B", 5, 5, WIDTH], turned)
    assert token_groups(model, sites) == ()


def test_tokens_in_another_order_are_other_columns() -> None:
    graph = Graph()
    shuffled = graph.op("Gather", graph.attention("x"), graph.constant(np.array([5, 4, 3, 2, 1, 0])), axis=1)
    model = graph.model({"x": ["B", 6, WIDTH]}, graph.attention(shuffled))
    assert token_groups(model, found(model)) == ()


def test_next_to_cross_attention_equal_length_shows_nothing() -> None:
    graph = Graph()
    memory = graph.attention(graph.attention("x"))
    model = graph.model(
        {"x": ["B", 6, WIDTH], "y": ["B", 6, WIDTH]}, graph.attention(graph.attention(graph.attention("y"), memory))
    )
    sites = found(model)
    assert [site.self_attention for site in sites] == [True, True, True, False, True]
    assert token_groups(model, sites) == ()


@pytest.mark.parametrize(("windows", "joined"), [(1, True), (2, False)])
def test_windows_are_never_joined(windows: int, joined: bool) -> None:
    graph = Graph()
    x = graph.op("Reshape", "x", graph.constant(np.array([-1, 6 // windows, WIDTH])))
    model = graph.model({"x": ["B", 6, WIDTH]}, graph.attention(graph.attention(x)))
    sites = found(model)
    assert len(sites) == 2
    assert token_groups(model, sites) == ((ids(sites, 0, 1),) if joined else ())


@pytest.mark.parametrize("shape", [["B", "S", WIDTH], [4, 6, WIDTH]], ids=["length-unknown", "batch-fixed"])
def test_what_cannot_be_shown_is_not_joined(shape: list[int | str]) -> None:
    graph = Graph()
    model = graph.model({"x": shape}, graph.attention(graph.attention("x")))
    assert len(found(model)) == 2
    assert token_groups(model, found(model)) == ()


def test_sites_of_other_bodies_and_lone_sites_are_left_out() -> None:
    graph = Graph()
    model = graph.model({"x": ["B", 6, WIDTH]}, graph.attention(graph.attention("x")))
    first, second = found(model)
    assert token_groups(model, (first, replace(second, where=((0, "then_branch"),)))) == ()


def test_sizes_do_not_enter_the_fingerprint() -> None:
    graph = Graph()
    (site,) = found(graph.model({"x": ["B", 6, WIDTH]}, graph.attention("x")))
    assert replace(site, key_size=7).fingerprint == site.fingerprint
