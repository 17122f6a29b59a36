"""Reading a two-operand einsum equation as P·V."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from .view import attribute

__all__ = ["EinsumLayout", "einsum_layout", "equation_of"]


def equation_of(node: ir.Node) -> str:
    """The equation of an Einsum as text without blanks; "" where it has none."""
    return _text(attribute(node, "equation", ""))


def _text(equation: str | bytes) -> str:
    return (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")


@dataclass(frozen=True)
class EinsumLayout:
    """Non-negative key and query axes of P, and the permutations of P, V and output to canonical order.

    1. Leading axes are in the order of V, whose heads were split off its features: there samples come before heads.
    2. If several axes are only in V and in the output, they form the width together.
    3. `values_lack`: negative canonical axes that V does not have; (-3,) where all heads share their values.
    """

    key: int
    query: int
    probabilities: tuple[int, ...]
    values: tuple[int, ...]
    output: tuple[int, ...]
    values_lack: tuple[int, ...] = ()


def einsum_layout(equation: str | bytes, operand: int, rank: int, values_rank: int | None) -> EinsumLayout | str:
    """The layout, or a sentence that says why the equation is not of the form (..., Q, K) · (..., K, D).

    Args:
        equation: as in the ONNX operator, explicit or implicit, with or without an ellipsis.
        operand: which operand P is.
        rank, values_rank: ranks of P and V. If V's rank is unknown, an ellipsis stands for as many axes as in P.
    """
    text = _text(equation)
    left, arrow, output = text.partition("->")
    terms = left.split(",")
    if len(terms) != 2:
        return f"the equation {text!r} does not have two operands"
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        output = ("..." if "..." in left else "") + "".join(
            sorted(letter for letter in set(letters) if letters.count(letter) == 1)
        )
    p = _labels(terms[operand], rank)
    spread = None if p is None else len(p) - len(terms[operand].replace("...", ""))
    v = _labels(
        terms[1 - operand], values_rank if values_rank is not None else _expanded(terms[1 - operand], spread or 0)
    )
    out = _labels(output, _expanded(output, spread or 0))
    if p is None or v is None or out is None or any(len(set(term)) != len(term) for term in (p, v, out)):
        return f"the equation {text!r} does not fit its operands"
    keys = [label for label in p if label in v and label not in out]
    queries = [label for label in p if label in out and label not in v]
    widths = [label for label in v if label in out and label not in p]
    leading = [label for label in v if label in out and label in p]
    lack: tuple[int, ...] = ()
    if leading != [label for label in p if label in leading] and leading[-1] not in _neighbors(v, widths):
        return f"the equation {text!r} does not show which axis counts the heads"
    if len(queries) == 2 and len(leading) == len(p) - 3 > 0:
        # If V has neither heads nor query rows, the equation treats both alike; exporters write heads first.
        head, *queries = queries
        leading, lack = [*leading, head], (-3,)
    sizes = len(p) - 1, len(v) + len(lack) - len(widths), len(out) - len(widths)
    if (len(keys), len(queries)) != (1, 1) or not widths or set(sizes) != {len(leading) + 1}:
        return f"the equation {text!r} is not of the form (..., Q, K) · (..., K, D)"
    key, query = keys[0], queries[0]
    return EinsumLayout(
        key=p.index(key),
        query=p.index(query),
        probabilities=tuple(p.index(label) for label in (*leading, query, key)),
        values=tuple(v.index(label) for label in (*leading, key, *widths) if label in v),
        output=tuple(out.index(label) for label in (*leading, query, *widths)),
        values_lack=lack,
    )


def _neighbors(term: list[str], labels: list[str]) -> set[str]:
    """The labels directly before or after the given ones."""
    places = [term.index(label) for label in labels]
    return {term[at] for place in places for at in (place - 1, place + 1) if 0 <= at < len(term)}


def _expanded(term: str, spread: int) -> int:
    letters = len(term.replace("...", ""))
    return letters + spread if "..." in term else letters


def _labels(term: str, rank: int) -> list[str] | None:
    """One label for each axis; the axes of an ellipsis are numbered from its right end, as in broadcasting."""
    before, dots, after = term.partition("...")
    spread = rank - len(before) - len(after)
    if spread < 0 or (spread and not dots):
        return None
    return [*before, *(f".{index}" for index in range(spread, 0, -1)), *after]
