"""Two models as one: the second one reads what the first one gives out, as in encoder and decoder of one request.

1. All values and nodes of the second model get names of their own. Inputs that both have, such as controls of a patch,
   are one input.
2. Only what the asked outputs need is left of the second model: neither caches nor unused weights.
3. Metadata, and so the stamp of a patch, are those of the first model.
4. Models are not chained whose versions of an operator set differ, or that have unlike functions of one name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import GraphProto, ModelProto

from ..names import is_ours
from .bodies import needed, reads
from .renaming import renamed

__all__ = ["chained", "not_chained"]


def not_chained(first: ModelProto, second: ModelProto) -> str | None:
    """Why two models cannot be one; None where they can."""
    versions = {one.domain: one.version for one in first.opset_import}
    for one in second.opset_import:
        if versions.get(one.domain, one.version) != one.version:
            return (
                f"they use versions {versions[one.domain]} and {one.version} of the operators of {one.domain or 'ONNX'}"
            )
    known = {_key(function): function for function in first.functions}
    unlike = [one.name for one in second.functions if known.get(_key(one), one) != one]
    return f"both have a function {unlike[0]}, and these differ" if unlike else None


def chained(
    first: ModelProto,
    second: ModelProto,
    prefix: str,
    given: Mapping[str, str],
    outputs: Sequence[str],
    kept: Sequence[str] = (),
) -> ModelProto:
    """A new model of both, which may refer to external data of both.

    Args:
        prefix: of the names that values and nodes of `second` get.
        given: input of `second` → output of `first` that is read there, or name of the input in the new model; other
            inputs keep their names.
        outputs: those of `second` that the new model has.
        kept: those of `first` that it has too.
    """
    nodes = needed(second.graph.node, outputs)
    read = {name for node in nodes for name in reads(node)}
    weights = {tensor.name for tensor in second.graph.initializer if not is_ours(tensor.name)}
    inputs = {value.name for value in second.graph.input} & read - weights
    names = {**{name: given.get(name, name) for name in inputs}, **{name: name for name in outputs}}

    def name_of(name: str) -> str:
        return names.get(name) or f"{prefix}/{name}"

    made = ModelProto()
    made.CopyFrom(first)
    made.ir_version = max(first.ir_version, second.ir_version)
    domains = {one.domain for one in first.opset_import}
    made.opset_import.extend(one for one in second.opset_import if one.domain not in domains)
    known = {_key(function) for function in first.functions}
    made.functions.extend(one for one in second.functions if _key(one) not in known)
    graph = made.graph
    _keep_outputs(graph, kept)
    graph.node.extend(renamed(node, name_of, lambda name: f"{prefix}/{name}") for node in nodes)
    there = {value.name for value in (*graph.input, *first.graph.output)}
    for field, values in (
        (graph.input, second.graph.input),
        (graph.initializer, second.graph.initializer),
        (graph.value_info, second.graph.value_info),
    ):
        for value in values:
            if value.name in read and (name := name_of(value.name)) not in there:
                field.add().CopyFrom(value)
                field[-1].name = name
    for sparse in second.graph.sparse_initializer:
        if sparse.values.name in read:
            graph.sparse_initializer.add().CopyFrom(sparse)
            graph.sparse_initializer[-1].values.name = name_of(sparse.values.name)
    graph.output.extend(value for value in second.graph.output if value.name in outputs)
    return made


def _keep_outputs(graph: GraphProto, kept: Sequence[str]) -> None:
    """Other outputs become inner values; what is known of their shapes stays."""
    leaving = [value for value in graph.output if value.name not in kept]
    staying = [value for value in graph.output if value.name in kept]
    graph.value_info.extend(leaving)
    del graph.output[:]
    graph.output.extend(staying)


def _key(function: onnx.FunctionProto) -> tuple[str, str, str]:
    return function.domain, function.name, function.overload
