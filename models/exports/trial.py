"""One cell of the table: a row, an exporter, an attention implementation."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.exporters.exporter import export_model
from atpatch_onnx.exporters.quiet import quiet
from atpatch_onnx.inspection.inspector import inspect_model

from .families import Row
from .patching import try_patches
from .tiny import save_model

__all__ = ["TOLERANCE", "WAYS", "Cell", "Way", "try_export"]

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Way:
    """One way to export; opset None is what the exporter writes natively."""

    exporter: Literal["torchscript", "dynamo"]
    attention: Literal["eager", "sdpa"]
    opset: int | None = None

    def __str__(self) -> str:
        return f"{self.exporter}, {self.attention}" + (f", opset {self.opset}" if self.opset else "")


# The last beyond the four: there SDPA stays one operator, `Attention`, with no Softmax to be seen.
WAYS = (
    Way("torchscript", "eager"),
    Way("torchscript", "sdpa"),
    Way("dynamo", "eager"),
    Way("dynamo", "sdpa"),
    Way("dynamo", "sdpa", 23),
)


@dataclass(frozen=True)
class Cell:
    """What came of one export.

    Attributes:
        status: "ok", "parity" (exported, but differs from torch), "patch" (see `silent`, `fires`), or "refused" (by the
            exporter).
        message: of the exporter, or on the difference; "" where all is well.
        difference, scale: largest difference from torch over all outputs, and the largest value of that output; None
            without a graph.
        sites, expected: attention sites found, and attention maps computed.
        forms: what the sites are made of.
        silent: with every site patched and nothing flagged, all outputs are bit-identical; None without a graph.
        fires: with column 1 flagged at every site, all outputs are finite and some differ.
        seconds: taken.
    """

    row: str
    way: str
    status: str
    message: str
    difference: float | None
    scale: float | None
    sites: int | None
    expected: int
    forms: tuple[str, ...]
    silent: bool | None
    fires: bool | None
    seconds: float

    @property
    def whole(self) -> bool:
        return self.status == "ok" and self.sites == self.expected

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def try_export(row: Row, way: Way, folder: Path) -> Cell:
    """Export one model one way, as the command line does. Models are kept in `folder`, graphs are thrown away."""
    with quiet():
        source = save_model(row, folder)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        output = Path(scratch) / "model.onnx"
        try:
            # The tolerance is applied below, so that a difference is recorded rather than only refused.
            exported = export_model(
                source,
                output,
                task=row.task,
                exporter=way.exporter,
                attention=way.attention,
                opset=way.opset,
                kv_cache=row.kv_cache,
                tolerance=math.inf,
            )
        except AtpatchError as error:
            seconds = round(time.perf_counter() - started, 2)
            return Cell(row.name, str(way), "refused", error.what, None, None, None, row.sites, (), None, None, seconds)
        seconds = round(time.perf_counter() - started, 2)
        forms = tuple(sorted({site.form for site in inspect_model(output).sites}))
        trouble = ""
        try:
            silent, fires = try_patches(row, way.attention, source, output)
        except Exception as error:  # a refusal of ours, or whatever onnxruntime raises on the patched graph
            silent, fires, trouble = False, False, f"patched: {' '.join(str(error).split())[:300]}"
    worst = max(exported.parity.values(), key=lambda found: found.difference / max(1.0, found.scale))
    near = worst.within(TOLERANCE)
    return Cell(
        row=row.name,
        way=str(way),
        status="parity" if not near else "ok" if silent and fires else "patch",
        message=trouble if near else f"differs from torch by {worst.difference:.3g} at values up to {worst.scale:.3g}",
        difference=worst.difference if math.isfinite(worst.difference) else None,
        scale=worst.scale,
        sites=len(exported.sites),
        expected=row.sites,
        forms=forms,
        silent=silent,
        fires=fires,
        seconds=seconds,
    )
