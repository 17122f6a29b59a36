"""The graph engine: finds attention sites, patches them, and takes the patch out again.

    from rewriters import find_sites, patch, unpatch

Each takes a path, an `onnx.ModelProto` or an `onnx_ir.Model`. Loaded on first use, so that importing a part of the
package costs no more than that part.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import find_sites, is_patched, patch, trace_sites, unpatch

__all__ = ["find_sites", "is_patched", "patch", "trace_sites", "unpatch"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(".api", __name__), name)
    globals()[name] = value
    return value
