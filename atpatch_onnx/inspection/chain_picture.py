"""Draws the chain of operators of a site as an inline SVG. Boxes go down the page, with their side inputs to the right.

The colors are CSS classes, which the page defines. The width of a text is not known here, so long names are cut after a
number of characters, and the tooltip has the whole name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

from rewriters.traces import Edge, End, Side, Step, Trace

from .explanation import edge_text, end_text

__all__ = ["WIDTH", "chain_svg"]

WIDTH = 370
"""Width of the picture in its own units, small enough for a phone, where a unit is a little less than a pixel."""

_LEFT = 2
_LETTER = 7.4  # width of a letter in a box
_LEAST_BOX, _SPINE = 84, 46
_ROW, _PAD, _GAP = 17, 7, 40
_MOST_ENDS = 6
_LONGEST_SHAPE, _LONGEST_REASON = 52, 54
_PARTS = {"scores": "scores", "softmax": "normalizes", "product": "map · values", "fused": "in one operator"}
_TINY = frozenset({"axes", "shape", "starts", "ends", "steps", "scale", "zero point"})
"""Roles of constants whose name gets no line of its own."""


@dataclass
class _Canvas:
    parts: list[str] = field(default_factory=list)

    def rect(self, kind: str, x: float, y: float, width: float, height: float) -> None:
        self.parts.append(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5"/>')

    def path(self, kind: str, data: str) -> None:
        self.parts.append(f'<path class="{kind}" d="{data}"/>')

    def text(self, kind: str, x: float, y: float, text: str, whole: str = "", rest: str = "") -> None:
        """`whole` is the tooltip. `rest` follows the text, which is then drawn as its heading."""
        tooltip = f"<title>{escape(whole)}</title>" if whole and whole != text else ""
        shown = (
            f'<tspan class="role">{escape(text)}</tspan><tspan dx="6">{escape(rest)}</tspan>' if rest else escape(text)
        )
        self.parts.append(f'<text class="{kind}" x="{x:g}" y="{y:g}">{shown}{tooltip}</text>')


def chain_svg(trace: Trace) -> str:
    """The picture of a site or of a rejected Softmax."""
    return _Picture(trace).svg()


class _Picture:
    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._ahead = next((end for end in trace.ends if end.direction == "backward"), None)
        self._steps = (*(self._ahead.steps if self._ahead else ()), *trace.steps)
        names = [step.op_type for step in self._steps] + ([self._ahead.op_type] if self._ahead else [])
        self._box = min(max([_LEAST_BOX, *(len(name) * _LETTER + 18 for name in names)]), 176)
        self._text_left = _LEFT + self._box + 24
        self._room = int((WIDTH - self._text_left) / 5.7)
        self._canvas = _Canvas()
        self._y = 2.0

    def svg(self) -> str:
        if self._ahead is not None:
            self._draw_box(
                "bad", self._ahead.op_type or "outside", [("reported reason", *self._reason(self._ahead))], last=False
            )
            self._down(None)
        elif self._trace.source is not None:
            self._down(self._trace.source, f"from {self._trace.source.origin}")
        for index, step in enumerate(self._steps):
            self._draw_step(step, index)
        self._draw_ends()
        height = self._y + 4
        # For readers who cannot see the picture.
        label = escape(f"{self._trace.name}: " + " → ".join(step.op_type for step in self._steps))
        body = "".join(self._canvas.parts)
        return f'<svg class="chain" role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {height:g}">{body}</svg>'

    def _draw_step(self, step: Step, index: int) -> None:
        lines: list[tuple[str, str, str]] = []
        if step.part in _PARTS:
            words = self._trace.making if step.part == "softmax" else _PARTS[step.part]
            lines.append(("part", words, step.node))
        for side in step.sides:
            lines += self._side(side)
        if step.body != self._trace.body:
            lines.append(("faint", *self._cut("in " + (step.body or "main graph"))))
        last = index == len(self._steps) - 1 and step.part not in ("product", "fused")
        patched = step.part in ("product", "fused") and self._trace.site is not None
        if patched:
            lines.append(("mark", "◀ the patch takes its place", step.node))
        ends = any(end.direction == "forward" for end in self._trace.ends)
        self._draw_box(
            step.part + (" patched" if patched else ""), step.op_type, lines, last=last and not ends, node=step.node
        )
        if not last:
            self._down(step.output, "P, the map: the detector reads here" if index == self._trace.read_at else "")

    def _draw_box(self, kind: str, name: str, lines: list[tuple[str, str, str]], *, last: bool, node: str = "") -> None:
        height = max(30.0, _PAD * 2 + _ROW * len(lines) - 3)
        top = self._y
        self._canvas.rect(f"box {kind}", _LEFT, top, self._box, height)
        self._canvas.text("name", _LEFT + self._box / 2, top + height / 2 + 4, name, node)
        for row, (style, text, whole) in enumerate(lines):
            y = top + _PAD + 12 + row * _ROW if len(lines) > 1 else top + 20
            role, _, rest = text.partition("\t")
            self._canvas.text(style, self._text_left, y, role, whole, rest)
            if style == "side":
                edge = _LEFT + self._box
                self._canvas.path("flow", f"M{self._text_left - 5:g} {y - 4:g}H{edge + 6:g}")
                self._canvas.path("tip", f"M{edge + 2:g} {y - 4:g}l7 -3.5v7z")
        self._y = top + height

    def _down(self, edge: Edge | None, mark: str = "") -> None:
        x, top = _LEFT + _SPINE, self._y
        self._canvas.path("spine", f"M{x} {top:g}V{top + _GAP - 6:g}")
        self._canvas.path("spine-tip", f"M{x} {top + _GAP - 1:g}l-4 -7h8z")
        self._y = top + _GAP
        if edge is None:
            return
        middle = top + _GAP / 2 + 2
        self._canvas.text(
            "shape", x + 12, middle - (7 if mark else 0), self._cut(edge_text(edge), _LONGEST_SHAPE)[0], edge.name
        )
        if mark:
            self._canvas.text("read" if mark.startswith("P,") else "faint", x + 12, middle + 9, mark, edge.name)

    def _side(self, side: Side) -> list[tuple[str, str, str]]:
        edge = side.edge
        whole = f"{edge.name}: {edge_text(edge)}, made by {edge.origin}"
        if edge.origin == "constant" and side.role in _TINY:
            return [("side", self._cut(f"{side.role}\tconstant {edge_text(edge)}")[0], whole)]
        first = ("side", self._cut(f"{side.role}\t{edge_text(edge)}")[0], whole)
        site = self._trace.site
        origin = (
            f"{edge.origin} {edge.name}"
            if edge.origin == "graph input" or not edge.inputs
            else f"{edge.origin}, from {', '.join(edge.inputs)}"
        )
        masked = site is not None and edge.inputs == (site.key_mask,)
        return [first, ("key" if masked else "faint", self._cut(origin + (" (key mask)" if masked else ""))[0], whole)]

    def _draw_ends(self) -> None:
        ends = [end for end in self._trace.ends if end.direction == "forward"]
        x = _LEFT + _SPINE
        for number, end in enumerate(ends[:_MOST_ENDS]):
            y = self._y + 24
            self._canvas.path("spine", f"M{x} {self._y if number == 0 else self._y + 2:g}V{y - 4:g}h14")
            way = [*(step.op_type for step in end.steps), *([end.op_type] if end.op_type else [])]
            self._canvas.text("way", x + 20, y, " → ".join([*way, ""]) + "✗", end.node)
            text, whole = self._reason(end)
            self._canvas.text("reported reason" if end.reported else "reason", x + 20, y + 16, text, whole)
            self._y = y + 16
        if len(ends) > _MOST_ENDS:
            self._y += 20
            self._canvas.text("faint", x + 20, self._y, f"and {len(ends) - _MOST_ENDS} more ways")

    def _reason(self, end: End) -> tuple[str, str]:
        words = end_text(end, self._trace.output)
        whole = end.code + (f": {words}" if words else "")
        return self._cut(whole, _LONGEST_REASON if end.direction == "forward" else None)[0], whole

    def _cut(self, text: str, room: int | None = None) -> tuple[str, str]:
        room = room or self._room
        return (text if len(text) <= room else text[: room - 1] + "…"), text
