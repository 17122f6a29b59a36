"""The bill of materials as CycloneDX 1.6: the library makes it, the model card is added, the library checks it."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import onnx
from cyclonedx.model import AttachedText, HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType, Diff, Patch, PatchClassification, Pedigree
from cyclonedx.model.issue import IssueClassification, IssueType
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from ..errors import BAD_OPTION
from ..version import __version__
from .facts import Facts, HotfixFacts, Metric

__all__ = ["document"]

_FIXED_TIME = "SOURCE_DATE_EPOCH"
_FAULTS = {
    "backdoor": (IssueClassification.SECURITY, "predictions obey a trigger that an attacker planted"),
    "unfairness": (IssueClassification.DEFECT, "predictions change with a protected attribute"),
}
_LIMITATION = (
    "Figures were measured by 'atpatch-onnx fit' on rows that it had held back. They are as trustworthy as the hotfix"
    " that carries them."
)


def document(facts: Facts) -> dict[str, Any]:
    """The bill of materials. With SOURCE_DATE_EPOCH in the environment it is the same each time.

    Raises:
        AtpatchError: ATP060 where SOURCE_DATE_EPOCH is no time.
    """
    time, fixed = _time()
    model, hotfix = _model(facts), _hotfix(facts.hotfix)
    serial = uuid.uuid5(uuid.NAMESPACE_OID, f"{facts.sha256} {time.isoformat()}") if fixed else uuid.uuid4()
    tool = Component(type=ComponentType.APPLICATION, name="atpatch-onnx", version=__version__, bom_ref="tool")
    made = Bom(
        serial_number=serial,
        metadata=BomMetaData(tools=ToolRepository(components=[tool]), component=model, timestamp=time),
        components=hotfix,
    )
    made.register_dependency(model, [*model.components, *hotfix])
    found = json.loads(JsonV1Dot6(made).output_as_string())
    found["metadata"]["component"]["modelCard"] = _model_card(facts)
    if (fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(found))) is not None:
        raise ValueError(f"the bill of materials is not CycloneDX 1.6: {fault}")
    return dict(found)


def _time() -> tuple[datetime, bool]:
    """Now, or SOURCE_DATE_EPOCH; and whether it is that."""
    text = os.environ.get(_FIXED_TIME)
    if not text:
        return datetime.now(UTC).replace(microsecond=0), False
    try:
        return datetime.fromtimestamp(int(text), UTC), True
    except (ValueError, OverflowError, OSError) as error:
        raise BAD_OPTION(f"{_FIXED_TIME} is {text!r}, not a number of seconds since 1970") from error


def _model(facts: Facts) -> Component:
    original = Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=f"original of {facts.name}",
        bom_ref="original",
        hashes=[_sha256(facts.original)],
        description="The model before it was patched; 'atpatch-onnx unpatch' gives back a file with this SHA-256.",
        properties=[Property(name="atpatch:weights", value=facts.weights), *_of_onnx(facts.proto)],
    )
    stamp = {f"atpatch:patch:{name}": value for name, value in facts.stamp.items() if name in _SHOWN}
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=facts.name,
        bom_ref="model",
        hashes=[_sha256(facts.sha256)],
        pedigree=Pedigree(ancestors=[original], patches=[_patch(facts)]),
        components=[
            Component(type=ComponentType.DATA, name=name, bom_ref=f"data:{name}", hashes=[_sha256(digest)],
                      description="external data of the model")
            for name, digest in facts.data.items()
        ],
        properties=[
            Property(name="atpatch:weights", value=facts.weights),
            *_of_onnx(facts.proto),
            *(Property(name=name, value=value) for name, value in stamp.items()),
        ],
    )  # fmt: skip


_SHOWN = ("version", "hotfix", "sites", "detector", "gating", "passes", "controls", "threshold")


def _patch(facts: Facts) -> Patch:
    said = facts.stamp
    sites = said.get("sites", "").split(" ")
    lines = [
        f"hotfix {said['hotfix']} (digest of its content)" if said.get("hotfix") else "no hotfix",
        f"inserted at {len(sites)} attention site{'s' if len(sites) > 1 else ''}: {' '.join(sites)}",
        f"detector {said.get('detector')}, threshold {said.get('threshold')}, passes {said.get('passes')}",
        f"where a detector fires, {_repair(said)}; weights and other nodes are those of the original",
    ]
    faults = facts.hotfix.faults if facts.hotfix is not None else ()
    issues = [IssueType(type=_FAULTS[name][0], name=name, description=_FAULTS[name][1]) for name in faults]
    text = AttachedText(content="\n".join(lines))
    return Patch(type=PatchClassification.UNOFFICIAL, diff=Diff(text=text), resolves=issues)


def _repair(said: Mapping[str, str]) -> str:
    if said.get("detector") == "smoothing":
        return "rows of attention are evened out"
    if said.get("passes") == "two":
        return "the answer is computed without the flagged tokens"
    return "the attention moves to the other tokens"


def _hotfix(hotfix: HotfixFacts | None) -> list[Component]:
    if hotfix is None:
        return []
    return [
        Component(
            type=ComponentType.DATA,
            name=hotfix.name,
            bom_ref="hotfix",
            hashes=[_sha256(hotfix.sha256)],
            description="detectors and thresholds that the patch inserted",
        )
    ]


def _of_onnx(proto: onnx.ModelProto) -> Iterator[Property]:
    producer = " ".join(filter(None, (proto.producer_name, proto.producer_version)))
    yield Property(name="atpatch:onnx:producer", value=producer or "not named")
    yield Property(name="atpatch:onnx:ir_version", value=str(proto.ir_version))
    for entry in proto.opset_import:
        yield Property(name=f"atpatch:onnx:opset:{entry.domain or 'ai.onnx'}", value=str(entry.version))


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def _model_card(facts: Facts) -> dict[str, Any]:
    """The library has no class for it."""
    graph = facts.proto.graph
    constant = {tensor.name for tensor in graph.initializer}
    card: dict[str, Any] = {
        "modelParameters": {
            "architectureFamily": "transformer",
            "inputs": [{"format": _format(value)} for value in graph.input if value.name not in constant],
            "outputs": [{"format": _format(value)} for value in graph.output],
        }
    }
    if facts.hotfix is not None and facts.hotfix.metrics:
        card["quantitativeAnalysis"] = {"performanceMetrics": [_metric(metric) for metric in facts.hotfix.metrics]}
        card["considerations"] = {"technicalLimitations": [_LIMITATION]}
    return card


def _format(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type
    dims = ", ".join(
        one.dim_param or (str(one.dim_value) if one.HasField("dim_value") else "?") for one in kind.shape.dim
    )
    known = kind.elem_type in onnx.TensorProto.DataType.values()
    name = onnx.TensorProto.DataType.Name(kind.elem_type).lower() if known else "unknown"
    return f"{value.name}: {name} ({dims})"


def _metric(metric: Metric) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": metric.name,
        "value": f"{metric.rate:.6g}",
        "slice": f"{metric.rows} rows that the fit held back, {metric.model} model",
    }
    if metric.low is not None and metric.high is not None:
        found["confidenceInterval"] = {"lowerBound": f"{metric.low:.6g}", "upperBound": f"{metric.high:.6g}"}
    return found
