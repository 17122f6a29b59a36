"""What is known about values."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from rewriters.finding.facts import Dims, Facts, declared_shape, is_vague

from .reading import read


def value(*shape: int | str | None, unknown: bool = False, dtype: ir.DataType | None = None) -> ir.Value:
    return ir.Value(
        name="x",
        shape=None if unknown else ir.Shape(shape),
        type=None if dtype is None else ir.TensorType(dtype),
    )


def test_dimensions() -> None:
    facts, x = Facts(), value()
    facts.shapes[x] = (2, "K")
    assert facts.shape(x) == (2, "K") and facts.rank(x) == 2
    assert [facts.dim(x, axis) for axis in (-1, -2, -3)] == ["K", 2, None]
    assert [facts.static(x, axis) for axis in (-1, -2, -3)] == [None, 2, None]


def test_nothing_is_known_of_no_value_or_of_a_strange_one() -> None:
    facts = Facts()
    for nothing in (None, value()):
        assert (
            facts.shape(nothing) is facts.rank(nothing) is facts.dim(nothing, -1) is facts.static(nothing, -1) is None
        )
        assert facts.ints(nothing) is facts.element_type(nothing) is None


def test_a_rank_that_a_reader_implies() -> None:
    facts, x = Facts(), value(unknown=True)
    facts.ranks[x] = 3
    assert facts.rank(x) == 3
    facts.shapes[x] = (1, 2)
    assert facts.rank(x) == 2


@pytest.mark.parametrize(("elements", "ints"), [((1, 2), (1, 2)), ((), ()), ((1, "K"), None)])
def test_elements_are_known_where_all_are_numbers(elements: Dims, ints: tuple[int, ...] | None) -> None:
    facts, x = Facts(), value()
    facts.elements[x] = elements
    assert facts.ints(x) == ints


def test_element_types() -> None:
    facts, own, learned = Facts(), value(dtype=ir.DataType.FLOAT16), value()
    facts.types[own] = facts.types[learned] = int(ir.DataType.INT8)
    assert facts.element_type(own) == ir.DataType.FLOAT16
    assert facts.element_type(learned) == ir.DataType.INT8


# declared, by a rule, rank by a reader → the shape; None stands for a name of its own
LEARNED = {
    "a declared number": ((2,), ("N",), None, (2,)),
    "a declared name": (("B",), ("N",), None, ("B",)),
    "a declared name, a number by the rule": (("B",), (4,), None, (4,)),
    "two numbers": ((2,), (4,), None, (2,)),
    "open": ((None,), ("N",), None, ("N",)),
    "open, a number by the rule": ((None,), (4,), None, (4,)),
    "only numbered by inference": (("unk__3",), ("N",), None, ("N",)),
    "other ranks": ((2,), ("N", "K"), None, ("N", "K")),
    "nothing by the rule": ((2, None), None, None, (2, None)),
    "nothing declared": (None, ("N",), None, ("N",)),
    "nothing declared, another rank by a reader": (None, ("N",), 2, ("N",)),
    "a rank by a reader only": (None, None, 2, (None, None)),
    "rank by a reader, declared": ((2,), None, 2, (2,)),
    "nothing": (None, None, None, "nothing"),
}


@pytest.mark.parametrize("case", LEARNED)
def test_learning(case: str) -> None:
    declared, ruled, rank, expected = LEARNED[case]
    facts, x = Facts(), value(*(declared or ()), unknown=declared is None)
    if rank is not None:
        facts.ranks[x] = rank
    facts.learn(x, ruled)
    found = facts.shape(x)
    if expected == "nothing":
        assert found is None
        return
    assert found is not None and len(found) == len(expected)
    fresh = [dim for dim, wanted in zip(found, expected, strict=True) if wanted is None]
    assert [dim for dim in found if dim not in fresh] == [wanted for wanted in expected if wanted is not None]
    assert all(str(dim).startswith("?") for dim in fresh) and len(set(fresh)) == len(fresh)


def test_what_a_model_says_of_a_shape() -> None:
    assert declared_shape(value(2, "K", None)) == (2, "K", None)
    assert declared_shape(value(unknown=True)) is None


def test_vague_dimensions() -> None:
    assert [is_vague(dim) for dim in (None, "unk__0", "K", "unk", 3)] == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("nodes", "kind"),
    [
        ("y = local.Strange(half)", ir.DataType.FLOAT16),
        ("y = local.Strange(flag, half)", ir.DataType.BOOL),
        ("y = com.microsoft.MatMulIntegerToFloat(byte, byte, half)", ir.DataType.FLOAT16),
        ("y = com.microsoft.QLinearMatMul(byte, one, zero, byte, one, zero, one, half)", ir.DataType.FLOAT16),
        ("y = com.microsoft.QAttention(byte, byte, one, half)", ir.DataType.FLOAT16),
        ("y = com.microsoft.QLinearSoftmax(half, one, byte, one, byte)", ir.DataType.UINT8),
        ("y = com.microsoft.EmbedLayerNormalization(id, id, half)", ir.DataType.FLOAT16),
    ],
)
def test_outputs_are_of_the_type_of_an_input(nodes: str, kind: ir.DataType) -> None:
    inputs = (
        "float16[2] half, bool[2] flag, uint8[2] byte, float one, uint8 zero, int64[2] id, float16[4] scale, int8[2] t"
    )
    graph = read(inputs, nodes)
    assert graph.facts.element_type(graph["y"]) == kind


def test_types_of_operators_whose_own_inference_says_them_already() -> None:
    """Where the inference gave up, these rules are left."""
    inputs = "float16[2] half, bool[2] flag, uint8[2] byte, int8 point"
    cases = {
        "Where(flag, half, half)": ir.DataType.FLOAT16,
        "DequantizeLinear(byte, half)": ir.DataType.FLOAT16,
        "QuantizeLinear(half, half, point)": ir.DataType.INT8,
        "Cast<to = 10>(byte)": ir.DataType.FLOAT16,
    }
    for node, kind in cases.items():
        graph = read(inputs, f"y = {node}")
        graph["y"].type = None
        facts = Facts()
        facts.learn_type(graph.node("y"))
        assert facts.element_type(graph["y"]) == kind, node


def test_a_type_that_nobody_knows_is_not_learned() -> None:
    graph = read("float[2] x", "a = local.Strange() y = local.Strange(a)")
    assert graph.facts.element_type(graph["y"]) is None
