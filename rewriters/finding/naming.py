"""Names of sites: the module it was exported from, and an id that is valid in file names and value names."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

__all__ = ["Names", "scope_of"]

_SCOPES_KEY = "pkg.torch.onnx.name_scopes"


def scope_of(name: str, metadata: Mapping[str, str]) -> str:
    """Module path of a node: torch.export's name scopes, else the path in its name, else the name; may be empty."""
    scopes = _name_scopes(metadata.get(_SCOPES_KEY))
    if scopes:
        return scopes[-1]
    folder, slash, _ = name.strip("/").rpartition("/")
    return folder.replace("/", ".") if slash else name.strip("/")


def _name_scopes(literal: str | None) -> list[str]:
    """Enclosing modules, outermost first. The literal's last entry is the operator itself."""
    try:
        entries = ast.literal_eval(literal or "[]")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    if not isinstance(entries, list):
        return []
    return [entry for entry in entries[:-1] if isinstance(entry, str) and entry]


class Names:
    """Gives each site a unique id."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def take(self, scope: str) -> str:
        """`scope` with other characters replaced; `.2`, `.3`, ... is added where the id exists already."""
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", scope).strip("_.") or "softmax"
        name, count = slug, 1
        while name in self._used:
            count += 1
            name = f"{slug}.{count}"
        self._used.add(name)
        return name
