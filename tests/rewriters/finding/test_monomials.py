"""Products of dimensions, numbers and names."""

from __future__ import annotations

import pytest

from rewriters.finding.monomials import ONE, Monomial, monomial


def test_a_product_of_dimensions_has_one_number_and_its_names_in_one_order() -> None:
    assert monomial([2, "K", 3, "B", "K"]) == Monomial(6, ("B", "K", "K"))
    assert monomial([]) == ONE == Monomial(1)
    assert monomial(["B"]) == Monomial(1, ("B",))


def test_products_are_multiplied() -> None:
    assert Monomial(2, ("K",)) * Monomial(3, ("B",)) == Monomial(6, ("B", "K"))


@pytest.mark.parametrize(
    ("dividend", "divisor", "quotient"),
    [
        ([6, "B", "K"], [2, "K"], Monomial(3, ("B",))),
        ([6, "K", "K"], [6, "K"], Monomial(1, ("K",))),
        ([6, "B"], [6, "B"], ONE),
        ([6], [4], None),
        ([6], ["K"], None),
        ([6, "B"], ["B", "B"], None),
        ([6], [0], None),
        ([0], [5], Monomial(0)),
    ],
)
def test_a_quotient_is_known_only_where_it_is_whole(
    dividend: list[int | str], divisor: list[int | str], quotient: Monomial | None
) -> None:
    assert monomial(dividend).over(monomial(divisor)) == quotient
