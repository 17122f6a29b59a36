"""The hotfix file: a patch plan with its evidence, signed to one model by fingerprints.

On disk it is a safetensors file (no pickle anywhere). Arrays are tensors; everything else is JSON under one key of the
header, with a digest over both. One key, because safetensors writes several in no fixed order, and equal hotfixes are
to be equal files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from rewriters.errors import PLAN_MISFIT
from rewriters.model.atomic import write_file
from rewriters.model.regular_files import check_source
from rewriters.plan import ControlInputs, PatchPlan, SitePlan, Static
from rewriters.sites import Site

from ..errors import BAD_OPTION, HOTFIX_CORRUPT, HOTFIX_MISMATCH, HOTFIX_VERSION
from .codec import Arrays, decode, encode, finite_json

__all__ = [
    "FORMAT",
    "SUFFIX",
    "Accept",
    "Benign",
    "Hotfix",
    "HotfixSite",
    "Joint",
    "Mend",
    "Passes",
    "Values",
    "is_silent",
    "kinds",
]

FORMAT = 3
"""Version of the file format written, and the one read."""

SUFFIX = ".hotfix"

KEY = "atpatch_hotfix"

Benign = float | Literal["mean", "zero"]
"""Level of the benign attention, in multiples of its mean."""

Values = Literal["benign", "own"]

Passes = Literal["one", "two"]

Mend = Literal["redistribute", "excise"]
Accept = Literal["always", "flip"]

Joint = Literal["any", "sum"]

_DTYPES = {"F32", "U8"}


@dataclass(frozen=True)
class HotfixSite:
    """One site of the model the hotfix was fitted on.

    Attributes:
        id: the site's id there.
        layer: its position among all sites of that model, in graph order; holds where an export names its nodes
            differently.
        heads: number of heads where it was known.
        fingerprint: `Site.fingerprint`.
        plan: detector and benign pair; the benign attention is the mean, not yet at the hotfix's level.
    """

    id: str
    layer: int
    heads: int | None
    fingerprint: str
    plan: SitePlan


@dataclass(frozen=True, eq=False)
class Hotfix:
    """What `fit` found, for one model.

    Attributes:
        sites: the sites it patches.
        threshold: global flag threshold, in the units of the detector's scores.
        weights: digest of the weights (`rewriters.model.io.weights_digest`).
        level: benign attention is the mean times this.
        groups, passes, joint, companion, mend, accept: as in `PatchPlan`; the groups are of ids in `sites`.
        data: digest of the data it was fitted on, "" when there was none.
        evidence: calibration and held-back figures with their intervals, plain data.
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
    mend: Mend = "redistribute"
    accept: Accept = "always"
    data: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def detector(self) -> str:
        """Detector kinds, usually one."""
        return kinds(site.plan for site in self.sites)

    @property
    def digest(self) -> str:
        """SHA-256 over everything in the hotfix, hex."""
        return _digest(*self._encode())

    def _encode(self) -> tuple[dict[str, Any], Arrays]:
        arrays: Arrays = {}
        sites = [
            {
                **{name: getattr(site, name) for name in _SITE_FIELDS},
                "plan": encode(site.plan, f"sites/{index}", arrays),
            }
            for index, site in enumerate(self.sites)
        ]
        fields = {name: getattr(self, name) for name in _FIELDS}
        return (
            finite_json({**{name: kept for name, kept in fields.items() if _ABSENT.get(name) != kept}, "sites": sites}),
            arrays,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file in one step: complete, or not at all.

        Raises:
            AtpatchError: ATP019 where it cannot be written.
            ValueError: the plan holds something no hotfix may hold (arrays that are not finite float32, shapes that do
                not fit).
        """
        path = Path(path)
        body, arrays = self._encode()
        head = {"format": FORMAT, "digest": _digest(body, arrays), "body": body}
        data = to_bytes(arrays, {KEY: json.dumps(head, sort_keys=True, allow_nan=False)})
        write_file(path, data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Hotfix:
        """Read and check a hotfix file.

        Raises:
            AtpatchError: ATP002 (no such file), ATP053 (corrupt, edited, or not a hotfix), ATP055 (another format).
        """
        path = check_source(path, "give the path of one .hotfix file")
        try:
            text, arrays = _read(path)
            head = json.loads(text, parse_constant=_no_constant, parse_int=_whole)
            if not isinstance(head, dict) or type(head.get("format")) is not int:
                raise ValueError("the header has no format version")
            if head["format"] != FORMAT:
                raise HOTFIX_VERSION(f"{path} has format {head['format']}, this version reads {FORMAT}")
            if head.keys() != {"format", "digest", "body"}:
                raise ValueError("the header has other keys than format, digest and body")
            if head["digest"] != _digest(head["body"], arrays):
                raise ValueError("the content does not match its digest")
            return cls._decode(head["body"], arrays)
        except (ValueError, OSError, RecursionError, SafetensorError) as error:
            raise HOTFIX_CORRUPT(f"{path}: {error}") from error

    @classmethod
    def _decode(cls, body: Any, arrays: Arrays) -> Hotfix:
        body = {**_ABSENT, **body} if isinstance(body, dict) else body
        _exactly("the hotfix", body, {**_FIELDS, "sites": list})
        used: set[str] = set()
        sites = []
        for data in body["sites"]:
            _exactly("a site", data, {**_SITE_FIELDS, "plan": dict})
            sites.append(
                HotfixSite(**{name: data[name] for name in _SITE_FIELDS}, plan=decode(data["plan"], arrays, used))
            )
        if used != arrays.keys():
            raise ValueError("the file holds arrays that nothing refers to")
        if len({site.id for site in sites}) != len(sites) or not sites:
            raise ValueError("site ids are missing or repeated")
        if not math.isfinite(body["threshold"]) or not 0 <= body["level"] < math.inf or not 0 < body["companion"] <= 1:
            raise ValueError("threshold, level or companion out of range")
        for name, words in (("passes", Passes), ("joint", Joint), ("mend", Mend), ("accept", Accept)):
            if body[name] not in get_args(words):
                raise ValueError(f"{name} is none of the known words")
        groups = _groups(body["groups"], {site.id for site in sites})
        return cls(sites=tuple(sites), **{name: body[name] for name in _FIELDS if name != "groups"}, groups=groups)

    def describe(self) -> dict[str, Any]:
        """Plain data for tables and `--json`."""
        sites = [
            {
                "id": site.id,
                "layer": site.layer,
                "heads": site.heads,
                "fingerprint": site.fingerprint,
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
            "companion": self.companion,
            "values": "own" if own == {True} else "benign" if own == {False} else "mixed",
            "groups": [list(group) for group in self.groups],
            "passes": self.passes,
            "joint": self.joint,
            "mend": self.mend,
            "accept": self.accept,
            "weights": self.weights,
            "data": self.data,
            "sites": sites,
            "evidence": finite_json(self.evidence),
            "seeds": dict(self.seeds),
            "versions": dict(self.versions),
        }

    def plan(
        self,
        sites: Sequence[Site],
        weights: str | None,
        *,
        gating: Literal["if", "none"] = "if",
        telemetry: bool = False,
        controls: ControlInputs = "optional",
        threshold: float | None = None,
        benign: Benign | None = None,
        values: Values | None = None,
        passes: Passes | None = None,
        mend: Mend | None = None,
        accept: Accept | None = None,
        force: bool = False,
    ) -> PatchPlan:
        """The patch plan for a model.

        Args:
            sites: all sites of the model, in the finder's order; filters are applied to the plan afterwards.
            weights: `rewriters.model.io.weights_digest` of the model; None skips that comparison.
            threshold, benign, values, passes, mend, accept: override what was calibrated.
            force: go on though fingerprints or weights differ; sites that the model lacks are left out.

        Raises:
            AtpatchError: ATP054 where the hotfix was made for another model, ATP060 for an impossible override.
        """
        found = _match(self.sites, sites)
        differences = [
            _difference(mine, theirs)
            for mine, theirs in found
            if theirs is None or mine.fingerprint != theirs.fingerprint
        ]
        if weights is not None and weights != self.weights:
            differences.append(f"weights: hotfix {self.weights[:16]}, model {weights[:16]}")
        matched = [(mine, theirs) for mine, theirs in found if theirs is not None]
        if differences and not (force and matched):
            shown = "; ".join(differences[:4]) + (f"; and {len(differences) - 4} more" if len(differences) > 4 else "")
            raise HOTFIX_MISMATCH(shown, None if matched else "fit a hotfix on this model")
        level = _level(self.level if benign is None else benign)
        ids = {mine.id: theirs.id for mine, theirs in matched}
        if passes == "one" and self.joint == "sum":
            raise PLAN_MISFIT(
                "the hotfix adds up scores of its sites, which takes two passes", "fit one with --passes one"
            )
        groups = (tuple(ids[name] for name in group if name in ids) for group in self.groups)
        return PatchPlan(
            sites={theirs.id: _adjusted(mine.plan, level, values) for mine, theirs in matched},
            threshold=self.threshold if threshold is None else threshold,
            companion=self.companion,
            gating=gating,
            telemetry=telemetry,
            controls=controls,
            passes=self.passes if passes is None else passes,
            groups=tuple(group for group in groups if group),
            joint=self.joint,
            mend=self.mend if mend is None else mend,
            accept=self.accept if accept is None else accept,
            digest=self.digest,
        )


def is_silent(plan: SitePlan) -> bool:
    """Whether a site flags nothing by itself and acts on the flags of others."""
    return isinstance(plan.detector, Static) and not plan.detector.columns


def kinds(plans: Iterable[SitePlan]) -> str:
    """Kinds of the detectors, sorted; silent ones count only where there is no other."""
    plans = list(plans)
    telling = [plan for plan in plans if not is_silent(plan)]
    return " ".join(sorted({plan.detector.kind for plan in telling or plans}))


_SITE_FIELDS: dict[str, Any] = {"id": str, "layer": int, "heads": (int, type(None)), "fingerprint": str}
_FIELDS: dict[str, Any] = {
    "threshold": (int, float),
    "weights": str,
    "level": (int, float),
    "companion": (int, float),
    "groups": (list, tuple),
    "passes": str,
    "joint": str,
    "mend": str,
    "accept": str,
    "data": str,
    "evidence": Mapping,
    "seeds": Mapping,
    "versions": Mapping,
}

_ABSENT = {"mend": "redistribute"}
"""Fields that came later: files without them mean this, and files that mean this go without them."""


def _groups(groups: Any, known: set[str]) -> tuple[tuple[str, ...], ...]:
    """Groups as the plan holds them, each of known sites, no site twice."""
    names = [name for group in groups if isinstance(group, list) for name in group]
    well_formed = all(isinstance(group, list) and group for group in groups) and all(
        isinstance(name, str) for name in names
    )
    if not well_formed or not known.issuperset(names) or len(set(names)) != len(names):
        raise ValueError("groups must be lists of the hotfix's sites, none in two of them")
    return tuple(tuple(group) for group in groups)


def _match(mine: Sequence[HotfixSite], theirs: Sequence[Site]) -> list[tuple[HotfixSite, Site | None]]:
    """Pairs by id; where the model has no such id, by position, since an id comes from names and names mean little."""
    by_id = {site.id: site for site in theirs}
    taken = {site.id for site in mine if site.id in by_id}
    pairs: list[tuple[HotfixSite, Site | None]] = []
    for site in mine:
        other = by_id.get(site.id)
        if other is None and 0 <= site.layer < len(theirs) and theirs[site.layer].id not in taken:
            other = theirs[site.layer]
            taken.add(other.id)
        pairs.append((site, other))
    return pairs


def _difference(mine: HotfixSite, theirs: Site | None) -> str:
    return (
        f"site {mine.id}: hotfix {mine.fingerprint}, model"
        f" {'has no such site' if theirs is None else theirs.fingerprint}"
    )


def _level(benign: Benign) -> float:
    level = {"mean": 1.0, "zero": 0.0}.get(benign) if isinstance(benign, str) else benign
    if level is None or not 0 <= level < math.inf:
        raise BAD_OPTION(f"benign level {benign!r} is neither mean, zero nor a number from 0 up")
    return level


def _adjusted(plan: SitePlan, level: float, values: Values | None) -> SitePlan:
    pair = replace(plan.benign, attention=plan.benign.attention * np.float32(level))
    if values is not None:
        pair = replace(pair, own_values=values == "own")
    return replace(plan, benign=pair)


def _digest(body: Any, arrays: Arrays) -> str:
    hasher = hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode())
    for name in sorted(arrays):
        array = arrays[name]
        hasher.update(repr((name, array.dtype.str, array.shape)).encode())
        hasher.update(array.tobytes())
    return hasher.hexdigest()


def _read(path: Path) -> tuple[str, Arrays]:
    with safe_open(path, "numpy") as file:
        text = (file.metadata() or {}).get(KEY)
        if text is None:
            raise ValueError("it is no hotfix: the header says nothing of one")
        arrays: Arrays = {}
        for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
            if file.get_slice(name).get_dtype() not in _DTYPES:
                raise ValueError(f"array {name} is of a type that hotfixes do not hold")
            arrays[name] = file.get_tensor(name)
        return text, arrays


def _exactly(what: str, data: Any, fields: Mapping[str, Any]) -> None:
    if not isinstance(data, dict) or data.keys() != fields.keys():
        raise ValueError(f"{what} must have exactly the keys {', '.join(fields)}")
    for name, kind in fields.items():
        if not isinstance(data[name], kind) or (isinstance(data[name], bool) and kind is not bool):
            raise ValueError(f"{what}: {name} has the wrong type")


def _whole(word: str) -> int:
    """Whole numbers go into graphs as 64-bit ones."""
    number = int(word)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"the number {word[:30]} is too large")
    return number


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")
