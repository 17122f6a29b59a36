"""Hot-fix a backdoored or unfair Transformer inside its ONNX graph.

    import atpatch_onnx

    atpatch_onnx.inspect("model.onnx").sites
    atpatch_onnx.fit("model.onnx", "debug.npz", output="model.hotfix")
    atpatch_onnx.patch("model.onnx", hotfix="model.hotfix")
    atpatch_onnx.compare("model.onnx", "model.patched.onnx", "clean.npz").verdict()

Functions are called as the commands of `atpatch-onnx` are: inspect, explain, extract, diff, fit, patch, unpatch,
compare, bench, audit, export, sign, verify, bom, and analyze_log for `ab analyze`. A model goes in as a path, an
`onnx.ModelProto` or an `onnx_ir.Model`. Every refusal is an `AtpatchError` with a `code`, which `atpatch-onnx explain
CODE` explains.

Everything public is named in `__all__` and loaded on first use, so that importing the package costs nothing. Former
names (`inspect_model`, `explain_site`, `extract_site`, `diff_models`, `patch_model`, `unpatch_model`, `export_model`)
go on working.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewriters.plan import PatchPlan
    from rewriters.sites import Inspection, Rejection, Site

    from .ab.analysis import Analysis, analyze_log
    from .auditing.auditor import audit as audit
    from .auditing.options import AuditOptions
    from .auditing.result import Audit
    from .benchmark.benchmarker import bench
    from .benchmark.options import BenchOptions
    from .benchmark.result import Bench
    from .comparison.comparer import compare
    from .comparison.options import CompareOptions
    from .comparison.result import Comparison
    from .errors import AtpatchError, DataError, ModelError, PlanError, ServeError
    from .exporters.exporter import Exported, export, export_model as export_model
    from .exporters.options import ExportOptions
    from .fitting.fitter import fit
    from .fitting.options import FitOptions
    from .hotfix.file import Hotfix
    from .hotfix.options import PatchOptions
    from .inference.sessions import providers, session
    from .inspection.differences import Difference, diff, diff_models as diff_models
    from .inspection.environment import examine
    from .inspection.explanation import Explanation, explain, explain_site as explain_site
    from .inspection.inspector import extract, extract_site as extract_site, inspect, inspect_model as inspect_model
    from .inspection.page import sites_page
    from .materials.bill import BillOfMaterials, bom
    from .patching.apply import (
        Patched,
        Unpatched,
        patch,
        patch_model as patch_model,
        unpatch,
        unpatch_model as unpatch_model,
    )
    from .signing.options import SignOptions, VerifyOptions
    from .signing.signer import Signed, sign
    from .signing.verifier import Verified, verify

from .version import __version__ as __version__

__all__ = [
    "Analysis",
    "AtpatchError",
    "Audit",
    "AuditOptions",
    "Bench",
    "BenchOptions",
    "BillOfMaterials",
    "CompareOptions",
    "Comparison",
    "DataError",
    "Difference",
    "Explanation",
    "ExportOptions",
    "Exported",
    "FitOptions",
    "Hotfix",
    "Inspection",
    "ModelError",
    "PatchOptions",
    "PatchPlan",
    "Patched",
    "PlanError",
    "Rejection",
    "ServeError",
    "SignOptions",
    "Signed",
    "Site",
    "Unpatched",
    "Verified",
    "VerifyOptions",
    "analyze_log",
    "audit",
    "bench",
    "bom",
    "compare",
    "diff",
    "examine",
    "explain",
    "export",
    "extract",
    "fit",
    "inspect",
    "patch",
    "providers",
    "session",
    "sign",
    "sites_page",
    "unpatch",
    "verify",
]

_NAMES = {
    "rewriters.plan": ("PatchPlan",),
    "rewriters.sites": ("Inspection", "Rejection", "Site"),
    ".ab.analysis": ("Analysis", "analyze_log"),
    ".auditing.auditor": ("audit",),
    ".auditing.options": ("AuditOptions",),
    ".auditing.result": ("Audit",),
    ".benchmark.benchmarker": ("bench",),
    ".benchmark.options": ("BenchOptions",),
    ".benchmark.result": ("Bench",),
    ".materials.bill": ("BillOfMaterials", "bom"),
    ".comparison.comparer": ("compare",),
    ".comparison.options": ("CompareOptions",),
    ".comparison.result": ("Comparison",),
    ".errors": ("AtpatchError", "DataError", "ModelError", "PlanError", "ServeError"),
    ".exporters.exporter": ("Exported", "export", "export_model"),
    ".exporters.options": ("ExportOptions",),
    ".fitting.fitter": ("fit",),
    ".fitting.options": ("FitOptions",),
    ".hotfix.file": ("Hotfix",),
    ".hotfix.options": ("PatchOptions",),
    ".inference.sessions": ("providers", "session"),
    ".inspection.differences": ("Difference", "diff", "diff_models"),
    ".inspection.environment": ("examine",),
    ".inspection.explanation": ("Explanation", "explain", "explain_site"),
    ".inspection.inspector": ("extract", "extract_site", "inspect", "inspect_model"),
    ".inspection.page": ("sites_page",),
    ".signing.options": ("SignOptions", "VerifyOptions"),
    ".signing.signer": ("Signed", "sign"),
    ".signing.verifier": ("Verified", "verify"),
    ".patching.apply": ("Patched", "Unpatched", "patch", "patch_model", "unpatch", "unpatch_model"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
