"""Real exports with all that two passes need."""

from __future__ import annotations

import numpy as np
import onnx

from rewriters.finding.finder import find_sites
from rewriters.model.io import load
from rewriters.plan import PatchPlan, SitePlan
from rewriters.sites import Site
from tests.exports import ExportedModel, export_model

from ..graphs import session


def groups_of(family: str, sites: tuple[Site, ...]) -> tuple[tuple[str, ...], ...]:
    """Encoder tokens are the key columns of encoder layers and of cross attention; decoder tokens those of decoder
    self-attention.
    """
    if family not in ("t5", "whisper"):
        return (tuple(site.id for site in sites),)
    decoder = tuple(site.id for site in sites if "decoder" in site.id and site.self_attention)
    return tuple(site.id for site in sites if site.id not in decoder), decoder


def open_export(family: str, exporter: str) -> tuple[ExportedModel, onnx.ModelProto, tuple[Site, ...]]:
    export = export_model(family, exporter)
    model = load(export.path)
    return export, model, find_sites(model)[0]


def two_pass(sites: tuple[Site, ...], family: str, detector: SitePlan, **options: object) -> PatchPlan:
    plans = {site.id: detector for site in sites}
    return PatchPlan(plans, passes="two", groups=groups_of(family, sites), telemetry=True, **options)  # type: ignore[arg-type]


def splitting_threshold(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> float:
    """One at which some samples are flagged and some are not."""
    live = session(model)
    accepted = {value.name for value in live.get_inputs()}
    given = {name: array for name, array in feeds.items() if name in accepted}
    for threshold in np.linspace(0.3, 8, 120):
        flags = live.run(["atpatch_flagged"], {**given, "atpatch_threshold": np.array(threshold, np.float32)})[0].any(1)
        if 0 < flags.sum() < len(flags):
            return float(threshold)
    raise AssertionError("no threshold splits the batch")
