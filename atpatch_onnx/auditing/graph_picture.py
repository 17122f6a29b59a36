"""Draws the nodes that findings name, with their neighbors, as one inline SVG; no program for layouts is needed.

Nodes lie in layers, each below all that it reads. The order inside a layer follows the places of what its nodes read.
The colors are CSS classes, which the page defines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import onnx

from rewriters.model.bodies import inputs_of, outputs_of, reads

from .cutting.named import Place, places
from .finding import Finding, label

__all__ = ["Drawn", "pictures"]

MOST = 40
"""Nodes of one picture; of more only the first are drawn."""
LETTER, LEAST, HEIGHT, ROW, GAP, EDGE = 7.2, 74, 40, 76, 22, 10
LONGEST = 20


@dataclass(frozen=True)
class Drawn:
    """A picture, the body that it is of, and how many named nodes it leaves out."""

    body: str
    svg: str
    left_out: int


@dataclass
class _Box:
    name: str
    text: str
    kind: str
    layer: int = 0
    x: float = 0.0

    @property
    def width(self) -> float:
        return max(LEAST, LETTER * max(len(_cut(self.text)), len(_cut(self.name))) + 16)


def pictures(model: onnx.ModelProto, findings: Sequence[Finding]) -> list[Drawn]:
    """One picture for each body that holds a node which an error or a warning names."""
    names = {name for one in findings if one.severity != "note" for name in one.nodes}
    return [_draw(place) for place in places(model, names)]


def _draw(place: Place) -> Drawn:
    planted = [node for node in place.body.node if any(node is one for one in place.nodes.values())]
    shown = planted[:MOST]
    boxes, edges = _network(place, shown)
    _layers(boxes, edges)
    width, height = _places(boxes, edges)
    parts = [_arrow(boxes[start], boxes[end]) for start, end in edges]
    parts += [_rectangle(box) for box in boxes.values()]
    spoken = escape("planted nodes: " + ", ".join(node.op_type for node in shown))
    svg = (
        f'<svg class="plant" role="img" aria-label="{spoken}" viewBox="0 0 {width:g} {height:g}"'
        f' style="max-width:{width:g}px;min-width:{min(width, 640):g}px">{"".join(parts)}</svg>'
    )
    return Drawn(place.path, svg, len(planted) - len(shown))


def _network(place: Place, shown: Sequence[onnx.NodeProto]) -> tuple[dict[str, _Box], list[tuple[str, str]]]:
    """Boxes by key, and edges between them: the nodes shown, what they read, and what reads them."""
    makers = {name: node for node in place.body.node for name in node.output if name}
    inputs = set(inputs_of(place.body))
    leaving = set(outputs_of(place.body))
    boxes = {_key(node): _Box(label(node), node.op_type, "planted") for node in shown}
    edges: list[tuple[str, str]] = []
    for node in shown:
        for name in sorted(reads(node)):
            if (maker := makers.get(name)) is not None:
                boxes.setdefault(_key(maker), _Box(label(maker), maker.op_type, "own"))
                edges.append((_key(maker), _key(node)))
            elif name in inputs:
                boxes.setdefault(f"in {name}", _Box("input", name, "end"))
                edges.append((f"in {name}", _key(node)))
        for name in node.output:
            if name in leaving:
                boxes.setdefault(f"out {name}", _Box("output", name, "end"))
                edges.append((_key(node), f"out {name}"))
    made = {name for node in shown for name in node.output}
    for node in place.body.node:
        if _key(node) not in boxes and made & reads(node):
            boxes[_key(node)] = _Box(label(node), node.op_type, "own")
            edges += [(_key(makers[name]), _key(node)) for name in sorted(made & reads(node))]
    return boxes, list(dict.fromkeys(edges))


def _key(node: onnx.NodeProto) -> str:
    return next((name for name in node.output if name), node.name)


def _layers(boxes: dict[str, _Box], edges: Sequence[tuple[str, str]]) -> None:
    for _ in range(len(boxes)):
        moved = False
        for start, end in edges:
            if boxes[end].layer <= boxes[start].layer:
                boxes[end].layer, moved = boxes[start].layer + 1, True
        if not moved:
            break
    # What feeds only late nodes stands next to them, not at the top.
    for key, box in boxes.items():
        after = [boxes[end].layer for start, end in edges if start == key]
        if box.kind != "planted" and after and not any(end == key for _, end in edges):
            box.layer = min(after) - 1


def _places(boxes: dict[str, _Box], edges: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """Set x of every box; returns width and height of the picture."""
    rows: dict[int, list[str]] = {}
    for key, box in boxes.items():
        rows.setdefault(box.layer, []).append(key)
    widest = max(sum(boxes[key].width + GAP for key in row) for row in rows.values()) - GAP
    for layer in sorted(rows):
        row = rows[layer]
        above = {
            key: [boxes[start].x + boxes[start].width / 2 for start, end in edges if end == key and boxes[start].x]
            for key in row
        }
        row.sort(key=lambda key: sum(above[key]) / len(above[key]) if above[key] else widest)
        x = EDGE + (widest - sum(boxes[key].width + GAP for key in row) + GAP) / 2
        for key in row:
            boxes[key].x = x
            x += boxes[key].width + GAP
    return widest + 2 * EDGE, (max(rows) + 1) * ROW - (ROW - HEIGHT) + 2 * EDGE


def _top(box: _Box) -> float:
    return EDGE + box.layer * ROW


def _arrow(start: _Box, end: _Box) -> str:
    x, y = start.x + start.width / 2, _top(start) + HEIGHT
    to_x, to_y = end.x + end.width / 2, _top(end)
    bend = (to_y - y) / 2
    kind = "flow bad" if start.kind == "planted" else "flow"
    curve = f"M{x:g} {y:g}C{x:g} {y + bend:g} {to_x:g} {to_y - bend:g} {to_x:g} {to_y - 6:g}"
    tip = f"M{to_x:g} {to_y:g}l-4 -7h8z"
    return f'<path class="{kind}" d="{curve}"/><path class="tip" d="{tip}"/>'


def _rectangle(box: _Box) -> str:
    x, y, middle = box.x, _top(box), box.x + box.width / 2
    return (
        f"<g><title>{escape(f'{box.text} {box.name}')}</title>"
        f'<rect class="box {box.kind}" x="{x:g}" y="{y:g}" width="{box.width:g}" height="{HEIGHT}"'
        f' rx="{20 if box.kind == "end" else 5}"/>'
        f'<text class="name" x="{middle:g}" y="{y + 17:g}">{escape(_cut(box.text))}</text>'
        f'<text class="faint" x="{middle:g}" y="{y + 32:g}">{escape(_cut(box.name))}</text></g>'
    )


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else "…" + text[1 - LONGEST :]
