"""Shows the attention sites of a model on one HTML page that needs no other file (extra `report`)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rewriters.model.forms import Model
from rewriters.traces import Trace

from ..pages import environment
from .chain_picture import chain_svg
from .explanation import Explanation, Explanations, explain_model, facts_of
from .inspector import inspect, select_sites

__all__ = ["sites_page"]

_GAP = 0.012
"""Largest gap between two nodes of a layer, as a share of the graph, that is drawn as one piece."""


@dataclass(frozen=True)
class _Mark:
    """The mark of a site or of a rejected Softmax on a lane. `at` is in percent of the graph."""

    at: float
    anchor: str
    name: str
    site: bool


@dataclass(frozen=True)
class _Lane:
    """One layer of the model: the places of its nodes, (start, width) in percent of the graph, and its marks."""

    label: str
    stretches: tuple[tuple[float, float], ...]
    marks: tuple[_Mark, ...]


def sites_page(model: Model, include: str | None = None, exclude: str | None = None) -> str:
    """Make a page about the attention sites of a model. It shows the graph in execution order with its sites and its
    rejected Softmax nodes, a table, and a picture of each chain of operators.

    Args:
        model: path, `onnx.ModelProto` or `onnx_ir.Model`.
        include, exclude: regular expressions, searched in a site's id and scope. The page leaves out other sites.

    Returns:
        HTML that needs no other file.

    Raises:
        AtpatchError: ATP051 without jinja2, and those of `inspect`.
    """
    templates = environment()
    facts = inspect(model, include, exclude).model
    explanations = explain_model(model)
    kept = {
        site.id for site in select_sites([e.trace.site for e in explanations.found if e.trace.site], include, exclude)
    }
    found = [e for e in explanations.found if e.trace.site is None or e.trace.site.id in kept]
    anchors = {id(e): f"softmax-{number}" for number, e in enumerate(found)}
    sites = [_entry(e, anchors[id(e)]) for e in found if e.trace.site]
    rejected = [_entry(e, anchors[id(e)]) for e in found if e.trace.rejection]
    lanes = _lanes([(e.trace, anchors[id(e)]) for e in found], explanations)
    name = os.path.basename(os.fspath(facts["path"])) if facts["path"] else "model"
    return templates.get_template("inspection/page.html.j2").render(
        name=name,
        facts=facts,
        sites=sites,
        rejected=rejected,
        lanes=lanes,
        headline=_headline(sites, rejected),
        groups=_grouped(sites),
        nodes=len(explanations.scopes),
    )


def _entry(explanation: Explanation, anchor: str) -> dict[str, Any]:
    trace = explanation.trace
    return {
        "anchor": anchor,
        "name": trace.name,
        "trace": trace,
        "site": trace.site,
        "rejection": trace.rejection,
        "picture": chain_svg(trace),
        "facts": facts_of(explanation),
        "lowered": trace.lowered,
        "insertion": explanation.insertion,
        "refused": explanation.insertion.refused if explanation.insertion else "",
        "group": _layer(trace.site.scope) if trace.site else "",
    }


def _headline(sites: Sequence[dict[str, Any]], rejected: Sequence[dict[str, Any]]) -> str:
    count = f"{len(sites)} attention site{'' if len(sites) == 1 else 's'}" if sites else "No attention site"
    return f"{count}; {'one' if len(rejected) == 1 else len(rejected)} Softmax rejected." if rejected else f"{count}."


def _grouped(sites: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for site in sites:
        groups.setdefault(site["group"], []).append(site)
    return list(groups.items())


def _layer(scope: str) -> str:
    """The layer of a module path: the path up to its first number, "" if it has none."""
    parts = scope.split(".")
    at = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    return "" if at is None else ".".join(parts[: at + 1])


def _lanes(found: Sequence[tuple[Trace, str]], explanations: Explanations) -> list[_Lane]:
    """One lane for the whole graph, then one for each layer that has a mark."""
    total = max(len(explanations.scopes), 1)
    marks = [
        (_layer(_scope(trace)), _Mark(100 * (trace.position + 0.5) / total, anchor, trace.name, trace.site is not None))
        for trace, anchor in found
    ]
    lanes = [_Lane("whole graph", ((0.0, 100.0),), tuple(mark for _, mark in marks))]
    positions: dict[str, list[int]] = {}
    for position, scope in enumerate(explanations.scopes):
        positions.setdefault(_layer(scope), []).append(position)
    layers = list(dict.fromkeys(layer for layer, _ in marks if layer))
    shared = _shared(layers)
    for layer in layers:
        here = tuple(mark for name, mark in marks if name == layer)
        lanes.append(_Lane(layer[shared:], tuple(_stretches(positions.get(layer, []), total)), here))
    return lanes if len(layers) > 1 else lanes[:1]


def _shared(layers: Sequence[str]) -> int:
    """Length of the start that all layer paths have in common. It is not shown; the number of a layer and the name
    before it are always kept.
    """
    paths = [layer.split(".")[:-2] for layer in layers]
    common = [parts[0] for parts in zip(*paths, strict=False) if len(set(parts)) == 1]
    while common and any(path[: len(common)] != common for path in paths):
        common.pop()
    return sum(len(part) + 1 for part in common)


def _scope(trace: Trace) -> str:
    """The module path of a site. For a rejected Softmax, the name of its node, read as a path."""
    return trace.site.scope if trace.site else trace.softmax.strip("/").replace("/", ".")


def _stretches(positions: Sequence[int], total: int) -> Iterator[tuple[float, float]]:
    start = end = None
    for position in positions:
        if start is None or end is None:
            start = position
        elif position - end > max(_GAP * total, 1):
            yield 100 * start / total, 100 * (end - start + 1) / total
            start = position
        end = position
    if start is not None and end is not None:
        yield 100 * start / total, 100 * (end - start + 1) / total
