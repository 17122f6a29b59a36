"""Compares two models node by node.

Two nodes are the same if they lie in the same body and have the same first output. Each value is assigned only once, so
the output identifies its node. Indices do not: they change with every insertion. Names do not either: they may be
missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

from rewriters.names import owner_of

from .inspector import Model, read_model

__all__ = ["Change", "Difference", "diff", "diff_models"]


@dataclass(frozen=True)
class Change:
    """One node or value that differs.

    Attributes:
        status: "added", "removed" or "changed".
        what: "node", "input", "output", "initializer", "value", "function", "metadata" or "field".
        name: node name (its first output where it has none), value name, metadata key or field.
        body: "" for the main graph, else a path like "if_out.then_branch" or "domain::function".
        site: id of the site whose patch it belongs to, "" if none.
        before, after: operator type, shape and type, or text. None if it does not exist there.
        parts: for a changed node, what changed: "op_type", "inputs", "outputs", "attributes", ...
    """

    status: str
    what: str
    name: str
    body: str
    site: str
    before: str | None
    after: str | None
    parts: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            **{key: getattr(self, key) for key in ("status", "what", "name", "body", "site", "before", "after")},
            "parts": list(self.parts),
        }


@dataclass(frozen=True)
class Difference:
    """All changes, and whether the models are equal in every field.

    Attributes:
        identical: equal in every field. Can be False while `changes` is empty, if only the order of nodes or values
            differs.
        changes: changes of nodes and values, body by body.
    """

    identical: bool
    changes: tuple[Change, ...] = field(default=())

    def by_site(self) -> dict[str, dict[str, int]]:
        """Site id → number of nodes added, removed and changed. "" stands for nodes that belong to no site."""
        counts: dict[str, Counter[str]] = {}
        for change in self.changes:
            if change.what == "node":
                counts.setdefault(change.site, Counter())[change.status] += 1
        return {
            site: {status: count[status] for status in ("added", "removed", "changed")}
            for site, count in counts.items()
        }

    def to_json(self) -> dict[str, Any]:
        """The keys that `diff --json` promises."""
        return {
            "identical": self.identical,
            "sites": self.by_site(),
            "changes": [change.to_json() for change in self.changes],
        }


def diff(before: Model, after: Model) -> Difference:
    """Compare two models node by node. External weights are compared by reference, not by content.

    Args:
        before, after: path, `onnx.ModelProto` or `onnx_ir.Model`.

    Returns:
        every node and value that was added, removed or changed, with its site.

    Raises:
        AtpatchError: ATP001-ATP005 for files that cannot be used.
    """
    # A model in memory is not checked: it may be broken, and the difference may show why.
    a, b = (model if isinstance(model, onnx.ModelProto) else read_model(model) for model in (before, after))
    if a == b:
        return Difference(True)
    return Difference(False, (*_model_changes(a, b), *_bodies(a, b)))


# Former name, from before functions were named like the commands.
diff_models = diff


def _model_changes(a: onnx.ModelProto, b: onnx.ModelProto) -> Iterable[Change]:
    yield from _compare(_fields(a), _fields(b), "field", "")
    yield from _compare(_metadata(a), _metadata(b), "metadata", "")


def _fields(model: onnx.ModelProto) -> dict[str, str]:
    names = ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string")
    fields = {name: str(getattr(model, name)) for name in names if model.HasField(name)}
    return {**fields, **{f"opset {entry.domain or 'ai.onnx'}": str(entry.version) for entry in model.opset_import}}


def _metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _bodies(a: onnx.ModelProto, b: onnx.ModelProto) -> Iterable[Change]:
    ours, theirs = _labeled(a), _labeled(b)
    for label in dict.fromkeys([*ours, *theirs]):
        left, right = ours.get(label), theirs.get(label)
        yield from _nodes(_by_output(left), _by_output(right), label)
        for what, read in _VALUES.items():
            yield from _compare(read(left), read(right), what, label)


Body = onnx.GraphProto | onnx.FunctionProto


def _labeled(model: onnx.ModelProto) -> dict[str, Body]:
    """Every body, under a path made of output names. Unlike indices, these do not change with insertions."""
    found: dict[str, Body] = {}

    def walk(label: str, body: Body) -> None:
        found[label] = body
        for node in body.node:
            for attribute in node.attribute:
                graphs = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else list(attribute.graphs)
                for position, graph in enumerate(graphs):
                    suffix = f"[{position}]" if attribute.type == onnx.AttributeProto.GRAPHS else ""
                    walk(".".join(filter(None, (label, _output(node), attribute.name + suffix))), graph)

    walk("", model.graph)
    for function in model.functions:
        walk(f"{function.domain}::{function.name}" + (f":{function.overload}" if function.overload else ""), function)
    return found


def _output(node: onnx.NodeProto) -> str:
    return next(filter(None, node.output), node.name)


def _by_output(body: Body | None) -> dict[str, onnx.NodeProto]:
    return {} if body is None else {_output(node): node for node in body.node}


def _nodes(left: Mapping[str, onnx.NodeProto], right: Mapping[str, onnx.NodeProto], body: str) -> Iterable[Change]:
    for key in dict.fromkeys([*left, *right]):
        mine, yours = left.get(key), right.get(key)
        if mine is not None and yours is not None:
            parts = _parts(mine, yours)
            if parts:
                yield Change(
                    "changed",
                    "node",
                    yours.name or key,
                    body,
                    _site(yours) or _site(mine),
                    mine.op_type,
                    yours.op_type,
                    parts,
                )
        elif mine is not None:
            yield Change("removed", "node", mine.name or key, body, _site(mine), mine.op_type, None)
        elif yours is not None:
            yield Change("added", "node", yours.name or key, body, _site(yours), None, yours.op_type)


def _parts(a: onnx.NodeProto, b: onnx.NodeProto) -> tuple[str, ...]:
    scalars = [
        name for name in ("op_type", "domain", "overload", "name", "doc_string") if getattr(a, name) != getattr(b, name)
    ]
    lists = [name for name in ("input", "output") if list(getattr(a, name)) != list(getattr(b, name))]
    attributes = ["attributes"] if _attributes(a) != _attributes(b) else []
    metadata = [] if list(a.metadata_props) == list(b.metadata_props) else ["metadata"]
    return (*scalars, *(f"{name}s" for name in lists), *attributes, *metadata)


def _attributes(node: onnx.NodeProto) -> dict[str, bytes | str]:
    """Attributes by their content. Of a subgraph only its presence counts, since its nodes are compared separately."""
    graphs = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    return {a.name: "graph" if a.type in graphs else a.SerializeToString(deterministic=True) for a in node.attribute}


def _site(node: onnx.NodeProto) -> str:
    return next(filter(None, map(owner_of, (node.name, *node.output))), "")


def _values(infos: Sequence[onnx.ValueInfoProto]) -> dict[str, str]:
    return {info.name: _type(info.type) for info in infos}


def _type(proto: onnx.TypeProto) -> str:
    if not proto.HasField("tensor_type"):
        return str(proto.WhichOneof("value") or "unknown")
    kind = _dtype(proto.tensor_type.elem_type)
    if not proto.tensor_type.HasField("shape"):
        return f"{kind}[…]"
    dims = (str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in proto.tensor_type.shape.dim)
    return f"{kind}[{', '.join(dims)}]"


def _inputs(body: Body | None) -> dict[str, str]:
    if isinstance(body, onnx.FunctionProto):
        return dict.fromkeys(body.input, "any")
    return {} if body is None else _values(body.input)


def _outputs(body: Body | None) -> dict[str, str]:
    if isinstance(body, onnx.FunctionProto):
        return dict.fromkeys(body.output, "any")
    return {} if body is None else _values(body.output)


def _initializers(body: Body | None) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in body.initializer} if isinstance(body, onnx.GraphProto) else {}


def _inferred(body: Body | None) -> dict[str, str]:
    return {} if body is None else _values(body.value_info)


_VALUES: dict[str, Callable[[Body | None], dict[str, Any]]] = {
    "input": _inputs,
    "output": _outputs,
    "initializer": _initializers,
    "value": _inferred,
}


def _compare(left: Mapping[str, Any], right: Mapping[str, Any], what: str, body: str) -> Iterable[Change]:
    for name in dict.fromkeys([*left, *right]):
        mine, yours = left.get(name), right.get(name)
        if mine == yours:
            continue
        status = "added" if mine is None else "removed" if yours is None else "changed"
        yield Change(status, what, name, body, owner_of(name), _text(mine), _text(yours))


def _text(value: Any) -> str | None:
    if isinstance(value, onnx.TensorProto):
        return f"{_dtype(value.data_type)}{list(value.dims)}"
    return value if value is None or isinstance(value, str) else str(value)


def _dtype(number: int) -> str:
    return next((name.lower() for name, value in onnx.TensorProto.DataType.items() if value == number), str(number))
