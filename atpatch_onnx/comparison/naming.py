"""What people call the classes, the columns and the protected attribute; kept in the set-up of a comparison as JSON.

`{"classes": ["no", "yes"], "trigger": "cf", "attribute": "sex", "at": ["features", 3], "columns": [{"name", "input",
"index", "values" | "mean" and "std", "token"}]}`; all of it optional. `token`: the column of the attention maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Names"]


@dataclass(frozen=True)
class Names:
    """Names by what they stand for; where there is none, a number stays a number."""

    given: Mapping[str, Any]
    words: Mapping[str, str] = field(default_factory=dict)
    """Of a decoder: class → first token of its answer."""

    @classmethod
    def of(cls, setup: Mapping[str, Any]) -> Names:
        """Those of a comparison."""
        return cls(setup.get("names") or {}, setup.get("answers", {}).get("words", {}))

    @property
    def attribute(self) -> str | None:
        """The protected attribute."""
        name = self.given.get("attribute")
        return None if name is None else str(name)

    def label(self, number: int) -> str:
        """A class."""
        classes: Sequence[str] = self.given.get("classes") or ()
        if 0 <= number < len(classes):
            return str(classes[number])
        return self.words.get(str(number), "").strip() or str(number)

    def class_of(self, number: int) -> str:
        """A class in a sentence."""
        name = self.label(number)
        return (
            f"class {name}"
            if name == str(number)
            else f"\N{LEFT DOUBLE QUOTATION MARK}{name}\N{RIGHT DOUBLE QUOTATION MARK}"
        )

    def token(self, place: int) -> str:
        """A column of the attention maps: the table's column where one is known to be there."""
        for column in self.given.get("columns") or ():
            if column.get("token") == place:
                return str(column["name"])
        return str(place)

    def field(self, name: str, place: int, value: float) -> str | None:
        """A value of a table in its own words, such as `sex = Male`; None for what is not described."""
        for column in self.given.get("columns") or ():
            if (column["input"], column["index"]) == (name, place):
                values = column.get("values")
                if values is not None:
                    known = 0 <= int(value) < len(values)
                    return f"{column['name']} = {values[int(value)] if known else f'{value:g}'}"
                return f"{column['name']} = {value * column.get('std', 1.0) + column.get('mean', 0.0):g}"
        return None
