"""Hot-fix a backdoored or unfair Transformer inside its ONNX graph.

    import atpatch_onnx

    atpatch_onnx.inspect_model("model.onnx").sites
    atpatch_onnx.patch_model("model.onnx", hotfix="model.hotfix")

Everything public is named in `__all__` and loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewriters.plan import PatchPlan
    from rewriters.sites import Inspection, Rejection, Site

    from .bench.benching import bench
    from .bench.result import Bench
    from .compare.comparing import compare
    from .compare.comparison import Comparison
    from .diff import Difference, diff_models
    from .doctor import examine
    from .errors import AtpatchError
    from .explaining import Explanation, explain_site
    from .export import Exported, export_model
    from .fit import fit
    from .hotfix import Hotfix
    from .inspecting import extract_site, inspect_model
    from .pages.sites import sites_page
    from .patching import Patched, Unpatched, patch_model, unpatch_model
    from .runtime import providers, session

__version__ = "0.1.0"

__all__ = [
    "AtpatchError",
    "Bench",
    "Comparison",
    "Difference",
    "Explanation",
    "Exported",
    "Hotfix",
    "Inspection",
    "PatchPlan",
    "Patched",
    "Rejection",
    "Site",
    "Unpatched",
    "bench",
    "compare",
    "diff_models",
    "examine",
    "explain_site",
    "export_model",
    "extract_site",
    "fit",
    "inspect_model",
    "patch_model",
    "providers",
    "session",
    "sites_page",
    "unpatch_model",
]

_HOME = {
    "AtpatchError": ".errors",
    "Bench": ".bench.result",
    "Comparison": ".compare.comparison",
    "Difference": ".diff",
    "Exported": ".export",
    "Explanation": ".explaining",
    "Hotfix": ".hotfix",
    "Inspection": "rewriters.sites",
    "PatchPlan": "rewriters.plan",
    "Patched": ".patching",
    "Rejection": "rewriters.sites",
    "Site": "rewriters.sites",
    "Unpatched": ".patching",
    "bench": ".bench.benching",
    "compare": ".compare.comparing",
    "diff_models": ".diff",
    "examine": ".doctor",
    "export_model": ".export",
    "explain_site": ".explaining",
    "extract_site": ".inspecting",
    "fit": ".fit",
    "inspect_model": ".inspecting",
    "patch_model": ".patching",
    "providers": ".runtime",
    "session": ".runtime",
    "sites_page": ".pages.sites",
    "unpatch_model": ".patching",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """`fit` and `compare` are functions here and the modules they live in; importing a module must not hide the
    function.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
