"""Merged decoders of small models, and their healing at all sites that can judge."""

from __future__ import annotations

import functools

import onnx

from rewriters.editing.patcher import patch
from rewriters.finding.cache_branches import MergedDecoder, find_merged
from rewriters.finding.finder import find_sites
from rewriters.finding.key_value import HealingPlaces, healing_places
from rewriters.plan import Detector, PatchPlan, SitePlan
from tests.merged import merged_of

from ..decoders import decoder

__all__ = ["heal", "merged", "read"]


@functools.cache
def merged(family: str) -> MergedDecoder:
    return read(merged_of(decoder(False, family), decoder(True, family)))


def read(model: onnx.ModelProto) -> MergedDecoder:
    found = find_merged(model, find_sites(model)[0])
    assert found is not None
    return found


def heal(of: MergedDecoder, detector: Detector, **options: object) -> onnx.ModelProto:
    """Patched at all sites that can judge."""
    places = healing_places(of.prompts.model)
    assert isinstance(places, HealingPlaces)
    plans = {name: SitePlan(detector) for name in places.judged}
    options = {"telemetry": True, **options}
    plan = of.spread(PatchPlan(plans, passes="two", groups=(places.judged,), mend="heal", **options))  # type: ignore[arg-type]
    return patch(of.model, plan, of.sites)
