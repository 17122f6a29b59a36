"""Options of an export: `ExportOptions`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

from ..errors import BAD_OPTION
from ..options import option
from .tasks import TASKS

__all__ = ["Attention", "Dtype", "ExportKeywords", "ExportOptions", "Exporter"]

Attention = Literal["eager", "sdpa"]
Exporter = Literal["dynamo", "torchscript"]
Dtype = Literal["float32", "float16"]


class ExportKeywords(TypedDict, total=False):
    """`ExportOptions` as keywords of a call."""

    task: str | None
    opset: int | None
    attention: Attention | None
    exporter: Exporter
    dtype: Dtype
    kv_cache: bool
    external_data: bool
    tolerance: float | None


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a torch model becomes a graph.

    Attributes:
        task: what the graph is for; by default from the model's architecture, and tabular for plain modules.
        opset: by default what the exporter writes natively: 18 with dynamo, 17 with torchscript.
        attention: implementation to trace, of Hugging Face models; by default eager.
        exporter: exporter of torch.onnx: torch.export (dynamo) or tracing (torchscript).
        dtype: of weights and activations, for Hugging Face models.
        kv_cache: causal language models: keys and values of earlier tokens in, and out again.
        external_data: keep the weights in OUTPUT.data; models beyond 2 GB always do.
        tolerance: largest difference from torch, relative above 1; by default 1e-4 (float32), 1e-2 (float16).

    Raises:
        AtpatchError: ATP060 where one is out of range.
    """

    task: str | None = option(None, choices=tuple(TASKS))
    opset: int | None = option(None, at_least=11)
    attention: Attention | None = option(None, choices=Attention)
    exporter: Exporter = option("dynamo", choices=Exporter)
    dtype: Dtype = option("float32", choices=Dtype)
    kv_cache: bool = False
    external_data: bool = False
    tolerance: float | None = option(None, at_least=0)

    def __post_init__(self) -> None:
        if self.tolerance is not None and not self.tolerance >= 0:
            raise BAD_OPTION(f"a tolerance of {self.tolerance} makes no sense")
