"""The HTTP side: routes of the Open Inference Protocol v2, metrics, the page, and the admin endpoint.

Errors are `{"error": …}` with a 4xx status, or 503 with Retry-After; nothing of a traceback goes to a client.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from .admin import admin_routes
from .arms import ArmName
from .bounds import largest_body
from .engine import Engine
from .host_check import require_known_host
from .limits import Refusal, decompress
from .outcome import Answer
from .page import PAGE_HEADERS, render_page
from .protocol import HEADER_LENGTH, InferRequest, count_as_json, parse_request, read_unit, render_response
from .versions import SERVER

__all__ = ["build_app"]

_BYTES_OF_JSON = 20
"""About how many bytes a number takes."""


def build_app(engine: Engine) -> Starlette:
    """The application around an engine; it closes the engine when it ends."""
    handlers = _Handlers(engine)
    model = "/v2/models/{model}"
    routes = [
        Route("/v2", handlers.server),
        Route("/v2/health/live", handlers.live),
        Route("/v2/health/ready", handlers.ready),
        Route("/metrics", handlers.metrics),
        Route("/", handlers.page),
        *admin_routes(engine),
    ]
    for path in (model, model + "/versions/{version}"):
        routes += [
            Route(path, handlers.metadata),
            Route(path + "/ready", handlers.model_ready),
            Route(path + "/infer", handlers.infer, methods=["POST"]),
        ]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        engine.start()
        yield
        await engine.close()

    errors: dict[Any, Any] = {
        Refusal: handlers.refuse,
        ClientDisconnect: handlers.gone,
        404: handlers.not_found,
        405: handlers.wrong_method,
        Exception: handlers.fail,
    }
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=errors)


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(content, separators=(",", ":")), status, headers, "application/json")


class _Handlers:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def server(self, request: Request) -> Response:
        return _json(SERVER | {"extensions": ["binary_tensor_data"]})

    async def live(self, request: Request) -> Response:
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        ready = not request.scope.get("draining", False)
        return _json({"ready": ready}, 200 if ready else 503)

    async def model_ready(self, request: Request) -> Response:
        self._version(request)
        return _json({"name": self._engine.settings.name, "ready": True})

    async def metadata(self, request: Request) -> Response:
        self._version(request)
        return _json(self._engine.metadata())

    async def infer(self, request: Request) -> Response:
        engine = self._engine
        version = self._version(request)
        with engine.gate.buffer() as held:
            arm = engine.original
            most = largest_body(arm.inputs, engine.settings.limits)
            declared = request.headers.get("content-length", "")
            body = await held.read(request.stream(), int(declared) if declared.isdigit() else None, most)
            arrived = time.perf_counter()
            length, limits = request.headers.get(HEADER_LENGTH), engine.settings.limits
            encoding = request.headers.get("content-encoding", "identity").strip().lower()
            encoded = encoding not in ("", "identity")

            def parse() -> tuple[InferRequest, int]:
                plain = decompress(body, encoding, most) if encoded else body
                return parse_request(plain, length, arm.inputs, arm.outputs, limits, batchable=arm.batchable), len(
                    plain
                )

            parsed, size = await engine.gate.aside(most if encoded else len(body), parse)
            if encoded:
                held.hold(len(body) + size)
            unit = read_unit(parsed.parameters.get("unit", request.headers.get(engine.settings.unit_header)))
            with engine.gate.compute():
                answer = await engine.infer(parsed, unit, version, arrived)
        return await engine.gate.aside(
            _BYTES_OF_JSON * count_as_json(answer.outputs, parsed.wanted), lambda: self._response(parsed, answer)
        )

    async def metrics(self, request: Request) -> Response:
        return Response(self._engine.metrics.render(), media_type="text/plain; version=0.0.4")

    async def page(self, request: Request) -> Response:
        require_known_host(request.headers, self._engine.settings.hosts)
        return HTMLResponse(render_page(self._engine), headers=PAGE_HEADERS)

    async def refuse(self, request: Request, error: Refusal) -> Response:
        self._engine.metrics.refused(error.status)
        code = {"code": error.code} if error.code else {}
        return _json({"error": error.message, **code}, error.status, error.headers)

    async def gone(self, request: Request, error: Exception) -> Response:
        return Response(status_code=400)  # nobody reads this: the connection is closed

    async def not_found(self, request: Request, error: Exception) -> Response:
        return _json({"error": f"nothing at {request.url.path[:200]}"}, 404)

    async def wrong_method(self, request: Request, error: Exception) -> Response:
        return _json({"error": f"{request.method[:20]} is not allowed here"}, 405, getattr(error, "headers", None))

    async def fail(self, request: Request, error: Exception) -> Response:
        return _json({"error": "internal error; see the server's own log"}, 500)

    def _version(self, request: Request) -> ArmName | None:
        return self._engine.find(request.path_params["model"], request.path_params.get("version"))

    def _response(self, parsed: InferRequest, answer: Answer) -> Response:
        head = {
            "model_name": self._engine.settings.name,
            "model_version": answer.version,
            "id": answer.id,
            "parameters": answer.parameters,
        }
        content, length = render_response(head, answer.outputs, self._engine.outputs, parsed.wanted)
        if length is None:
            return Response(content, media_type="application/json")
        return Response(content, headers={HEADER_LENGTH: str(length)}, media_type="application/octet-stream")
