"""Audits a model: one call, one verdict."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from typing import Unpack

from rewriters.model.forms import Model

from .behavior import check_behavior
from .budget import Budget, Progress
from .case import Case, open_case
from .cutting import check_output, cut_out
from .finding import Finding
from .graph_logic import check_graph
from .options import AuditKeywords, AuditOptions
from .provenance import check_provenance, facts_of
from .result import Audit
from .verdict import judge

__all__ = ["audit"]

_GRAVEST_FIRST = ("error", "warning", "note")


def audit(model: Model, progress: Progress | None = None, **options: Unpack[AuditKeywords]) -> Audit:
    """Look for backdoors in a model: in its graph, in what it does, in what its file says of its origin.

    Args:
        model: path, `onnx.ModelProto` or `onnx_ir.Model`. It is not changed.
        progress: called with a step, how much of it is done, and how much there is.
        options: fields of `AuditOptions`.

    Returns:
        the verdict, all findings, and what was not tried. A clean verdict is no proof.

    Raises:
        AtpatchError: ATP001-ATP005, ATP020 and ATP021 for a model or a reference that cannot be used, ATP060
            (options), ATP002 and ATP081 for rows and a tokenizer that are not there, ATP080 for a table and a
            description that do not go together, ATP016 and ATP019 for a file to write.
    """
    started = time.monotonic()
    wanted = AuditOptions(**options)
    case = open_case(model, wanted, Budget.of(wanted.budget, progress or _silent))
    check_output(case)
    graph = check_graph(case.loaded.proto, case.path)
    provenance = check_provenance(case)
    behavior = check_behavior(case)
    said = [graph, behavior.checked, provenance]
    findings = [_with_remedy(case, finding) for one in said for finding in one.findings]
    findings.sort(key=lambda one: _GRAVEST_FIRST.index(one.severity))
    not_tried = tuple(left for one in said for left in one.not_tried)
    return Audit(
        case,
        judge(findings, not_tried, behavior.guarded, behavior.unfit),
        facts_of(case),
        tuple(findings),
        not_tried,
        behavior,
        None if wanted.cut is None else cut_out(case, findings),
        time.monotonic() - started,
    )


def _with_remedy(case: Case, finding: Finding) -> Finding:
    """Nodes that are planted in the graph can be taken out."""
    if finding.remedy or not finding.nodes or finding.severity == "note" or not finding.code.startswith("AUD1"):
        return finding
    output = "CUT.onnx" if case.path is None else shlex.quote(str(case.path.with_suffix(".cut.onnx")))
    clean = (
        " --clean DATA" if case.options.clean is not None else " --table DATA" if case.options.table is not None else ""
    )
    return replace(finding, remedy=f"atpatch-onnx audit {case.name}{clean} --cut {output}")


def _silent(step: str, done: int, total: int) -> None:
    pass
