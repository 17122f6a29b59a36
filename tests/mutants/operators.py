"""Small changes of meaning, one at a time, in the source text of a module.

1. Comparisons, `and`/`or`, `not`, arithmetic: the neighbor that is easily confused with it.
2. Numbers: whole numbers plus one, fractions times a thousand, truth values the other way round.
3. `if` and conditional expressions: always, and never. A statement that only has an effect: left out. A returned value:
   None.
4. Names of ONNX operators in calls such as `e.op("Greater", ...)` and `e.reduce("Max", ...)`: the neighbor again.
5. What no test should pin down is left as it is: docstrings, annotations, `__all__`, messages, roles (they only name
   values), default values of dataclass fields, and bounds on how far a search goes (`_MAX_...`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Mutant", "mutants_of", "named"]

_INFIX: dict[type, tuple[str, str]] = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"),
    ast.And: ("and", "or"), ast.Or: ("or", "and"),
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "+"),
    ast.Mod: ("%", "+"),
}  # fmt: skip
_OPERATORS = {
    "Greater": "Less", "Less": "Greater", "And": "Or", "Or": "And", "Max": "Min", "Min": "Max", "Add": "Sub",
    "Sub": "Add", "Mul": "Add",
    "Div": "Mul", "Not": "Identity", "Mean": "Max", "Sum": "Mean", "Neg": "Identity", "Sigmoid": "Identity",
    "Relu": "Identity",
}  # fmt: skip
_EMITTING = {"op", "reduce"}


@dataclass(frozen=True)
class Mutant:
    """A module with one change; `what` says which, for people."""

    path: str
    line: int
    what: str
    source: str

    @property
    def name(self) -> str:
        return f"{self.path}:{self.line} {self.what}"


class _Text:
    """A source text in which the places that `ast` names can be replaced; ast counts columns in bytes."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.source = Path(path).read_bytes()
        self._starts = [0]
        for line in self.source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def place(self, node: ast.AST) -> slice:
        return slice(
            self._starts[node.lineno - 1] + node.col_offset,  # type: ignore[attr-defined]
            self._starts[node.end_lineno - 1] + node.end_col_offset,  # type: ignore[attr-defined]
        )

    def text(self, node: ast.AST) -> str:
        return self.source[self.place(node)].decode()

    def infix(self, node: ast.expr, operator: ast.AST, left: ast.expr, right: ast.expr) -> Iterator[Mutant]:
        """The operator between two operands replaced; parentheses around these stay where they are."""
        if type(operator) in _INFIX:
            old, new = _INFIX[type(operator)]
            place = slice(self.place(left).stop, self.place(right).start)
            gap = self.source[place].decode().replace(old, new, 1)
            yield self.change(place, gap, node.lineno, f"{' '.join(self.text(node).split())[:60]}: {new}")

    def change(self, place: slice, new: str, line: int, what: str | None = None) -> Mutant:
        old = self.source[place].decode()
        shown = what or f"{' '.join(old.split())} → {new}"
        return Mutant(
            self.path, line, shown, (self.source[: place.start] + new.encode() + self.source[place.stop :]).decode()
        )


def mutants_of(path: str) -> list[Mutant]:
    """All mutants of a module, those of which the text does not change left out."""
    text = _Text(path)
    tree = ast.parse(text.source)
    found = [mutant for function in _functions(tree) for node in _within(function) for mutant in _of(text, node)]
    found += [mutant for statement in tree.body for mutant in _constant(text, statement)]
    different = {mutant.source: mutant for mutant in found if mutant.source != text.source.decode()}
    return sorted(different.values(), key=lambda mutant: (mutant.line, mutant.what))


def named(path: str, old: str, new: str) -> Mutant:
    """The mutant in which the only place that reads `old` reads `new`.

    Raises: ValueError where there are more or none.
    """
    source = Path(path).read_text()
    if source.count(old) != 1:
        raise ValueError(f"{path} reads {source.count(old)} times {old!r}")
    line = source[: source.index(old)].count("\n") + 1
    return Mutant(path, line, f"{' '.join(old.split())} → {' '.join(new.split())}", source.replace(old, new))


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Functions that are not in another: what lies in them is walked along."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield node
        else:
            yield from _functions(node)


def _within(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """The nodes of a function's body without annotations, docstrings, messages and roles (rule 5)."""
    waiting: list[ast.AST] = list(reversed(function.body))
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Raise, ast.Assert, ast.JoinedStr)) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            continue
        yield node
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "type_params"):
                continue
            children = value if isinstance(value, list) else [value]
            waiting.extend(
                child
                for child in children
                if isinstance(child, ast.AST) and not (isinstance(child, ast.keyword) and child.arg == "role")
            )


def _of(text: _Text, node: ast.AST) -> Iterator[Mutant]:
    line = getattr(node, "lineno", 0)
    if isinstance(node, ast.Compare):
        for operator, left, right in zip(node.ops, [node.left, *node.comparators], node.comparators, strict=False):
            yield from text.infix(node, operator, left, right)
    elif isinstance(node, ast.BoolOp):
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield from text.infix(node, node.op, left, right)
    elif isinstance(node, ast.BinOp):
        yield from text.infix(node, node.op, node.left, node.right)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield text.change(text.place(node), text.text(node.operand), line)
    elif isinstance(node, ast.Constant) and not isinstance(node.value, (str, bytes)) and node.value not in (None, ...):
        yield from _number(text, node, line)
    elif isinstance(node, (ast.If, ast.IfExp)):
        for verdict in ("True", "False"):
            yield text.change(text.place(node.test), verdict, line, f"if {text.text(node.test)[:60]}: {verdict}")
    elif (
        isinstance(node, ast.Return)
        and node.value is not None
        and not (isinstance(node.value, ast.Constant) and node.value.value is None)
    ):
        yield text.change(text.place(node.value), "None", line, f"return {text.text(node.value)[:60]}: None")
    elif isinstance(node, (ast.Expr, ast.AugAssign, ast.Continue)):
        yield text.change(text.place(node), "pass", line, f"{text.text(node)[:60]}: left out")
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in _EMITTING
        and node.args
    ):
        first = node.args[0]
        if isinstance(first, ast.Constant) and first.value in _OPERATORS:
            yield text.change(
                text.place(first),
                f'"{_OPERATORS[first.value]}"',
                line,
                f"{text.text(node)[:60]}: {_OPERATORS[first.value]}",
            )


def _number(text: _Text, node: ast.Constant, line: int) -> Iterator[Mutant]:
    value = node.value
    if isinstance(value, bool):
        yield text.change(text.place(node), str(not value), line)
    elif isinstance(value, int):
        yield text.change(text.place(node), str(value + 1), line)
    elif isinstance(value, float):
        yield text.change(text.place(node), repr(value * 1000 if value else 1.0), line)


def _constant(text: _Text, statement: ast.stmt) -> Iterator[Mutant]:
    """Numbers that a module names (rule 5: not those that only bound a search)."""
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Constant):
        return
    if not isinstance(statement.value.value, str) and not text.text(statement.targets[0]).startswith("_MAX_"):
        yield from _number(text, statement.value, statement.lineno)
