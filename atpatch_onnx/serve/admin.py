"""The admin endpoint: kill switch, weight, runtime controls, reload; it needs a token in the environment.

A client sends the token as `Authorization: Bearer …`, which is checked before the body is read, or as field `token` of
the page's form, which is in the body. JSON in, JSON out; a form is sent back to the page. Posts from other sites are
refused, see `host_check`.

    POST /admin/kill      {}                                   the original answers everything
    POST /admin/restore   {}                                   undoes that (not the file or the environment)
    POST /admin/weight    {"weight": 0.25}                     of mode "ab"; a new revision
    POST /admin/controls  {"enabled": true, "threshold": 0.9}  with --hot-threshold; null or absent: as in the file; a
                                                               new revision
    POST /admin/reload    {"arm": "patched"}                   reads the file again; a new revision
    POST /admin/mode      {"mode": "patched"}                  or "ab" or "shadow": who answers; a new revision
    GET  /admin/status                                         mode, revision, kill switch, weight, calibration
"""

from __future__ import annotations

import hmac
import json
import math
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from ..errors import AtpatchError
from .arms import PATCHED
from .engine import Engine
from .host_check import require_known_host, require_same_origin
from .limits import Refusal
from .reload import CHANGEABLE, change_mode, reload

__all__ = ["TOKEN_VARIABLE", "admin_routes", "is_open"]

TOKEN_VARIABLE = "ATPATCH_ADMIN_TOKEN"
_MOST_BYTES = 4096

Body = Mapping[str, Any]
Action = Callable[[Engine, Body], Awaitable[int]]


def is_open(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether there is an admin endpoint."""
    return bool(environment.get(TOKEN_VARIABLE))


def admin_routes(engine: Engine, environment: Mapping[str, str] = os.environ) -> list[Route]:
    """Routes of the admin endpoint, none without a token."""
    token = environment.get(TOKEN_VARIABLE, "")
    if not token:
        return []
    actions = [
        Route(f"/admin/{name}", _endpoint(engine, token, action), methods=["POST"]) for name, action in _ACTIONS.items()
    ]
    return [*actions, Route("/admin/status", _status(engine, token))]


def _status(engine: Engine, token: str) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        require_known_host(request.headers, engine.settings.hosts)
        _require_bearer(request, token)
        return JSONResponse(_state(engine))

    return endpoint


def _state(engine: Engine) -> dict[str, Any]:
    """What every answer of the endpoint holds."""
    calibration = engine.calibration
    return {
        "revision": engine.revision,
        "killed": list(engine.switch.sources()),
        "weight": engine.split.weight,
        "mode": engine.settings.mode,
        "calibration": None if calibration is None else calibration.describe(),
    }


def _endpoint(engine: Engine, token: str, action: Action) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        require_known_host(request.headers, engine.settings.hosts)
        require_same_origin(request.headers, engine.settings.hosts)
        form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
        if not form:
            _require_bearer(request, token)
        _require_small(request)
        with engine.gate.buffer() as held:
            body = _fields(await held.read(request.stream(), None, _MOST_BYTES), form)
        if form:
            _require_token(body.get("token", ""), token)
        try:
            revision = await action(engine, body)
        except AtpatchError as error:
            raise Refusal(409, str(error)) from error
        if form:
            return RedirectResponse("/", 303)
        return JSONResponse({**_state(engine), "revision": revision})

    return endpoint


def _require_bearer(request: Request, token: str) -> None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    _require_token(given if scheme.lower() == "bearer" else "", token)


def _require_token(given: str, token: str) -> None:
    if not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode()):
        raise Refusal(403, "the token is missing or wrong")


def _require_small(request: Request) -> None:
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > _MOST_BYTES or "transfer-encoding" in request.headers:
        raise Refusal(413, f"at most {_MOST_BYTES} bytes, with a Content-Length")


def _fields(raw: bytes, form: bool) -> Body:
    try:
        body = dict(parse_qsl(raw.decode())) if form else json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        raise Refusal(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise Refusal(400, "the body must be a JSON object")
    return body


async def _kill(engine: Engine, body: Body) -> int:
    engine.switch.by_admin = True
    engine.killed()
    return engine.revision


async def _restore(engine: Engine, body: Body) -> int:
    engine.switch.by_admin = False
    engine.killed()
    return engine.revision


async def _weight(engine: Engine, body: Body) -> int:
    if engine.settings.mode != "ab":
        raise Refusal(409, f"mode {engine.settings.mode} has no split")
    _require_known(body, "weight")
    weight = _number(body.get("weight"), "weight")
    if not 0 <= weight <= 1:
        raise Refusal(400, "'weight' must lie between 0 and 1")
    return engine.revision if weight == engine.split.weight else engine.revise("weight", weight=weight)


async def _controls(engine: Engine, body: Body) -> int:
    if not engine.settings.hot_controls:
        raise Refusal(403, "start the server with --hot-threshold to allow this")
    if PATCHED not in engine.lanes or not engine.lanes[PATCHED].arm.controllable:
        raise Refusal(
            409, "the patched graph has no runtime controls: it was patched with --controls none, or is not loaded"
        )
    _require_known(body, "enabled", "threshold")
    enabled = body.get("enabled")
    if enabled is not None and not isinstance(enabled, bool):
        raise Refusal(400, "'enabled' must be true, false or null")
    threshold = body.get("threshold")
    if threshold is not None:
        threshold = _number(threshold, "threshold")
        # as a float: numpy would warn about a number that float32 cannot hold
        if abs(threshold) > float(np.finfo(np.float32).max):
            raise Refusal(400, "'threshold' must be a number that float32 can hold")
    return engine.set_controls(enabled, threshold)


async def _reload(engine: Engine, body: Body) -> int:
    _require_known(body, "arm")
    for name in engine.lanes:
        if body.get("arm") == name:
            return await reload(engine, name)
    raise Refusal(400, f"'arm' must be one of {', '.join(engine.lanes)}")


async def _mode(engine: Engine, body: Body) -> int:
    _require_known(body, "mode")
    for mode in CHANGEABLE:
        if body.get("mode") == mode:
            return await change_mode(engine, mode)
    raise Refusal(400, f"'mode' must be one of {', '.join(CHANGEABLE)}")


def _require_known(body: Body, *names: str) -> None:
    """Raises: Refusal 400 for other fields, since a misspelled one would mean "as in the file" for the right one."""
    unknown = sorted(set(body) - {*names, "token"})
    if unknown:
        raise Refusal(400, f"there is no field {unknown[0][:100]!r}; allowed: {' and '.join(map(repr, names))}")


def _number(value: Any, name: str) -> float:
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise Refusal(400, f"{name!r} must be a number")
    return number


_ACTIONS: dict[str, Action] = {
    "kill": _kill,
    "restore": _restore,
    "weight": _weight,
    "controls": _controls,
    "reload": _reload,
    "mode": _mode,
}
