"""Graphs run with all their values, and one plan for all sites."""

from __future__ import annotations

import copy

import numpy as np
import onnx
from onnx import helper

from rewriters.plan import PatchPlan, SitePlan
from rewriters.sites import Site

from .graphs import session


def with_outputs(model: onnx.ModelProto, names: list[str], dtype: int = onnx.TensorProto.FLOAT) -> onnx.ModelProto:
    """A copy that also gives inner values; what is an output already stays as it is."""
    model = copy.deepcopy(model)
    present = {value.name for value in model.graph.output}
    model.graph.output.extend(
        helper.make_tensor_value_info(name, dtype, None) for name in dict.fromkeys(names) if name not in present
    )
    return model


def run_all(model: onnx.ModelProto, feeds: dict[str, np.ndarray], *, optimize: bool = True) -> dict[str, np.ndarray]:
    live = session(model, optimize=optimize)
    wanted = [value.name for value in live.get_outputs()]
    inputs = {value.name for value in (*live.get_inputs(), *live.get_overridable_initializers())}
    return dict(zip(wanted, live.run(wanted, {k: v for k, v in feeds.items() if k in inputs}), strict=True))


def unchanged(model: onnx.ModelProto, patched: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the model gives, of which a patch that flags nothing must change no bit."""
    before, after = run_all(model, feeds), run_all(patched, feeds)
    for name, array in before.items():
        assert after[name].tobytes() == array.tobytes(), name
    return before


def same_plan(sites: tuple[Site, ...], site_plan: SitePlan, **options: object) -> PatchPlan:
    return PatchPlan({site.id: site_plan for site in sites}, **options)  # type: ignore[arg-type]


def canonical(site: Site, array: np.ndarray, permutation: tuple[int, ...] | None) -> np.ndarray:
    array = array if permutation is None else array.transpose(permutation)
    if site.layout.merged_heads:
        return array.reshape(-1, site.layout.merged_heads, *array.shape[1:])
    return array if array.ndim == 4 else array[:, None] if array.ndim == 3 else array.reshape(-1, *array.shape[-3:])
