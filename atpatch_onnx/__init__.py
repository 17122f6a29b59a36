"""Hot-fix a backdoored or unfair Transformer inside its ONNX graph.

    import atpatch_onnx

    atpatch_onnx.inspect_model("model.onnx").sites
    atpatch_onnx.patch_model("model.onnx", hotfix="model.hotfix")

Everything public is named in `__all__` and loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewriters.plan import PatchPlan
    from rewriters.sites import Inspection, Rejection, Site

    from .benchmark.benchmarker import bench
    from .benchmark.result import Bench
    from .comparison.comparer import compare
    from .comparison.result import Comparison
    from .errors import AtpatchError, DataError, ModelError, PlanError, ServeError
    from .exporters.exporter import Exported, export_model
    from .fitting.fitter import fit
    from .hotfix.file import Hotfix
    from .inference.sessions import providers, session
    from .inspection.differences import Difference, diff_models
    from .inspection.environment import examine
    from .inspection.explanation import Explanation, explain_site
    from .inspection.inspector import extract_site, inspect_model
    from .inspection.page import sites_page
    from .patching.apply import Patched, Unpatched, patch_model, unpatch_model

from .version import __version__ as __version__

__all__ = [
    "AtpatchError",
    "Bench",
    "Comparison",
    "DataError",
    "Difference",
    "Explanation",
    "Exported",
    "Hotfix",
    "Inspection",
    "ModelError",
    "PatchPlan",
    "Patched",
    "PlanError",
    "Rejection",
    "ServeError",
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
    "Bench": ".benchmark.result",
    "Comparison": ".comparison.result",
    "DataError": ".errors",
    "Difference": ".inspection.differences",
    "Exported": ".exporters.exporter",
    "Explanation": ".inspection.explanation",
    "Hotfix": ".hotfix.file",
    "Inspection": "rewriters.sites",
    "ModelError": ".errors",
    "PatchPlan": "rewriters.plan",
    "Patched": ".patching.apply",
    "PlanError": ".errors",
    "Rejection": "rewriters.sites",
    "ServeError": ".errors",
    "Site": "rewriters.sites",
    "Unpatched": ".patching.apply",
    "bench": ".benchmark.benchmarker",
    "compare": ".comparison.comparer",
    "diff_models": ".inspection.differences",
    "examine": ".inspection.environment",
    "export_model": ".exporters.exporter",
    "explain_site": ".inspection.explanation",
    "extract_site": ".inspection.inspector",
    "fit": ".fitting.fitter",
    "inspect_model": ".inspection.inspector",
    "patch_model": ".patching.apply",
    "providers": ".inference.sessions",
    "session": ".inference.sessions",
    "sites_page": ".inspection.page",
    "unpatch_model": ".patching.apply",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
