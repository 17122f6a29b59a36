"""What a site is called: the module it was exported from, and an id that file names and value names can hold."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

__all__ = ["Names", "scope_of"]

_SCOPES_KEY = "pkg.torch.onnx.name_scopes"


def scope_of(name: str, metadata: Mapping[str, str]) -> str:
    """Module path of a node: torch.export's name scopes, else the folder part of a node name, else the name itself; may
    be empty.
    """
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
    """Hands out ids, each once."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def take(self, scope: str) -> str:
        """`scope` with foreign characters replaced; `.2`, `.3`, ... where it is taken."""
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", scope).strip("_.") or "softmax"
        name, count = slug, 1
        while name in self._used:
            count += 1
            name = f"{slug}.{count}"
        self._used.add(name)
        return name
