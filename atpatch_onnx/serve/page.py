"""The page at `/`: the arms, what the patch flags and changes, the split, and the kill switch.

The server renders it as one file that loads nothing else.
"""

from __future__ import annotations

import time
from typing import Any

from ..pages import environment
from ..statistics.sequential import Evidence, Srm, evidence_so_far, srm
from .admin import TOKEN_VARIABLE, is_open
from .arms import ORIGINAL, PATCHED
from .engine import Engine
from .settings import VERSIONS
from .tally import Tally

__all__ = ["PAGE_HEADERS", "render_page"]

PAGE_HEADERS = {
    "Cache-Control": "no-store",
    # The page loads nothing from other hosts, sends nothing to them, and may not be framed.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}
_TOP = 8
_MINUTES = 60
_WIDTH, _HEIGHT, _LEFT, _BELOW = 720, 150, 44, 20
_LEAST_SCALE = 0.01
"""The chart's axis goes to at least 1 %, so that a single flag does not fill it."""
_SHA = 12


def render_page(engine: Engine) -> str:
    """The page's HTML for the current state.

    Raises:
        AtpatchError: ATP051 without jinja2.
    """
    tally, settings, killed = engine.tally, engine.settings, engine.killed()
    lanes = engine.lanes
    arms = [
        {
            "name": name,
            "version": version,
            "path": lanes[name].arm.path.name,
            "sha256": lanes[name].arm.sha256[:_SHA],
            "answered": tally.answered[name],
            "percentiles": tally.percentiles(name),
            "hung": lanes[name].arm.hung,
        }
        for version, name in VERSIONS.items()
        if name in lanes
    ]
    template = environment().get_template("serve/dashboard.html.j2")
    return template.render(
        settings=settings,
        engine=engine,
        tally=tally,
        killed=killed,
        sources=engine.switch.sources(),
        verdict=_verdict(engine, killed),
        arms=arms,
        total=tally.percentiles("total"),
        untold=lanes[PATCHED].arm.untold if PATCHED in lanes else "it is not loaded",
        chart=_chart(tally, time.time()),
        moved=tally.moved.most_common(_TOP),
        columns=tally.columns.most_common(_TOP),
        srm=_srm(engine),
        evidence=_evidence(engine),
        admin=is_open(),
        token_variable=TOKEN_VARIABLE,
    )


def _verdict(engine: Engine, killed: bool) -> str:
    tally, mode = engine.tally, engine.settings.mode
    if killed:
        return "The patch is off: the original answers everything"
    if mode == "original":
        return "The original answers; the patch is not loaded"
    if mode == "shadow":
        if engine.calibration is not None and PATCHED not in engine.lanes:
            return f"The original answers; {engine.calibration.status}"
        if not tally.pairs:
            return "The original answers; no pair has been compared yet"
        due = tally.pairs + tally.missing
        least, most = _percent(tally.disagree / due), _percent((tally.disagree + tally.missing) / due)
        # Of the pairs that timed out or were dropped, all may have changed, or none.
        return f"The patch would change {f'between {least} and {most}' if tally.missing else least} of the answers"
    who = (
        "The patched model answers"
        if mode == "patched"
        else f"{_percent(engine.split.weight)} of units get the patched model"
    )
    return f"{who}; it flags {_percent(tally.flagged / tally.judged)} of its samples" if tally.judged else who


def _percent(share: float) -> str:
    return f"{share:.0%}" if share in (0, 1) else f"{share:.1%}" if share >= 0.001 else f"{share:.2g}"


def _srm(engine: Engine) -> Srm | None:
    """The state of the split, None where there is none."""
    if engine.settings.mode != "ab":
        return None
    units = engine.tally.units
    return srm(len(units[PATCHED]), len(units[ORIGINAL]), engine.split.weight)


def _evidence(engine: Engine) -> Evidence | None:
    """Evidence on the watched class: pairs that the patch moves into or out of it, or units of each arm that got it."""
    tally, watched, mode = engine.tally, engine.settings.watched_class, engine.settings.mode
    if watched is None or mode not in ("shadow", "ab"):
        return None
    if mode == "shadow":
        gained = sum(count for (_, to), count in tally.moved.items() if to == watched)
        lost = sum(count for (origin, _), count in tally.moved.items() if origin == watched)
        return evidence_so_far(gained, lost)
    if not 0 < engine.split.weight < 1:
        return None
    return evidence_so_far(tally.watched[PATCHED], tally.watched[ORIGINAL], engine.split.weight)


def _chart(tally: Tally, now: float) -> dict[str, Any]:
    """Coordinates of the last hour's rates, one point a minute with samples."""
    first = int(now // 60) * 60 - 60 * (_MINUTES - 1)
    shown = tally.last_hour(now)
    rates = {
        "flagged": [(minute.start, minute.flagged / minute.judged, minute.judged) for minute in shown if minute.judged],
        "disagree": [(minute.start, minute.disagree / minute.pairs, minute.pairs) for minute in shown if minute.pairs],
    }
    top = max([_LEAST_SCALE, *(rate for points in rates.values() for _, rate, _ in points)])
    step = (_WIDTH - _LEFT) / _MINUTES

    def place(start: int, rate: float) -> tuple[float, float]:
        return round(_LEFT + ((start - first) / 60 + 0.5) * step, 1), round(
            8 + (_HEIGHT - _BELOW - 8) * (1 - rate / top), 1
        )

    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": _LEFT,
        "bottom": _HEIGHT - _BELOW,
        "top": _percent(top),
        "bar": round(step * 0.6, 1),
        "series": {
            name: [
                {"x": place(start, rate)[0], "y": place(start, rate)[1], "text": f"{_percent(rate)} of {count}"}
                for start, rate, count in points
            ]
            for name, points in rates.items()
        },
        "empty": not any(rates.values()),
    }
