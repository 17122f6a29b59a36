"""The hotfix file: a patch plan with its evidence, tied to one model by fingerprints.

`container` says what it is on disk.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Unpack, get_args

from safetensors import SafetensorError

from rewriters.choices import Accept, Joint, Mend, Passes
from rewriters.model.atomic import write_file
from rewriters.model.regular_files import check_source
from rewriters.plan import Alarm, PatchPlan, SitePlan, Static
from rewriters.sites import Site
from rewriters.summary import Summarized, some

from ..errors import HOTFIX_CORRUPT
from .codec import Arrays, decode, encode, finite_json
from .container import FORMAT, KEY, SUFFIX, digest, pack, require_keys, unpack
from .evidence import Evidence
from .held_back import held_back
from .options import PatchOptions, PlanKeywords
from .plans import fitted_plan

__all__ = ["FORMAT", "KEY", "SUFFIX", "Calls", "Hotfix", "HotfixSite", "is_silent", "kinds"]


Calls = Literal["", "whole", "cached"]


@dataclass(frozen=True)
class HotfixSite:
    """One site of the model the hotfix was fitted on.

    Attributes:
        id: the site's id there.
        layer: its position among all sites of that model, in graph order, for exports that name nodes differently.
        heads: number of heads where it was known.
        fingerprint: `Site.fingerprint`.
        plan: detector and benign pair; the benign attention is the mean, not yet at the hotfix's level.
    """

    id: str
    layer: int
    heads: int | None
    fingerprint: str
    plan: SitePlan


@dataclass(frozen=True, eq=False, repr=False)
class Hotfix(Summarized):
    """What `fit` found, for one model.

    Attributes:
        sites: the sites it patches.
        threshold: global flag threshold, in the units of the detector's scores.
        weights: digest of the weights (`rewriters.model.io.weights_digest`).
        level: benign attention is the mean times this.
        groups, passes, joint, companion, most, wider, margin, mend, closes_up, accept: as in `PatchPlan` (by ids).
        data: digest of the data it was fitted on, "" when there was none.
        calls: how the graph was called: "whole" prompts in one call, as of a decoder without caches, or "cached", a
            prefill and steps on its caches; "" for other models, and where an older file does not say.
        lengths: "shortest" and "longest" request that the fit has seen, in valid tokens; empty where inputs are of one
            length, or no input masks their padding.
        alarm: None, or the alarm on the hidden states that some of its sites read.
        evidence: calibration and held-back figures with their intervals, plain data; see `evidence.Evidence`.
        seeds, versions: what a rerun needs to give the same file.
    """

    sites: tuple[HotfixSite, ...]
    threshold: float
    weights: str
    level: float = 1.0
    groups: tuple[tuple[str, ...], ...] = ()
    passes: Passes = "one"
    joint: Joint = "any"
    companion: float = 1.0
    most: int = 0
    wider: int = 0
    margin: float = 0.0
    mend: Mend = "redistribute"
    closes_up: bool = False
    accept: Accept = "always"
    data: str = ""
    calls: Calls = ""
    lengths: Mapping[str, int] = field(default_factory=dict)
    alarm: Alarm | None = None
    evidence: Evidence = field(default_factory=Evidence)
    seeds: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    # What it was read from: a field that is added later must not change a digest. A copy by `replace` has none.
    _read: tuple[dict[str, Any], Arrays] | None = field(default=None, init=False)

    @property
    def detector(self) -> str:
        """Detector kinds, usually one."""
        return kinds(site.plan for site in self.sites)

    @property
    def digest(self) -> str:
        """SHA-256 over everything in the hotfix, hex."""
        return digest(*self._encode())

    def summary(self) -> Iterator[tuple[str, str]]:
        yield "detector", f"{self.detector} at {some(site.id for site in self.sites)}"
        passes = f"{self.passes} pass" + (f"es, {self.mend}, accepted {self.accept}" if self.passes == "two" else "")
        yield "settings", f"threshold {self.threshold:.4g}, benign attention {self.level:g} × its mean, {passes}"
        try:
            figures = held_back(self.evidence) or "no figures"
        except (AttributeError, KeyError, TypeError, ValueError):  # a file from somebody else may hold anything there
            figures = "figures in a form that 'fit' does not write"
        yield "held back", figures
        yield "digest", f"{self.digest[:16]}, for weights {self.weights[:16]}"

    def _encode(self) -> tuple[dict[str, Any], Arrays]:
        if self._read is not None:
            return self._read
        arrays: Arrays = {}
        sites = [
            {name: getattr(site, name) for name in _SITE_FIELDS} | {"plan": encode(site.plan, f"sites/{index}", arrays)}
            for index, site in enumerate(self.sites)
        ]
        fields = {name: getattr(self, name) for name in _FIELDS}
        if self.alarm is not None:
            fields["alarm"] = encode(self.alarm, "alarm", arrays)
        written = {name: value for name, value in fields.items() if _ABSENT.get(name) != value}
        return finite_json({**written, "sites": sites}), arrays

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file in one step: complete, or not at all.

        Raises:
            AtpatchError: ATP019 where it cannot be written.
            ValueError: the plan holds something no hotfix may hold (arrays that are not finite float32, shapes that do
                not fit).
        """
        write_file(Path(path), pack(*self._encode()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Hotfix:
        """Read and check a hotfix file.

        Raises:
            AtpatchError: ATP002 (no such file), ATP053 (corrupt, edited, or not a hotfix), ATP055 (another format).
        """
        path = check_source(path, "give the path of one .hotfix file")
        try:
            return cls._decode(*unpack(path))
        except (ValueError, OSError, RecursionError, SafetensorError) as error:
            raise HOTFIX_CORRUPT(f"{path}: {error}") from error

    @classmethod
    def _decode(cls, read: Any, arrays: Arrays) -> Hotfix:
        body = {**_ABSENT, **read} if isinstance(read, dict) else read
        require_keys("the hotfix", body, {**_FIELDS, "sites": list, "alarm": (dict, type(None))})
        used: set[str] = set()
        sites = []
        for data in body["sites"]:
            require_keys("a site", data, {**_SITE_FIELDS, "plan": dict})
            plan = decode(data["plan"], arrays, used, SitePlan)
            sites.append(HotfixSite(**{name: data[name] for name in _SITE_FIELDS}, plan=plan))
        alarm = body["alarm"] and decode(body["alarm"], arrays, used, Alarm)
        if alarm is not None and not {layer.site for layer in alarm.layers} <= {site.id for site in sites}:
            raise ValueError("the alarm reads states of sites that the hotfix does not patch")
        if used != arrays.keys():
            raise ValueError("the file holds arrays that nothing refers to")
        if len({site.id for site in sites}) != len(sites) or not sites:
            raise ValueError("site ids are missing or repeated")
        if not math.isfinite(body["threshold"]) or not 0 <= body["level"] < math.inf or not 0 < body["companion"] <= 1:
            raise ValueError("threshold, level or companion out of range")
        if min(body["most"], body["wider"]) < 0 or not 0 <= body["margin"] < math.inf:
            raise ValueError("most, wider and margin must not be negative")
        _check_lengths(body["lengths"])
        for name, words in (("passes", Passes), ("joint", Joint), ("mend", Mend), ("accept", Accept), ("calls", Calls)):
            if body[name] not in get_args(words):
                raise ValueError(f"{name} is none of the known words")
        groups = _groups(body["groups"], {site.id for site in sites})
        fields = {name: body[name] for name in _FIELDS if name != "groups"}
        hotfix = cls(sites=tuple(sites), **fields, groups=groups, alarm=alarm)
        object.__setattr__(hotfix, "_read", (read, arrays))
        return hotfix

    def describe(self) -> dict[str, Any]:
        """Plain data for tables and `--json`."""
        sites = [
            {
                **{name: getattr(site, name) for name in _SITE_FIELDS},
                "detector": site.plan.detector.kind,
                "benign_attention": "relative" if site.plan.benign.relative else "per column",
                "every_row_sees_every_column": site.plan.every_row_sees_every_column,
            }
            for site in self.sites
        ]
        own = {site.plan.benign.own_values for site in self.sites}
        return {
            "format": FORMAT,
            "digest": self.digest,
            "detector": self.detector,
            "threshold": self.threshold,
            "benign_level": self.level,
            **{name: getattr(self, name) for name in ("companion", "most", "wider", "margin")},
            "values": "own" if own == {True} else "benign" if own == {False} else "mixed",
            "groups": [list(group) for group in self.groups],
            **{name: getattr(self, name) for name in ("passes", "joint", "mend", "closes_up", "accept")},
            **{name: getattr(self, name) for name in ("weights", "data", "calls")},
            "lengths": dict(self.lengths),
            "alarm": self.alarm and [layer.site for layer in self.alarm.layers],
            "sites": sites,
            "evidence": finite_json(self.evidence),
            "seeds": dict(self.seeds),
            "versions": dict(self.versions),
        }

    def plan(self, sites: Sequence[Site], weights: str | None, **options: Unpack[PlanKeywords]) -> PatchPlan:
        """The patch plan for a model.

        Args:
            sites: all sites of the model, in the finder's order; filters are applied to the plan afterwards.
            weights: `rewriters.model.io.weights_digest` of the model; None skips that comparison.
            options: `threshold`, `benign`, `values`, `passes`, `mend`, `accept` override what was calibrated; further
                `gating`, `telemetry`, `controls` and `force`; see `PatchOptions`.

        Raises:
            AtpatchError: ATP054 where the hotfix was made for another model, ATP060 for an override it cannot take.
        """
        for stray in options.keys() - PlanKeywords.__annotations__.keys():
            raise TypeError(f"plan() got an unexpected keyword argument {stray!r}")
        return fitted_plan(self, sites, weights, PatchOptions(**options))


def is_silent(plan: SitePlan) -> bool:
    """Whether a site flags nothing by itself and acts on the flags of others."""
    return isinstance(plan.detector, Static) and not plan.detector.columns


def kinds(plans: Iterable[SitePlan]) -> str:
    """Kinds of the detectors, sorted; silent ones count only where there is no other."""
    plans = list(plans)
    flagging = [plan for plan in plans if not is_silent(plan)]
    return " ".join(sorted({plan.detector.kind for plan in flagging or plans}))


_SITE_FIELDS: dict[str, Any] = {"id": str, "layer": int, "heads": (int, type(None)), "fingerprint": str}
_FIELDS: dict[str, Any] = {
    "threshold": (int, float),
    "weights": str,
    "level": (int, float),
    "companion": (int, float),
    "most": int,
    "wider": int,
    "margin": (int, float),
    "groups": (list, tuple),
    "passes": str,
    "joint": str,
    "mend": str,
    "closes_up": bool,
    "accept": str,
    "data": str,
    "calls": str,
    "lengths": Mapping,
    "evidence": Mapping,
    "seeds": Mapping,
    "versions": Mapping,
}

_ABSENT = {
    "mend": "redistribute",
    "closes_up": False,
    "most": 0,
    "wider": 0,
    "margin": 0.0,
    "calls": "",
    "lengths": {},
    "alarm": None,
}
"""Fields that were added later, and what a file without them means. It is written without those of this value."""


def _check_lengths(lengths: Mapping[str, Any]) -> None:
    known = lengths.keys() == {"shortest", "longest"} and all(type(size) is int for size in lengths.values())
    if lengths and not (known and 0 < lengths["shortest"] <= lengths["longest"]):
        raise ValueError("lengths must be the shortest and the longest request")


def _groups(groups: Any, known: set[str]) -> tuple[tuple[str, ...], ...]:
    """Groups as the plan holds them, each of known sites, no site twice."""
    names = [name for group in groups if isinstance(group, list) for name in group]
    well_formed = all(isinstance(group, list) and group for group in groups) and all(
        isinstance(name, str) for name in names
    )
    if not well_formed or not known.issuperset(names) or len(set(names)) != len(names):
        raise ValueError("groups must be lists of the hotfix's sites, none in two of them")
    return tuple(tuple(group) for group in groups)
