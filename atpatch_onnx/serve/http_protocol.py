"""uvicorn's HTTP protocol with limits for every route, checked before the application sees a request.

1. Request line and headers: `Limits.head` bytes and `Limits.headers` lines, else 431. httptools itself has no limit.
2. The headers must come within `head_seconds` of the connection, or of the last answer; else the connection is closed.
3. A body must come within `body_seconds` of its headers, whether it is read or not; else the answer is 408, unless one
   was sent already, and the connection is closed.
4. The client must take an answer within `head_seconds`; else the connection is closed.
5. At most `_MOST_PIPELINED` requests wait while one is answered; more close the connection.
6. Bytes that are not HTTP get a 400. Other protocols (websockets) are not offered.
7. An answer that is sent before the whole request has come ends the connection in two steps, since most clients send
   all of a body before they read, and closing at once would destroy the answer on its way: first the server's side is
   closed, and what still comes is thrown away, until the client closes or sends nothing for `_LINGER` seconds, or
   `body_seconds` are over, or twice as many bytes have come as a body may have.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .limits import Limits

__all__ = ["bounded_protocol"]

_MOST_PIPELINED = 16
_LINGER = 2.0


def bounded_protocol(limits: Limits, refused: Callable[[int], None]) -> type[HttpToolsProtocol]:
    """The protocol class for `uvicorn.Config(http=…)`; `refused` gets the status of each answer sent here."""
    return type("_Protocol", (_Bounded,), {"limits": limits, "refused": staticmethod(refused)})


class _Transport:
    """A transport that `close` ends in two steps where `lingers` says so; a second call ends it at once."""

    def __init__(self, transport: asyncio.Transport, lingers: Callable[[], bool]) -> None:
        self._transport, self._lingers = transport, lingers
        self._ending = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._ending or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing() or not self._transport.can_write_eof() or not self._lingers():
            self._transport.close()
            return
        self._ending = True
        self._transport.write_eof()
        self._transport.resume_reading()


class _Bounded(HttpToolsProtocol):
    limits: Limits
    refused: Callable[[int], None]

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._deadline: asyncio.TimerHandle | None = None
        self._in_body = False
        self._head_bytes = self._head_lines = 0
        # Bytes since the last byte of a body or the end of a message: httptools may be keeping them for a header or a
        # trailer.
        self._loose = 0
        self._rejected = False
        self._latest_end, self._unwanted = 0.0, 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Transport(transport, self._linger))  # type: ignore[arg-type]
        self._wait(self.limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            if self._latest_end:
                self._unwanted += len(data)
                left = 0.0 if self._unwanted > 2 * self.limits.body else self._latest_end - self.loop.time()
                self._wait(min(_LINGER, left))
            return
        self._unset_keepalive_if_required()
        self._loose += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self.cycle is not None:
                # answered as if no upgrade had been asked for; the parser accepts no more bytes
                self.cycle.keep_alive = False
        except httptools.HttpParserError:
            if self._head_too_large():
                self._refuse(
                    431,
                    f"a request may have {self.limits.headers} headers and {self.limits.head} bytes before its body",
                )
            else:
                self._refuse(400, "this is not HTTP")
            return
        if self._loose > self.limits.head:
            self._refuse(431, f"a request may have {self.limits.head} bytes before its body")

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= _MOST_PIPELINED:
            raise ValueError("too many requests wait")  # httptools makes an HttpParserError of it
        self._head_bytes = self._head_lines = 0
        if self._deadline is None:
            self._wait(self.limits.head_seconds)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_lines += 1
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._in_body = True
        self._wait(self.limits.body_seconds)

    def on_body(self, body: bytes) -> None:
        self._loose = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._loose = 0
        self._in_body = False
        self._wait(self.limits.head_seconds if self.cycle.response_complete else None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._in_body and self.cycle.response_complete:  # not if a pipelined request is answered next
            self._wait(self.limits.head_seconds)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_too_large():
            raise ValueError("the head is too large")

    def _head_too_large(self) -> bool:
        return self._head_bytes > self.limits.head or self._head_lines > self.limits.headers

    def _wait(self, seconds: float | None) -> None:
        """Set the connection's only deadline; None: no deadline."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            self.transport.abort()  # the client does not take the last answer
        elif self._in_body:
            self._refuse(408, f"the body did not come within {self.limits.body_seconds:g} s")
        else:
            self._close()

    def _refuse(self, status: int, message: str) -> None:
        """Send an answer if it is this request's turn and it has none yet; always close the connection."""
        cycle = self.cycle
        idle = cycle is None or cycle.response_complete
        if (idle and not self._in_body) or (
            not idle and self._in_body and not cycle.response_started and not self.pipeline
        ):
            content = json.dumps({"error": message}).encode()
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(content)
            self.transport.write(STATUS_LINE[status] + head + content)
            self.refused(status)
            self._rejected = True
        self._close()

    def _close(self) -> None:
        for cycle in (self.cycle, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self._wait(self.limits.head_seconds)
        self.transport.close()

    def _linger(self) -> bool:
        """Whether the client may still be sending what is not wanted; sets the deadline for it."""
        if not (self._in_body or self._rejected):
            return False
        self._latest_end = self.loop.time() + self.limits.body_seconds
        self._wait(_LINGER)
        return True
