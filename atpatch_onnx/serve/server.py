"""uvicorn around the application: a stop that loses nothing, reload on SIGHUP.

Stopping, on SIGTERM or SIGINT:
1. `v2/health/ready` says 503, and every answer closes its connection, so that clients and load balancers go elsewhere;
   requests that still come are answered.
2. After `drain` seconds no more connections are accepted; open ones may still send what they have begun, and
   running requests end (`grace` seconds at most).
3. Waiting shadow runs are run or logged as dropped, then the decision log is closed.
A second signal skips the draining, a third ends the running requests.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import ADDRESS_UNUSABLE, AtpatchError
from .app import build_app
from .engine import Engine
from .grpc_api import GrpcServer
from .http_protocol import bounded_protocol
from .reload import reload

__all__ = ["bind", "serve"]

_BACKLOG = 2048
_OPEN_FILES = 65536
_LAST_WORDS = 0.25
"""Seconds for a connection accepted at the last moment to send its request."""
_logger = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one.

    Raises:
        AtpatchError: ATP074.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ADDRESS_UNUSABLE(
            f"{host}:{port} cannot be listened on: {getattr(error, 'strerror', None) or error}"
        ) from error
    return listener


def serve(
    engine: Engine, listener: socket.socket, ready: Callable[[int | None], None] = lambda grpc_port: None
) -> None:
    """Serve until a signal stops the server.

    Args:
        listener: bound socket.
        ready: called with the port of gRPC, if any, once requests are answered.

    Raises:
        AtpatchError: ATP051 and ATP074 for gRPC.
    """
    _allow_many_files()
    draining = _Draining(build_app(engine))
    settings = engine.settings
    config = uvicorn.Config(
        draining,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        backlog=_BACKLOG,
        http=bounded_protocol(settings.limits, engine.metrics.refused),
        ws="none",
        # As long as for the next request's headers; uvicorn's own 5 s are shorter than proxies keep connections.
        timeout_keep_alive=settings.limits.head_seconds,  # type: ignore[arg-type]
        timeout_graceful_shutdown=max(1, round(settings.grace)),
    )
    grpc = None if settings.grpc_port is None else GrpcServer(engine, listener.getsockname()[0])
    server = _Server(config, engine, draining, ready, grpc)
    server.run(sockets=[listener])
    if server.refused is not None:
        raise server.refused
    if any(lane.arm.hung for lane in engine.lanes.values()):
        # The interpreter would wait for a run that will not end; everything is written by now.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


class _Draining:
    """Marks requests once the server is stopping, and closes their connections from then on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.on = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.on or scope["type"] != "http":
            return await self._app(scope, receive, send)
        scope["draining"] = True

        async def closing(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, closing)


class _Server(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        engine: Engine,
        draining: _Draining,
        ready: Callable[[int | None], None],
        grpc: GrpcServer | None,
    ) -> None:
        super().__init__(config)
        self.refused: AtpatchError | None = None
        """Why the server could not start."""
        self._grpc = grpc
        self._engine = engine
        self._draining = draining
        self._ready = ready
        self._reloads: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        try:
            self._ready(None if self._grpc is None else await self._grpc.start())
        except AtpatchError as error:
            self.refused, self.should_exit, self._grpc = error, True, None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._grpc is not None:
            await self._grpc.stop(self._engine.settings.grace)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not uvicorn's own, which raises the signal again at the end: a stop that was asked for is no failure.
        if self._draining.on or not self._engine.settings.drain:
            self.force_exit = self.should_exit
            self.should_exit = True
            return
        self._draining.on = True
        if self._grpc is not None:
            self._grpc.ready = False
        # Signals come between two bytecodes of the main thread, where the loop runs, so it may be asked for.
        loop = asyncio.get_event_loop()
        loop.call_soon_threadsafe(loop.call_later, self._engine.settings.drain, self._stop_accepting)

    def _stop_accepting(self) -> None:
        for server in self.servers:
            server.close()
        asyncio.get_running_loop().call_later(_LAST_WORDS, setattr, self, "should_exit", True)

    def _reload(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload_all())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload_all(self) -> None:
        for name in list(self._engine.lanes):
            try:
                await reload(self._engine, name)
            except AtpatchError as error:
                _logger.warning("%s was not reloaded: %s", name, error)


def _allow_many_files() -> None:
    """A connection is a file; the usual soft limit of 1024 is soon reached by slow clients."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
