"""The file itself: digests, producer, operator sets, data outside of it."""

from __future__ import annotations

from typing import Any

from rewriters.model import io as model_io
from rewriters.model.external_data import external_locations

from ...inspection.inspector import count_nodes
from ...paths import sha256_of
from ..case import Case
from ..finding import Checked, Finding
from ..rule import Rule

__all__ = ["RULES", "check", "facts"]

CHECK = "provenance"
NO_PRODUCER = Rule(
    CHECK,
    "AUD301",
    "a file that names no producer",
    "Exporters write their name and version into the file. A file without them was written by hand or by a tool that"
    " edits graphs. Many such tools are harmless, so this is a note.",
)
EXTERNAL = Rule(
    CHECK,
    "AUD302",
    "weights outside of the file",
    "Large models keep their weights in files next to them. A digest of the model file alone does not cover them, so"
    " whoever may change these files may change the model. The report has a digest of each.",
)
RULES = (NO_PRODUCER, EXTERNAL)


def check(case: Case) -> Checked:
    """Notes about the file."""
    found: list[Finding] = []
    proto = case.loaded.proto
    if not proto.producer_name:
        found.append(NO_PRODUCER.finding("note", "producer_name", "the file does not say which program wrote it"))
    locations = external_locations(proto)
    if locations:
        found.append(
            EXTERNAL.finding(
                "note",
                ", ".join(locations[:3]) + (" …" if len(locations) > 3 else ""),
                f"{len(locations)} file{'s' if len(locations) > 1 else ''} next to the model hold weights that its own"
                " digest does not cover",
            )
        )
    return Checked(tuple(found))


def facts(case: Case) -> dict[str, Any]:
    """Digests, producer and versions; reads the file, and its external data, once."""
    proto = case.loaded.proto
    return {
        "path": None if case.path is None else str(case.path),
        "sha256": None if case.path is None else sha256_of(case.path),
        "graph_sha256": model_io.digest(proto),
        "weights": model_io.weights_digest(proto, case.folder),
        "producer": " ".join(filter(None, (proto.producer_name, proto.producer_version))),
        "ir_version": proto.ir_version,
        "opsets": {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import},
        "nodes": count_nodes(proto),
        "external_data": {name: sha256_of(case.folder / name) for name in external_locations(proto)},
    }
