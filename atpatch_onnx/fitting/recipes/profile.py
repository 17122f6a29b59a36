"""`profile`: one small network for each site, on column features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from rewriters.plan import Profile, ValueNorms
from rewriters.sites import Site

from ...inference.capture import SiteBatch
from ..accumulators import ColumnSample
from ..detectors.features import answer_row_features, answer_row_scored, profile_features, profile_logits
from .recipe import PROBES

__all__ = ["ProfileRecipe"]


class ProfileRecipe:
    """See `Recipe`."""

    always = False

    def __init__(
        self,
        sites: Sequence[Site],
        rows: int,
        columns: int,
        seed: int,
        every: int = 1,
        norms: Mapping[str, ValueNorms] = MappingProxyType({}),
        answer_row: bool = False,
        seeing_rows: bool = False,
        thorough: bool = False,
    ) -> None:
        """norms, answer_row, seeing_rows: see `Profile`; thorough: see `detectors.profile`."""
        self._seed, self._every, self._norms, self._answer_row = seed, every, norms, answer_row
        self._seeing_rows, self._thorough = seeing_rows, thorough
        self._probes = () if answer_row else PROBES
        # One generator for each site, all with the same seed: thinned out in the same way, sites keep the same columns.
        self._samples = {
            site.id: ColumnSample(
                site,
                rows,
                columns,
                self._probes,
                every,
                np.random.default_rng(seed),
                norms.get(site.id),
                answer_row,
                seeing_rows,
            )
            for site in sites
        }

    def observe(self, site: Site, batch: SiteBatch, anomalous: NDArray[np.bool_]) -> None:
        self._samples[site.id].add(batch, anomalous)

    def unsuitable(self, by_place: Mapping[str, bool]) -> None:
        """It suits inputs of any form."""

    def train(self, by_place: Mapping[str, bool], tick: Callable[[int, int], None]) -> Mapping[str, Profile]:
        from ..detectors.profile import train_profile

        detectors = {}
        for index, name in enumerate(self._asked(by_place)):
            tick(index, len(by_place))
            seed = int(np.random.default_rng((self._seed, index)).integers(2**31))
            columns = self._samples[name].columns(by_place=by_place[name])
            trained = train_profile(columns, probes=self._probes, seed=seed, thorough=self._thorough)
            detectors[name] = self._reading(name, trained)
        return detectors

    def train_together(self, by_place: Mapping[str, bool]) -> Mapping[str, Profile]:
        from ..detectors.profile import train_together

        names = self._asked(by_place)
        sites = [self._samples[name].columns(by_place=by_place[name]) for name in names]
        first = sites[0]
        same = all(
            np.array_equal(one.place, first.place) and np.array_equal(one.anomalous, first.anomalous) for one in sites
        )
        if len(sites) == 1 or not same:
            return {}
        anywhere = np.any([one.judged for one in sites], axis=0)
        seen = [one.only(anywhere) for one in sites]
        trained = train_together(seen, probes=self._probes, seed=self._seed, thorough=self._thorough)
        return {name: self._reading(name, detector) for name, detector in zip(names, trained, strict=True)}

    def sees(self, name: str) -> tuple[int, int]:
        """How many of the kept columns a site sees, labeled ones and others."""
        return self._samples[name].seen()

    def _asked(self, by_place: Mapping[str, bool]) -> list[str]:
        return [name for name in self._samples if name in by_place]

    def logits(self, site: Site, detector: Profile, batch: SiteBatch) -> NDArray[np.float64]:
        if detector.answer_row:
            features = answer_row_features(
                batch.map,
                batch.valid,
                values=batch.values,
                norms=detector.norms,
                seeing_rows=detector.seeing_rows,
            )
            judged = answer_row_scored(batch.map, batch.valid)
            return np.where(judged, profile_logits(detector, features), -np.inf)
        features = profile_features(
            batch.map,
            batch.valid,
            self_attention=site.self_attention,
            probes=detector.probes,
            every=detector.every,
            values=batch.values,
            norms=detector.norms,
        )
        return profile_logits(detector, features)

    def anchored(self, detector: Profile, center: float, scale: float) -> Profile:
        from ..detectors.profile import anchor

        return anchor(detector, center, scale)

    def _reading(self, name: str, detector: Profile) -> Profile:
        """The detector with what its features were made of."""
        return replace(
            detector,
            every=self._every,
            norms=self._norms.get(name),
            answer_row=self._answer_row,
            seeing_rows=self._seeing_rows,
        )
