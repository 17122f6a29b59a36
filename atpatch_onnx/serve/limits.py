"""What a client may ask for, and how a refusal looks.

A refusal is an HTTP status and one line of JSON, never a traceback.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from .memory import Trimmer

__all__ = ["Buffer", "Gate", "Limits", "Refusal", "decompress"]

T = TypeVar("T")

RETRY_AFTER = 1
_LARGE = 2**16
"""Requests of at least this many bytes are parsed in a thread."""
# The rest of the body is not worth reading.
_CLOSE = {"Connection": "close"}
_COME_BACK = {"Retry-After": str(RETRY_AFTER), **_CLOSE}


class Refusal(Exception):
    """An answer with an error status; `code` names what programs may act on, "" for all else."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None, code: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.message = message
        self.headers = {"Retry-After": str(RETRY_AFTER)} if status == 503 and headers is None else headers or {}


@dataclass(frozen=True)
class Limits:
    """Bounds on requests.

    Attributes:
        head: bytes of a request's line and headers together.
        headers: lines of headers.
        body: bytes of a request's body, compressed or not.
        json: bytes of its JSON part, or of texts, which are read one by one; large tensors are sent raw.
        batch: samples in a request.
        sequence: size of any other dynamic axis.
        in_flight: requests that are computed or wait for it.
        buffered: bytes of all bodies in memory; above this, the request that has been sending for longest is ended.
        body_seconds: time that a client has to send its body.
        head_seconds: time that a client has to send its headers, or to take an answer.
        answer_seconds: time that the original has for an answer.
        non_finite: whether inputs may hold NaN and infinity.
    """

    head: int = 64 * 2**10
    headers: int = 100
    body: int = 32 * 2**20
    json: int = 8 * 2**20
    batch: int = 64
    sequence: int = 2048
    in_flight: int = 64
    buffered: int = 256 * 2**20
    body_seconds: float = 30.0
    head_seconds: float = 30.0
    answer_seconds: float = 30.0
    non_finite: bool = False


class Gate:
    """Counts the requests in progress, and refuses what would be too much."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.in_flight = 0
        self.buffered = 0
        # Requests whose body is being sent, oldest first: an honest client is done soon, so it is never the one to end.
        self._sending: dict[Buffer, asyncio.Timeout] = {}
        self._reader = ThreadPoolExecutor(1, "reader")
        self._memory = Trimmer()

    @contextmanager
    def compute(self) -> Iterator[None]:
        """A request being computed.

        Raises:
            Refusal: 503 with Retry-After where there are too many.
        """
        if self.in_flight >= self.limits.in_flight:
            raise Refusal(503, f"{self.in_flight} requests are in progress already")
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def aside(self, size: int, work: Callable[[], T]) -> T:
        """Do slow work of large requests in a thread, one at a time, so that other requests do not wait for it."""
        if size < _LARGE:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._reader, work)

    def make_room(self, buffer: Buffer) -> None:
        """End the request that has been sending for longest. Raises: Refusal 503 where no other is sending."""
        oldest = next(iter(self._sending), buffer)
        if oldest is buffer:
            raise Refusal(503, "too many large requests are being sent at once", _COME_BACK)
        self._sending.pop(oldest).reschedule(0)

    @asynccontextmanager
    async def sending(self, buffer: Buffer, seconds: float | None) -> AsyncIterator[None]:
        """A context that lasts while a body is sent.

        Raises:
            Refusal: 408 after `seconds`, 503 where another request needed the memory.
        """
        try:
            async with asyncio.timeout(seconds) as limit:
                self._sending[buffer] = limit
                yield
        except TimeoutError:
            if buffer in self._sending:
                raise Refusal(408, f"the request did not come within {seconds:g} s", _CLOSE) from None
            raise Refusal(
                503, "other requests need the memory that this one takes while it is being sent", _COME_BACK
            ) from None
        finally:
            self._sending.pop(buffer, None)

    @contextmanager
    def buffer(self) -> Iterator[Buffer]:
        """Counts the memory of one body."""
        held = Buffer(self)
        try:
            yield held
        finally:
            self.buffered -= held.size
            if held.was_large:
                self._memory.soon()


class Buffer:
    """The bytes of one body, counted with those of all bodies."""

    def __init__(self, gate: Gate) -> None:
        self.size = 0
        self._gate = gate
        self._largest = 0

    @property
    def was_large(self) -> bool:
        return self._largest > _LARGE

    def hold(self, size: int) -> None:
        """Set the bytes to count. Raises: Refusal 503 where all bodies together would take too much memory."""
        self._gate.buffered += size - self.size
        self.size = size
        self._largest = max(self._largest, size)
        if self._gate.buffered > self._gate.limits.buffered:
            self._gate.make_room(self)

    async def read(self, chunks: AsyncIterator[bytes], declared: int | None, most: int) -> bytes:
        """Read a whole body.

        Args:
            chunks: as they come.
            declared: Content-Length.
            most: bytes that it may have.

        Raises:
            Refusal: 413 beyond the limit, 503 where all bodies together would take too much memory.
        """
        if declared is not None and declared > most:
            raise Refusal(413, f"the body has {declared} bytes, {most} are allowed", _CLOSE)
        parts = []
        async with self._gate.sending(self, None):  # the connection has a time limit of its own
            async for chunk in chunks:
                self.hold(self.size + len(chunk))
                if self.size > most:
                    raise Refusal(413, f"the body has more than {most} bytes", _CLOSE)
                parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """A body sent with Content-Encoding gzip or deflate.

    Raises:
        Refusal: 415 for other encodings, 400 for bytes that do not decode, 413 where it grows past the limit.
    """
    bits = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}.get(encoding)
    if bits is None:
        raise Refusal(415, f"Content-Encoding {encoding!r} is not supported; use gzip or deflate")
    inflater = zlib.decompressobj(bits)
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise Refusal(400, f"the body is not {encoding}: {error}") from error
    if len(plain) > limit:
        raise Refusal(413, f"the body has more than {limit} bytes once decompressed")
    if not inflater.eof or inflater.unused_data:
        raise Refusal(400, f"the {encoding} body is cut off, or more bytes follow it")
    return plain
