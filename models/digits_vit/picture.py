"""Draw the picture of the README: `python -m models.digits_vit.picture`. Needs the extra cpu.

It shows one triggered test digit, and how much attention each patch of the image gets before and after the model is
patched, averaged over heads and query rows. The picture has its own light background, so that it can be read on a dark
page too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx import compare, patch_model
from atpatch_onnx.comparison.exemplar import MEAN, Exemplar, softmax
from atpatch_onnx.demo.run import FOLDER
from rewriters.model.atomic import write_file

from .data import TRIGGER_COLUMN

__all__ = ["OUTPUT", "draw", "example"]

OUTPUT = Path(__file__).resolve().parents[2] / "docs" / "images" / "before-after.svg"
LAYERS = (0, 2)
"""The layer that is patched, and the one where the attention of this digit moves most."""
FONTS = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif"
SIDE, WIDTH, HEIGHT = 132, 796, 286
TOP = 66
INK, FAINT, FLAG = "#1f2937", "#6b7280", "#c2410c"
DEEP = (8, 69, 148)
"""Color of the most attention; none is white."""
FULL = 0.3
"""Share of the attention that is drawn in the deepest color."""


def example() -> Exemplar:
    """The test digit that `compare` chooses to show what the patch of the demo does."""
    with tempfile.TemporaryDirectory() as scratch:
        patched = Path(scratch) / "patched.onnx"
        patch_model(FOLDER / "model.onnx", patched, hotfix=FOLDER / "model.hotfix")
        made = compare(
            FOLDER / "model.onnx", patched, FOLDER / "clean.npz", triggered=FOLDER / "triggered.npz", seconds=0
        )
    assert made.exemplar is not None
    return made.exemplar


def draw(shown: Exemplar) -> str:
    """The SVG: the input, then attention at two layers with the original and with the patched model."""
    assert shown.before is not None and shown.after is not None
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        f' font-family="{FONTS}" shape-rendering="crispEdges" role="img">',
        f"<title>Attention of the demo model on a {shown.label} with a trigger, before and after the patch</title>",
        f'<rect x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="14" fill="#fff" stroke="#d1d5db"/>',
        *_text(16 + SIDE / 2, 30, "input", size=22, bold=True),
        *_text(16 + SIDE / 2, 54, f"a {shown.label} + trigger", FAINT),
        *_digit(16, TOP, shown.inputs["pixel_values"][0]),
        *_text(16 + SIDE / 2, TOP + SIDE + 26, "the trigger", FLAG),
    ]
    for x, name, scores, patched in ((190, "before", shown.before, False), (500, "after", shown.after, True)):
        answer = int(scores.argmax())
        color = FAINT if answer == shown.label else FLAG
        middle = x + SIDE + 8
        parts += _text(middle, 30, f"{name} the patch", size=22, bold=True)
        parts += _text(middle, 54, f"the model says {answer} ({softmax(scores).max():.0%} sure)", color)
        for place, layer in enumerate(LAYERS):
            view = shown.sites[layer]
            attention = (view.after if patched else view.before)[MEAN]
            left = x + place * (SIDE + 16)
            parts += _heat(left, TOP, attention[1:], marked=layer == 0)
            parts += _text(left + SIDE / 2, TOP + SIDE + 26, f"layer {layer + 1}", FAINT)
    first = shown.sites[0]
    assert first.clean is not None
    before, after, clean = (f"{view[MEAN][TRIGGER_COLUMN]:.0%}" for view in (first.before, first.after, first.clean))
    caption = f"Attention to the trigger’s place, layer 1: {before} before, {after} after, {clean} without the trigger"
    parts += _text(WIDTH / 2, HEIGHT - 20, caption)
    return "\n".join([*parts, "</svg>", ""])


def _text(x: float, y: float, words: str, color: str = INK, size: int = 17, bold: bool = False) -> Iterator[str]:
    weight = ' font-weight="600"' if bold else ""
    place = f'x="{x:g}" y="{y:g}" text-anchor="middle" font-size="{size}"'
    yield f'<text {place} fill="{color}"{weight}>{words}</text>'


def _rect(x: float, y: float, side: float, style: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" {style}/>'


def _frame(x: float, y: float) -> str:
    return _rect(x, y, SIDE / 4, f'fill="none" stroke="{FLAG}" stroke-width="3"')


def _digit(x: float, y: float, pixels: NDArray[np.float32]) -> Iterator[str]:
    """Pixels (height, width) in [0, 1], and a frame around the trigger."""
    side = SIDE / pixels.shape[0]
    yield _rect(x, y, SIDE, 'fill="#000"')
    for (row, column), value in np.ndenumerate(pixels):
        if value:
            gray = round(255 * float(value))
            yield _rect(x + column * side, y + row * side, side, f'fill="rgb({gray},{gray},{gray})"')
    yield _frame(x + SIDE * 3 / 4, y + SIDE * 3 / 4)


def _heat(x: float, y: float, attention: NDArray[np.float32], marked: bool) -> Iterator[str]:
    """Attention to the 16 patches; the share of the trigger in figures where it is `marked`."""
    side = SIDE / 4
    for index, share in enumerate(attention):
        left, top = x + index % 4 * side, y + index // 4 * side
        depth = min(float(share) / FULL, 1.0)
        color = ",".join(str(round(255 + (channel - 255) * depth)) for channel in DEEP)
        yield _rect(left, top, side, f'fill="rgb({color})" stroke="#e5e7eb"')
        if marked and index == TRIGGER_COLUMN - 1:
            yield _frame(left, top)
            yield from _text(
                left + side / 2, top + side / 2 + 5, f"{share:.0%}", "#fff" if depth > 0.6 else INK, size=14
            )


if __name__ == "__main__":
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    write_file(OUTPUT, draw(example()).encode())
