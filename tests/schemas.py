"""The JSON schemas of the docs, for tests that hold the code to them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

SCHEMAS = Path(__file__).parent.parent / "docs" / "schemas"


@cache
def schema(name: str) -> Draft202012Validator:
    from jsonschema import Draft202012Validator  # a second of grammars, which few tests need

    return Draft202012Validator(json.loads((SCHEMAS / f"{name}.json").read_text("utf-8")))


def problems(name: str, data: Any) -> list[str]:
    """Where data is not as the schema says, one line each."""
    found = schema(name).iter_errors(data)
    return [f"{'.'.join(map(str, error.absolute_path)) or 'top'}: {error.message[:300]}" for error in found]


def schema_of(arguments: list[str]) -> str:
    """Name of the schema for what a command prints with `--json`."""
    of_folder = arguments[0] == "inspect" and Path(arguments[1]).is_dir()
    return "ab-analyze" if arguments[0] == "ab" else "inspect-folder" if of_folder else arguments[0]
