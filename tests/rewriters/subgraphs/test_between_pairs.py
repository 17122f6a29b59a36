"""Sites between Q/DQ pairs: what is read where, and through which copies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from rewriters.emit import ConstantPool, Emitter
from rewriters.finding.finder import find_sites
from rewriters.model.bodies import Wiring
from rewriters.sites import Site
from rewriters.subgraphs.between_pairs import patch_between_pairs, read_map, read_values
from rewriters.subgraphs.gating import Replacement

from ..patterns import QK, ints, model, scalar

Q4 = "float[B,3,S,4] q, float[B,3,T,4] k, float[B,3,T,4] v"
SCORES = f"{QK} s_q = QuantizeLinear(qk, sc, zp) s = DequantizeLinear(s_q, sc, zp)"
MAP = "p = Softmax<axis = -1>(s) p_q = QuantizeLinear(p, sc, zp) p_d = DequantizeLinear(p_q, sc, zp)"
VALUES = "v_q = QuantizeLinear(v, sc, zp) v_d = DequantizeLinear(v_q, sc, zp)"
OUTPUT = "o = MatMul(p_d, v_d) o_q = QuantizeLinear(o, sc, zp) out = DequantizeLinear(o_q, sc, zp)"
WHOLE = f"{SCORES} {MAP} {VALUES} {OUTPUT}"


def made(body: str = WHOLE, *, zero: type = np.uint8, opset: int = 17, more: str = "") -> tuple[Emitter, Site, Wiring]:
    """Emitter, site and wiring of a model; `more`: another output."""
    constants = {"sc": np.float32(0.1), "zp": zero(0), "half": scalar(0.5), "perm": ints(0, 0, 0, 0)}
    outputs = "float[?] out" + (f", float[?] {more}" if more else "")
    graph = model(body, Q4, outputs, opset=opset, **{name: array for name, array in constants.items() if name in body})
    (site,) = find_sites(graph)[0]
    return (
        Emitter("site", opset, ConstantPool([], "c"), {}),
        site,
        Wiring(graph.graph.node, [value.name for value in graph.graph.output]),
    )


def kinds(nodes: object) -> list[str]:
    return [node.op_type for node in nodes]  # type: ignore[attr-defined]


class TestTheMap:
    def read(self, body: str = WHOLE, **more: object) -> tuple[Emitter, Site, Site, list[Replacement]]:
        e, site, wiring = made(body, **more)  # type: ignore[arg-type]
        taken: list[Replacement] = []
        return e, site, read_map(e, site, wiring, taken), taken

    @pytest.mark.parametrize(("axis", "written"), [("axis = -1", 3), ("axis = 3", -1)])
    def test_comes_from_a_softmax_of_its_own_with_its_axis_the_other_way_round(self, axis: str, written: int) -> None:
        e, site, read, taken = self.read(WHOLE.replace("axis = -1", axis))
        (softmax,) = e.nodes
        assert softmax.op_type == "Softmax" and list(softmax.input) == ["s"] and not taken
        assert [(a.name, a.i) for a in softmax.attribute] == [("axis", written)]
        assert read == replace(site, probabilities=softmax.output[0])

    @pytest.mark.parametrize(("opset", "written"), [(13, 3), (12, -3)])
    def test_softmax_without_an_axis_has_the_default_of_its_opset(self, opset: int, written: int) -> None:
        e, site, wiring = made()
        e.opset = opset
        del wiring.maker["p"].attribute[:]
        read_map(e, site, wiring, [])
        assert e.nodes[0].attribute[0].i == written

    def test_what_follows_the_softmax_is_copied_too(self) -> None:
        body = WHOLE.replace("p_q = QuantizeLinear(p,", "c = Cast<to = 1>(p) i = Identity(c) p_q = QuantizeLinear(i,")
        e, site, read, _ = self.read(body)
        assert kinds(e.nodes) == ["Softmax", "Cast", "Identity"] and site.probabilities == "i"
        assert [list(node.input) for node in e.nodes[1:]] == [[e.nodes[0].output[0]], [e.nodes[1].output[0]]]
        assert read.probabilities == e.nodes[2].output[0]

    def test_the_guard_against_nan_is_followed_along_the_map(self) -> None:
        body = WHOLE.replace("p_q = QuantizeLinear(p,", "n = IsNaN(p) w = Where(n, half, p) p_q = QuantizeLinear(w,")
        e, _, read, _ = self.read(body)
        assert kinds(e.nodes) == ["Softmax", "Where"]
        assert list(e.nodes[1].input) == ["n", "half", e.nodes[0].output[0]]
        assert read.probabilities == e.nodes[1].output[0]

    def test_signed_scores_are_read_behind_a_copy(self) -> None:
        e, _, _, taken = self.read(zero=np.int8)
        (replacement,) = taken
        assert replacement.output == "s"
        assert kinds(replacement.nodes) == ["DequantizeLinear", "Concat", "QuantizeLinear", "DequantizeLinear"]
        assert replacement.nodes[-1].output[0] == "s"
        assert list(e.nodes[0].input) == [replacement.nodes[1].output[0]]

    def test_stays_where_the_scores_are_not_quantized(self) -> None:
        e, site, read, _ = self.read(f"{QK} {MAP.replace('(s)', '(qk)')} {VALUES} {OUTPUT}")
        assert read is site and not e.nodes

    def test_stays_where_negative_axes_are_not_known(self) -> None:
        e, site, wiring = made()
        e.opset = 10
        assert read_map(e, site, wiring, []) is site and not e.nodes
        e.opset = 11
        assert read_map(e, site, wiring, []) is not site

    def test_stays_where_its_rank_is_not_known(self) -> None:
        e, site, wiring = made()
        bare = replace(site, softmax_rank=None)
        assert read_map(e, bare, wiring, []) is bare and not e.nodes

    @pytest.mark.parametrize(("casts", "read"), [(8, True), (9, False)], ids=str)
    def test_stays_behind_a_long_chain(self, casts: int, read: bool) -> None:
        chain = " ".join(f"i{n} = Identity({f'i{n - 1}' if n else 'p'})" for n in range(casts))
        e, site, wiring = made(WHOLE.replace("p_q = QuantizeLinear(p,", f"{chain} p_q = QuantizeLinear(i{casts - 1},"))
        assert (read_map(e, site, wiring, []) is not site) is read

    def test_stays_where_no_softmax_of_the_body_makes_it(self) -> None:
        e, site, wiring = made()
        del wiring.maker["p"]
        assert read_map(e, site, wiring, []) is site and not e.nodes

    def test_stays_where_it_is_made_of_nothing(self) -> None:
        e, site, wiring = made()
        del wiring.maker["p"].input[:]
        wiring.maker["p"].op_type = "Constant"
        assert read_map(e, site, wiring, []) is site and not e.nodes


class TestTheValues:
    def read(self, body: str = WHOLE, more: str = "") -> tuple[Emitter, Site, Site, list[Replacement]]:
        e, site, wiring = made(body, more=more)
        taken: list[Replacement] = []
        return e, site, read_values(e, site, wiring, taken), taken

    def test_are_read_behind_a_copy_and_a_second_pair(self) -> None:
        e, _, read, taken = self.read()
        (replacement,) = taken
        assert not e.nodes and replacement.output == "v_d"
        dequantize, apart, quantize, again = replacement.nodes
        assert list(dequantize.input) == ["v_q", "sc", "zp"]
        assert apart.op_type == "Concat" and list(apart.input) == [dequantize.output[0]]
        assert list(quantize.input) == [apart.output[0], "sc", "zp"] and list(again.input) == [
            quantize.output[0],
            "sc",
            "zp",
        ]
        assert again.output[0] == "v_d" and read.values == apart.output[0]

    def test_that_are_moved_are_moved_again(self) -> None:
        body = WHOLE.replace("v_d = Deq", "v_c = Deq").replace("o = MatMul", "v_d = Reshape(v_c, perm) o = MatMul")
        e, _, read, taken = self.read(body)
        assert taken[0].output == "v_c" and kinds(e.nodes) == ["Reshape"]
        assert list(e.nodes[0].input) == [taken[0].nodes[1].output[0], "perm"] and read.values == e.nodes[0].output[0]

    def test_that_are_moved_twice_are_moved_in_that_order(self) -> None:
        moves = "v_m = Reshape(v_c, perm) v_d = Identity(v_m) o = MatMul"
        e, _, read, _ = self.read(WHOLE.replace("v_d = Deq", "v_c = Deq").replace("o = MatMul", moves))
        assert kinds(e.nodes) == ["Reshape", "Identity"] and e.nodes[1].input[0] == e.nodes[0].output[0]
        assert read.values == e.nodes[1].output[0]

    @pytest.mark.parametrize(
        ("scaling", "place"), [("Mul(half, v_c)", 1), ("Mul(v_c, half)", 0), ("Add(v_c, half)", 0)]
    )
    def test_that_are_scaled_by_a_constant_are_scaled_again(self, scaling: str, place: int) -> None:
        body = WHOLE.replace("v_d = Deq", "v_c = Deq").replace("o = MatMul", f"v_d = {scaling} o = MatMul")
        e, _, _, taken = self.read(body)
        assert e.nodes[0].input[place] == taken[0].nodes[1].output[0] and e.nodes[0].input[1 - place] == "half"

    @pytest.mark.parametrize(
        "moving", ["Relu(v_c)", "Mul(v_c, v_n)", "Max(v_c, half)"], ids=["activated", "by-computed", "bounded"]
    )
    def test_that_are_computed_from_dequantized_ones_stay(self, moving: str) -> None:
        body = WHOLE.replace("v_d = Deq", "v_c = Deq").replace("o = MatMul", f"v_n = Neg(v) v_d = {moving} o = MatMul")
        e, site, read, taken = self.read(body)
        assert read.values == site.values and not taken and not e.nodes

    @pytest.mark.parametrize("again", ["Neg(v_d)", "DequantizeLinear(v_q, sc, zp)"], ids=["value", "quantized"])
    def test_with_another_reader_stay(self, again: str) -> None:
        e, site, read, taken = self.read(f"{WHOLE} more = {again}", "more")
        assert read.values == site.values and not taken and not e.nodes

    def test_that_are_moved_and_read_elsewhere_too_stay(self) -> None:
        body = WHOLE.replace("v_d = Deq", "v_c = Deq").replace("o = MatMul", "v_d = Reshape(v_c, perm) o = MatMul")
        e, site, read, taken = self.read(f"{body} more = Neg(v_d)", "more")
        assert read.values == site.values and not taken and not e.nodes

    def test_that_come_quantized_into_the_graph_stay(self) -> None:
        body = f"{SCORES} {MAP} v_q = Cast<to = 2>(v) v_d = DequantizeLinear(v_q, sc, zp) {OUTPUT}"
        e, site, read, taken = self.read(body)
        assert read.values == site.values and not taken and not e.nodes

    def test_that_two_sites_read_are_copied_once(self) -> None:
        e, site, wiring = made()
        taken: list[Replacement] = []
        first, second = (read_values(e, site, wiring, taken) for _ in range(2))
        assert first == second and len(taken) == 1


class TestTheProduct:
    def patched(
        self, body: str = WHOLE, conditional: bool = True, more: str = ""
    ) -> tuple[Site, tuple[Replacement, ...]]:
        e, site, wiring = made(body, more=more)
        e.conditional = conditional
        replaced = patch_between_pairs(e, site, "any", wiring, lambda inner, _: inner.op("Neg", "patched", role="neg"))
        return site, replaced

    def test_is_chosen_behind_its_pair_and_goes_through_a_second(self) -> None:
        _, (product, pair) = self.patched()
        assert product.output == "o" and kinds(product.nodes) == ["MatMul"] and product.nodes[0].output[0] == "o"
        assert pair.output == "out"
        assert kinds(pair.nodes) == ["DequantizeLinear", "Concat", "If", "QuantizeLinear", "DequantizeLinear"]
        dequantize, apart, gate, quantize, again = pair.nodes
        assert list(dequantize.input) == ["o_q", "sc", "zp"] and list(gate.input) == ["any"]
        assert list(quantize.input) == [gate.output[0], "sc", "zp"] and again.output[0] == "out"
        otherwise, then = (attribute.g for attribute in gate.attribute)
        assert kinds(then.node) == ["Neg"] and list(otherwise.node[0].input) == [apart.output[0]]
        assert then.output[0].type.tensor_type.elem_type == TensorProto.FLOAT

    def test_with_several_readers_of_its_pair_keeps_the_pair_as_it_is(self) -> None:
        _, (_, pair) = self.patched(f"{WHOLE} a = Neg(out) more = Abs(out)", more="more")
        otherwise = pair.nodes[2].attribute[0].g
        assert list(otherwise.node[0].input) == [pair.nodes[0].output[0]]

    def test_without_a_pair_is_chosen_where_it_is(self) -> None:
        _, (product,) = self.patched(f"{SCORES} {MAP} {VALUES} o = MatMul(p_d, v_d) out = Neg(o)")
        assert product.output == "o" and kinds(product.nodes) == ["MatMul", "If"] and product.nodes[1].output[0] == "o"

    @pytest.mark.parametrize(
        "behind",
        [
            "o_q = QuantizeLinear(o, sc, zp) out = DequantizeLinear(o_q, sc, zp) more = Neg(o)",
            "o_q = QuantizeLinear(o, sc, zp) out = DequantizeLinear(o_q, sc, zp) more = DequantizeLinear(o_q, sc, zp)",
            "o_q = Relu(o) out = Neg(o_q) more = Abs(q)",
        ],
        ids=["product-read-twice", "quantized-read-twice", "no-pair"],
    )
    def test_has_no_pair_behind_it(self, behind: str) -> None:
        _, replaced = self.patched(f"{SCORES} {MAP} {VALUES} o = MatMul(p_d, v_d) {behind}", more="more")
        assert [one.output for one in replaced] == ["o"]

    def test_is_chosen_without_an_if_in_branch_free_graphs(self) -> None:
        _, (_, pair) = self.patched(conditional=False)
        assert kinds(pair.nodes) == ["DequantizeLinear", "Concat", "Neg", "Where", "QuantizeLinear", "DequantizeLinear"]
        where = pair.nodes[3]
        assert list(where.input) == ["any", pair.nodes[2].output[0], pair.nodes[1].output[0]]
        assert pair.nodes[4].input[0] == where.output[0]
        assert isinstance(where, onnx.NodeProto)
