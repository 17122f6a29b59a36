"""The arithmetic of masks, for one column."""

from __future__ import annotations

import pytest

from rewriters.finding.mask_arithmetic import Evaluator

from .reading import read

CONSTANTS = (
    "float one = {1}, float two = {2}, float[2] same = {5,5}, float[2] several = {1,2}, bool yes = {1}, bool no = {0},"
    " int64 i0 = {0}, int64 i2 = {2}, int64[1] axes = {0}, float infinite = {inf}, int64[0] none = {}"
)
INPUTS = "float[B,K] mask, bool[B,K] choice, float[B,K] other, int64[2] size"

# mask, rest, nodes that make y → its number
VALUES = {
    "itself": (1, 0, "y = Identity(mask)", 1),
    "another input": (1, 0, "y = Identity(other)", None),
    "an unknown truth value": (1, 1, "y = Identity(choice)", 1),
    "the other unknown truth value": (1, 0, "y = Identity(choice)", 0),
    "truth of an unknown number": (1, 1, "y = Cast<to = 9>(other)", 1),
    "sum": (3, 0, "y = Add(mask, two)", 5),
    "difference": (3, 0, "y = Sub(mask, two)", 1),
    "difference the other way": (3, 0, "y = Sub(two, mask)", -1),
    "product": (3, 0, "y = Mul(mask, two)", 6),
    "nothing times infinity": (0, 0, "y = Mul(mask, infinite)", 0),
    "infinity times nothing": (0, 0, "y = Mul(infinite, mask)", 0),
    "equal": (2, 0, "y = Equal(mask, two)", 1),
    "not equal": (1, 0, "y = Equal(mask, two)", 0),
    "greater": (3, 0, "y = Greater(mask, two)", 1),
    "no greater": (2, 0, "y = Greater(mask, two)", 0),
    "as great": (2, 0, "y = GreaterOrEqual(mask, two)", 1),
    "less than it": (1, 0, "y = GreaterOrEqual(mask, two)", 0),
    "less": (1, 0, "y = Less(mask, two)", 1),
    "no less": (2, 0, "y = Less(mask, two)", 0),
    "as little": (2, 0, "y = LessOrEqual(mask, two)", 1),
    "more than it": (3, 0, "y = LessOrEqual(mask, two)", 0),
    "and": (1, 1, "b = Cast<to = 9>(mask) y = And(b, choice)", 1),
    "and not": (1, 0, "b = Cast<to = 9>(mask) y = And(b, choice)", 0),
    "or": (1, 0, "b = Cast<to = 9>(mask) y = Or(b, choice)", 1),
    "neither": (0, 0, "b = Cast<to = 9>(mask) y = Or(b, choice)", 0),
    "and of bits": (1, 0, "y = BitwiseAnd(mask, i0)", 0),
    "and of set bits": (1, 0, "y = BitwiseAnd(mask, i2)", 1),
    "or of bits": (1, 0, "y = BitwiseOr(mask, i0)", 1),
    "or of no bits": (0, 0, "y = BitwiseOr(i0, mask)", 0),
    "greatest": (3, 0, "y = Max(mask, two)", 3),
    "least": (3, 0, "y = Min(mask, two)", 2),
    "greatest of three": (3, 0, "y = Max(mask, two, one)", None),
    "sum with an unknown": (3, 0, "y = Add(mask, other)", None),
    "sum with an unknown in front": (3, 0, "y = Add(other, mask)", None),
    "not": (1, 0, "b = Cast<to = 9>(mask) y = Not(b)", 0),
    "not false": (0, 1, "b = Cast<to = 9>(mask) y = Not(b)", 1),
    "not unknown": (0, 1, "y = Not(other)", 1),
    "chosen": (1, 0, "b = Cast<to = 9>(mask) y = Where(b, one, two)", 1),
    "chosen otherwise": (0, 0, "b = Cast<to = 9>(mask) y = Where(b, one, two)", 2),
    "chosen by an unknown number": (1, 0, "y = Where(other, one, two)", None),
    "as truth": (3, 0, "y = Cast<to = 9>(mask)", 1),
    "nothing as truth": (0, 1, "y = Cast<to = 9>(mask)", 0),
    "as another number": (3, 0, "y = Cast<to = 10>(mask)", 3),
    "with another axis": (3, 0, "y = Unsqueeze(mask, axes)", 3),
    "spread": (3, 0, "y = Expand(mask, size)", 3),
    "another operator": (3, 0, "y = Sin(mask)", None),
    "two numbers filled": (3, 0, "y = ConstantOfShape<value = float[1] {7}>(size)", 7),
    "zeros filled": (3, 0, "y = ConstantOfShape(size)", 0),
    "equal numbers": (3, 0, "y = Identity(same)", 5),
    "several numbers": (3, 0, "y = Identity(several)", None),
    "no number": (3, 0, "y = Identity(none)", None),
    "a constant": (3, 0, "y = Constant<value = float {4}>()", 4),
    "a constant number": (3, 0, "y = Constant<value_float = 4.5>()", 4.5),
    "a constant whole number": (3, 0, "y = Constant<value_int = 4>()", 4),
    "constant numbers": (3, 0, "y = Constant<value_ints = [4, 4]>()", None),
    "words": (3, 0, "y = Constant<value_string = 'a'>()", None),
}


@pytest.mark.parametrize("case", VALUES)
def test_value(case: str) -> None:
    mask, rest, nodes, expected = VALUES[case]
    graph = read(INPUTS, nodes.replace("'", '"'), constants=CONSTANTS)
    found = Evaluator(graph.view, graph["mask"], mask, rest).value(graph["y"])
    assert found == expected
    assert not isinstance(found, bool)


def test_no_value() -> None:
    graph = read(INPUTS, "y = Identity(mask)")
    assert Evaluator(graph.view, graph["mask"], 1.0, 0.0).value(None) is None


@pytest.mark.parametrize(("steps", "expected"), [(48, 1), (49, None)])
def test_what_lies_too_deep_is_not_known(steps: int, expected: float | None) -> None:
    nodes = " ".join(f"x{i + 1} = Identity(x{i})" for i in range(steps))
    graph = read("float[K] x0", nodes)
    assert Evaluator(graph.view, graph["x0"], 1.0, 0.0).value(graph[f"x{steps}"]) == expected
