"""Files with which other engines serve original and patched: Triton, KServe, Ray Serve.

Each command also says how to go on. Loaded on first use, so that the command line's help is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .folder import Deployed
    from .kserve import deploy_kserve
    from .ray import deploy_ray
    from .triton import deploy_triton

__all__ = ["Deployed", "deploy_kserve", "deploy_ray", "deploy_triton"]

_HOME = {"Deployed": "folder", "deploy_kserve": "kserve", "deploy_ray": "ray", "deploy_triton": "triton"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
