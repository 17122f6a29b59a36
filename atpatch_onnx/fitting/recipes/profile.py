"""`profile`: one small network a site on column features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rewriters.plan import Profile
from rewriters.sites import Site

from ...inference.capture import SiteBatch
from ..accumulators import ColumnSample
from ..detectors.features import profile_features, profile_logits
from .recipe import PROBES

__all__ = ["ProfileRecipe"]


class ProfileRecipe:
    """See `Recipe`."""

    always = False

    def __init__(self, sites: Sequence[Site], rows: int, columns: int, seed: int, every: int = 1) -> None:
        self._seed, self._probes, self._every = seed, PROBES, every
        # One generator a site, all alike: thinned out in the same way, sites keep the same columns.
        self._samples = {
            site.id: ColumnSample(site, rows, columns, PROBES, every, np.random.default_rng(seed)) for site in sites
        }

    def observe(self, site: Site, batch: SiteBatch, anomalous: NDArray[np.bool_]) -> None:
        self._samples[site.id].add(batch, anomalous)

    def train(self, by_place: Mapping[str, bool], tick: Callable[[int, int], None]) -> Mapping[str, Profile]:
        from ..detectors.profile import train_profile

        detectors = {}
        for index, (name, sample) in enumerate(self._samples.items()):
            tick(index, len(self._samples))
            seed = int(np.random.default_rng((self._seed, index)).integers(2**31))
            trained = train_profile(sample.columns(by_place=by_place[name]), probes=self._probes, seed=seed)
            detectors[name] = replace(trained, every=self._every)
        return detectors

    def train_together(self, by_place: Mapping[str, bool]) -> Mapping[str, Profile]:
        from ..detectors.profile import train_together

        sites = [sample.columns(by_place=by_place[name]) for name, sample in self._samples.items()]
        first = sites[0]
        same = all(
            np.array_equal(one.place, first.place) and np.array_equal(one.anomalous, first.anomalous) for one in sites
        )
        if len(sites) == 1 or not same:
            return {}
        trained = train_together(sites, probes=self._probes, seed=self._seed)
        return {
            name: replace(detector, every=self._every) for name, detector in zip(self._samples, trained, strict=True)
        }

    def logits(self, site: Site, detector: Profile, batch: SiteBatch) -> NDArray[np.float64]:
        features = profile_features(
            batch.map, batch.valid, self_attention=site.self_attention, probes=detector.probes, every=detector.every
        )
        return profile_logits(detector, features)

    def anchored(self, detector: Profile, center: float, scale: float) -> Profile:
        from ..detectors.profile import anchor

        return anchor(detector, center, scale)
