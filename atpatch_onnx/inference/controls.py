"""The patch's runtime controls outside the graph: where they cannot work, and what a session must get as input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from rewriters.editing.controls import DEFAULT, OVERRIDABLE_FROM
from rewriters.editing.stamp import KEY
from rewriters.names import ENABLED, SPAN, STEERING, THRESHOLD
from rewriters.plan import PatchPlan

from ..errors import RUNTIME_REFUSES
from .special_tokens import json_object

__all__ = ["capture_notes", "control_names", "control_notes", "gating_notes", "required_controls", "span_notes"]

CUDA_GRAPH = "enable_cuda_graph"
"""An option of onnxruntime's CUDA provider."""


def control_notes(model: onnx.ModelProto, plan: PatchPlan, folders: Sequence[Path]) -> tuple[str, ...]:
    """Notes on where optional controls cannot work, and on how onnxruntime-genai is fed required ones."""
    genai = any((folder / "genai_config.json").is_file() for folder in folders)
    if plan.controls == "required" and genai:
        return (
            f"every generator must be fed {ENABLED} (bool) and {THRESHOLD} (float32, here {plan.threshold:g}) with"
            " set_model_input, as arrays without dimensions that outlive it: they are not copied",
        )
    if plan.controls != "optional":
        return ()
    ways = "--controls required makes them ordinary inputs, --controls none leaves them out"
    if model.ir_version < OVERRIDABLE_FROM:
        return (
            (
                f"the model has IR version {model.ir_version}, and optional inputs need {OVERRIDABLE_FROM}: "
                "the patched graph has no runtime controls; --controls required makes them ordinary inputs"
            ),
        )
    if genai:
        return (
            (
                "onnxruntime-genai ignores optional inputs without a warning, so the runtime controls have no effect"
                f" there; {ways}"
            ),
        )
    return ()


def span_notes(plan: PatchPlan, folders: Sequence[Path]) -> tuple[str, ...]:
    """Notes on how onnxruntime-genai is told of the marked span."""
    if plan.span is None or not any((folder / "genai_config.json").is_file() for folder in folders):
        return ()
    if plan.span == "required":
        given = "with set_model_input, as an array that outlives it"
        return (f"every generator must be fed {SPAN} (int64, samples × 2) {given}",)
    return (f"onnxruntime-genai ignores optional inputs, {SPAN} too; --span required makes it an ordinary input",)


def gating_notes(plan: PatchPlan) -> tuple[str, ...]:
    """Notes on what two passes without a branch cost."""
    if plan.passes == "one" or plan.gating == "if":
        return ()
    if plan.mend == "heal":
        return ("healing without a branch: every step of generation runs the detectors, too; --gating if skips them",)
    return (
        "two passes without a branch: every request runs through the attention layers twice; --passes one does not",
    )


def capture_notes(plan: PatchPlan, folders: Sequence[Path]) -> tuple[str, ...]:
    """A note where the configuration of onnxruntime-genai asks for CUDA graphs, and the patch has a branch."""
    if plan.gating != "if" or not any(map(_asks_for_cuda_graphs, folders)):
        return ()
    return (
        "genai_config.json sets enable_cuda_graph, and no CUDA graph can hold a branch: set it to 0 there, or patch"
        " with --gating none",
    )


def _asks_for_cuda_graphs(folder: Path) -> bool:
    """Whether any part of the model has the option switched on."""
    waiting: list[Any] = [json_object(folder / "genai_config.json")]
    while waiting:  # no recursion: the file may be a stranger's, and deep
        told = waiting.pop()
        if isinstance(told, dict):
            if str(told.get(CUDA_GRAPH)).lower() in ("1", "true"):
                return True
            waiting += told.values()
        elif isinstance(told, list):
            waiting += told
    return False


def control_names(live: Any) -> frozenset[str]:
    """The patch's runtime controls that a session accepts, optional or required, and its marked span."""
    return STEERING & {value.name for value in (*live.get_inputs(), *live.get_overridable_initializers())}


def required_controls(live: Any) -> dict[str, NDArray[Any]]:
    """Inputs for controls that are required: the patch on, the threshold of its stamp, and an empty span.

    Raises:
        AtpatchError: ATP052 where the threshold is required and the stamp is gone.
    """
    required = {value.name for value in live.get_inputs()}
    values: dict[str, NDArray[Any]] = {ENABLED: np.array(True)} if ENABLED in required else {}
    if THRESHOLD in required:
        default = live.get_modelmeta().custom_metadata_map.get(KEY + DEFAULT)
        if default is None:
            raise RUNTIME_REFUSES(
                f"{THRESHOLD} is a required input, and the stamp with its default is gone", "patch the original again"
            )
        values[THRESHOLD] = np.array(float(default), np.float32)
    if SPAN in required:
        values[SPAN] = np.zeros((1, 2), np.int64)
    return values
