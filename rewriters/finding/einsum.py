"""Reading a two-operand einsum equation as P·V."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EinsumLayout", "einsum_layout"]


@dataclass(frozen=True)
class EinsumLayout:
    """Non-negative key and query axes of P, and the permutations of P, V and output to canonical order.

    1. Leading axes are ordered as in V, whose heads were split off its features: there samples come before heads.
    2. Several axes that only V and the output have are the width together.
    3. `values_lack`: negative canonical axes that V does not have; (-3,) where all heads share their values.
    """

    key: int
    query: int
    probabilities: tuple[int, ...]
    values: tuple[int, ...]
    output: tuple[int, ...]
    values_lack: tuple[int, ...] = ()


def einsum_layout(equation: str | bytes, operand: int, rank: int, values_rank: int | None) -> EinsumLayout | str:
    """The layout, or a sentence that says what in the equation has no place in (..., Q, K) · (..., K, D).

    Args:
        equation: as in the ONNX operator, explicit or implicit, with or without an ellipsis.
        operand: which operand P is.
        rank, values_rank: ranks of P and V; an ellipsis in V stands for what it stands for in P when V's rank is not
            known.
    """
    text = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    left, arrow, output = text.partition("->")
    terms = left.split(",")
    if len(terms) != 2:
        return f"the equation {text!r} has not two operands"
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
    if leading != [label for label in p if label in leading] and leading[-1] not in _beside(v, widths):
        return f"the equation {text!r} does not tell which axis counts the heads"
    if len(queries) == 2 and len(leading) == len(p) - 3 > 0:
        # The equation treats heads and query rows alike where V has neither; exporters write heads first.
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


def _beside(term: list[str], labels: list[str]) -> set[str]:
    """The labels right before or after others."""
    places = [term.index(label) for label in labels]
    return {term[at] for place in places for at in (place - 1, place + 1) if 0 <= at < len(term)}


def _expanded(term: str, spread: int) -> int:
    letters = len(term.replace("...", ""))
    return letters + spread if "..." in term else letters


def _labels(term: str, rank: int) -> list[str] | None:
    """One label an axis; the axes of an ellipsis are numbered from its right end, as they broadcast."""
    before, dots, after = term.partition("...")
    spread = rank - len(before) - len(after)
    if spread < 0 or (spread and not dots):
        return None
    return [*before, *(f".{index}" for index in range(spread, 0, -1)), *after]
