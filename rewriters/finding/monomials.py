"""Products of dimensions (numbers and names), which are compared and divided without knowing the named sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from .facts import Dim

__all__ = ["ONE", "Monomial", "monomial"]


@dataclass(frozen=True)
class Monomial:
    """number · names, each name as often as it is a factor; sorted, so that equal products compare as equal."""

    number: int
    names: tuple[str, ...] = ()

    def __mul__(self, other: Monomial) -> Monomial:
        return Monomial(self.number * other.number, tuple(sorted((*self.names, *other.names))))

    def over(self, other: Monomial) -> Monomial | None:
        """The quotient; None where it may not be a whole number."""
        names = Counter(self.names)
        names.subtract(other.names)
        if not other.number or self.number % other.number or any(count < 0 for count in names.values()):
            return None
        return Monomial(self.number // other.number, tuple(sorted(names.elements())))


ONE = Monomial(1)


def monomial(dims: Iterable[Dim]) -> Monomial:
    """The product of dimensions."""
    product = ONE
    for dim in dims:
        product *= Monomial(dim) if isinstance(dim, int) else Monomial(1, (dim,))
    return product
