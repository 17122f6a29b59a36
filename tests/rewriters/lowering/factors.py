"""What a firing patch gives, computed from the factors P and V of each form of product."""

from __future__ import annotations

import numpy as np
import onnx

from rewriters.editing.fused_sites import lower_fused_sites
from rewriters.plan import BenignPair
from rewriters.sites import Site
from tests import oracle

from ..graphs import session
from ..running import canonical, with_outputs

PAIR = BenignPair(np.array([0.5], np.float32))


def outputs(model: onnx.ModelProto, feeds: dict[str, np.ndarray], optimize: bool = True) -> dict[str, np.ndarray]:
    live = session(model, optimize=optimize)
    names = [value.name for value in live.get_outputs()]
    return dict(zip(names, live.run(names, feeds), strict=True))


def factors(
    model: onnx.ModelProto, sites: tuple[Site, ...], feeds: dict[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Site id → canonical map and values, read through what `fit` reads them through."""
    lowered, readable = lower_fused_sites(model, sites)
    kinds = {name: site.dtype for site in readable for name in (site.probabilities, site.values)}
    for name, kind in kinds.items():
        lowered = with_outputs(lowered, [name], kind)
    got = {**feeds, **outputs(lowered, feeds, optimize=False)}
    found = {}
    for site in readable:
        a = four(site, got[site.probabilities], site.layout.probabilities)
        values = got[site.values] if site.layout.values is None else got[site.values].transpose(site.layout.values)
        if site.layout.values_lack:
            values = np.expand_dims(values, site.layout.values_lack)
        values = values.reshape(*values.shape[: site.layout.rank - 1], -1)
        found[site.id] = a, four(site, values, None)
    return found


def redistributed(
    model: onnx.ModelProto, site: Site, feeds: dict[str, np.ndarray], a: np.ndarray, v: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """P·V after redistribution (B, H, Q, D), by the oracle; a map with entries below zero in its two parts."""
    if not site.form.endswith("+signed"):
        return oracle.joint(a, v, mask, seen(site, a), PAIR, reach=not site.unmasked)
    raw = outputs(with_outputs(model, [site.probabilities], site.dtype), feeds, optimize=False)[site.probabilities]
    signed = four(site, raw, site.layout.probabilities)
    np.testing.assert_allclose(np.abs(signed), a, atol=1e-7)
    given, taken = (
        oracle.joint(part, v, mask, seen(site, a), PAIR) for part in (signed.clip(min=0), (-signed).clip(min=0))
    )
    return given - taken


def seen(site: Site, a: np.ndarray) -> np.ndarray:
    """Columns (B, K) that are real: of a map with zeros of its own all, else those to which some row gives mass."""
    return np.ones((a.shape[0], a.shape[3]), np.bool_) if site.unmasked else (a > 1e-30).any((1, 2))


def one_width(site: Site, output: np.ndarray) -> np.ndarray:
    """An output in canonical order, all that lies behind its rows as one axis."""
    ordered = output if site.layout.output is None else output.transpose(site.layout.output)
    return ordered.reshape(*ordered.shape[: site.layout.rank - 1], -1)


def four(site: Site, array: np.ndarray, permutation: tuple[int, ...] | None) -> np.ndarray:
    """Canonical; rank 2 is one sample with one head."""
    return array[None, None] if array.ndim == 2 else canonical(site, array, permutation)
