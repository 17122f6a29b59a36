"""An audit as a SARIF 2.1.0 log, for code scanning.

One run, one rule for each AUD code, one result for each finding. A model is a binary file, so a result points at the
whole file, and names the nodes as logical locations. What was not tried becomes a notification of the invocation.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from ..version import __version__
from .finding import Finding
from .result import Audit
from .rules import RULES

__all__ = ["sarif_log"]

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def sarif_log(audit: Audit) -> dict[str, Any]:
    """The log as JSON data."""
    codes = list(RULES)
    uri = _uri(audit.case.path)
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "atpatch-onnx",
                        "semanticVersion": __version__,
                        "rules": [_rule(code) for code in codes],
                    }
                },
                "invocations": [
                    {
                        "executionSuccessful": True,
                        "toolExecutionNotifications": [
                            {"level": "note", "message": {"text": _plain(f"not tried: {one.check}: {one.why}")}}
                            for one in audit.not_tried
                        ],
                    }
                ],
                "artifacts": [_artifact(uri, audit.facts["sha256"])],
                "results": [_result(one, codes.index(one.code), uri) for one in audit.findings],
                "properties": {"verdict": audit.verdict.word, "sure": audit.verdict.sure},
            }
        ],
    }


def _artifact(uri: str, digest: str | None) -> dict[str, Any]:
    return {"location": {"uri": uri}, **({"hashes": {"sha-256": digest}} if digest else {})}


def _rule(code: str) -> dict[str, Any]:
    rule = RULES[code]
    return {
        "id": code,
        "name": "".join(word.capitalize() for word in rule.check.split()) + code[3:],
        "shortDescription": {"text": f"There is {rule.title}"},
        "fullDescription": {"text": rule.about},
        "properties": {"tags": ["security", rule.check]},
    }


def _result(one: Finding, index: int, uri: str) -> dict[str, Any]:
    place: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": uri, "index": 0}}}
    if one.nodes:
        place["logicalLocations"] = [{"fullyQualifiedName": name, "kind": "element"} for name in one.nodes]
    text = f"{one.where}: {one.why}." + (f" Next: {one.remedy}" if one.remedy else "")
    return {
        "ruleId": one.code,
        "ruleIndex": index,
        "level": one.severity,  # SARIF has the same three words
        "message": {"text": _plain(text)},
        "locations": [place],
        "partialFingerprints": {"finding/v1": hashlib.sha256(f"{one.code} {one.where}".encode()).hexdigest()[:32]},
    }


def _plain(text: str) -> str:
    """Names come from a stranger's file: no control characters, and no `[text](target)`, which viewers make a link."""
    visible = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return visible.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]") if "](" in visible else visible


def _uri(path: Path | None) -> str:
    """Relative to the working directory where the model lies in it, as code scanning wants it."""
    if path is None:
        return "model.onnx"
    try:
        shown = path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path.resolve().as_uri()
    return quote(str(PurePosixPath(*shown.parts)))
