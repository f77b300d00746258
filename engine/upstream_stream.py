"""One request to an upstream server: asked, asked again, read, aborted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, TypeVar

import httpx

from engine.base import (
    Delta,
    EngineDead,
    EngineError,
    GenerationFailed,
)
from engine.circuit_breaker import CircuitBreaker
from engine.event_stream import EventReader
from engine.upstream_answer import AnswerReader
from engine.upstream_failures import Failure, connection_failure, status_failure

if TYPE_CHECKING:
    from engine.upstream import Upstream

log = logging.getLogger("engine.upstream")

MOST_EVENT_BYTES = 4 * 1024**2
MOST_ANSWER_BYTES = 64 * 1024**2
MOST_ERROR_BYTES = 64 * 1024

# After its finish_reason an answer lacks nothing but its usage.
AFTER_END_SECONDS = 5.0
# After [DONE] only the connection's reuse is at stake.
AFTER_DONE_SECONDS = 1.0
CLOSE_SECONDS = 1.0

FIRST_PAUSE_SECONDS = 0.25
MOST_PAUSE_SECONDS = 5.0

Value = TypeVar("Value")


class _Aborted(Exception):
    """The request was to end while something was waited for."""


class _TooSlow(Exception):
    """Something took longer than it may."""


class UpstreamStream:
    """A DeltaStream. ``streams``: the answer is asked for as it comes, else in one piece."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        request: httpx.Request,
        upstream: Upstream,
        breaker: CircuitBreaker,
        streams: bool,
        parallel_tool_calls: bool,
    ) -> None:
        self._client = client
        self._request = request
        self._upstream = upstream
        self._breaker = breaker
        # What the circuit breaker knows the request by.
        self._number: int | None = None
        self._streams = streams
        self._answer = AnswerReader(parallel_tool_calls)
        self._events = EventReader(MOST_EVENT_BYTES)
        self._response: httpx.Response | None = None
        self._pieces: AsyncIterator[bytes] | None = None
        self._bytes = 0
        self._body: list[bytes] = []
        self._failure: EngineError | None = None
        self._waiting: asyncio.Timeout | None = None
        self._aborted = False
        self._ended = False

    async def next(self) -> Delta:
        """What the server told since the last time. Raises EngineError, as ``engine.upstream`` says."""
        try:
            if self._failure is not None:
                raise self._failure
            if self._aborted:
                raise _Aborted
            if self._pieces is None:
                await self._open()
            return await self._next_piece()
        except _Aborted:
            await self._end()
            return self._answer.take("abort")
        except BaseException:
            await self._end()
            raise

    async def abort(self) -> None:
        """Close the connection; ``next`` gives what had come."""
        if self._ended:
            return
        self._aborted = True
        if self._waiting is None:
            await self._end()
        elif not self._waiting.expired():
            self._waiting.reschedule(asyncio.get_running_loop().time())

    async def _open(self) -> None:
        """Ask, again where that may help, until the answer begins. Raises EngineError."""
        self._number = self._breaker.begin()
        if self._number is None:
            raise EngineDead(f"The upstream '{self._upstream.name}' has failed.")
        attempt = 0
        while (failure := await self._asked()) is not None:
            log.warning("upstream %s: %s", self._upstream.name, failure.log_line)
            pause = failure.pause_seconds
            if pause is None:
                pause = FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1.0)  # noqa: S311
            if not failure.may_pass or pause > MOST_PAUSE_SECONDS or attempt == self._upstream.retries:
                if failure.is_upstreams:
                    self._breaker.failed(self._number)
                elif failure.answered:
                    self._breaker.answers(self._number)
                raise failure.error from failure.cause
            attempt += 1
            await self._within(None, asyncio.sleep(pause))

    async def _asked(self) -> Failure | None:
        """Ask once. What went wrong, None where an answer begins."""
        upstream = self._upstream
        seconds = upstream.first_byte_seconds if self._streams else upstream.whole_seconds
        try:
            response = await self._within(seconds, self._client.send(self._request, stream=True))
        except _TooSlow:
            return Failure(EngineDead("The upstream does not answer."), f"no answer within {seconds:g} s")
        except httpx.HTTPError as error:
            return connection_failure(error, upstream)
        self._response = response
        if response.status_code == 200 and (why := self._unreadable(response)) is None:
            self._pieces = response.aiter_raw()
            return None
        try:
            if response.status_code == 200:
                return Failure(GenerationFailed("The upstream's answer can't be read."), why or "")
            body = await self._error_body(response)
            return status_failure(response, body, upstream, self._request.url.path)
        finally:
            await self._close()

    def _unreadable(self, response: httpx.Response) -> str | None:
        """What is wrong with an answer's headers."""
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        wanted = "text/event-stream" if self._streams else "application/json"
        if kind != wanted:
            return f"its answer is {kind[:100]!r}, not {wanted}"
        if (encoding := response.headers.get("content-encoding", "identity")) != "identity":
            return f"its answer is encoded as {encoding[:100]!r}, which was not asked for"
        return None

    async def _error_body(self, response: httpx.Response) -> bytes:
        """As much as there is of it, and is needed."""
        body = b""
        with contextlib.suppress(httpx.HTTPError, _TooSlow):
            pieces = response.aiter_raw()
            while len(body) < MOST_ERROR_BYTES:
                piece = await self._within(self._upstream.between_seconds, anext(pieces, b""))
                if not piece:
                    break
                body += piece
        return body[:MOST_ERROR_BYTES]

    async def _next_piece(self) -> Delta:
        """Read until there is something to tell, or the end. Raises EngineError."""
        assert self._number is not None
        try:
            while await self._read_more():
                if self._answer.has_news and self._answer.finish_reason is None:
                    self._breaker.answers(self._number)
                    return self._answer.take()
            if self._answer.finish_reason is None:
                raise GenerationFailed("The upstream's answer ended before its end.")
        except EngineError as error:
            self._breaker.failed(self._number)
            log.warning("upstream %s: %s", self._upstream.name, error)
            if not self._answer.has_news:
                raise
            # What came before is told before.
            self._failure = error
            return self._answer.take()
        await self._read_rest()
        self._breaker.succeeded(self._number)
        await self._end()
        return self._answer.take(self._answer.finish_reason)

    async def _read_more(self) -> bool:
        """Read what comes next; whether more may come. Raises EngineError."""
        try:
            piece = await self._read_piece()
        except _Cut:
            if self._answer.finish_reason is None:
                raise
            return False
        if self._streams:
            for event in self._events.feed(piece) if piece else self._events.end():
                self._answer.feed_event(event)
        elif piece:
            self._body.append(piece)
        else:
            self._answer.feed_body(b"".join(self._body))
        return bool(piece) and not self._answer.done

    async def _read_piece(self) -> bytes:
        """More bytes; none at the end. Raises GenerationFailed."""
        assert self._pieces is not None
        upstream = self._upstream
        seconds = upstream.between_seconds
        if self._answer.finish_reason is not None:
            seconds = min(seconds, AFTER_END_SECONDS)
        elif self._bytes == 0 and self._streams:
            seconds = upstream.first_byte_seconds
        try:
            piece = await self._within(seconds, anext(self._pieces, b""))
        except _TooSlow as error:
            raise _Cut(f"Nothing more came from the upstream within {seconds:g} s.") from error
        except httpx.HTTPError as error:
            raise _Cut("The connection to the upstream broke.") from error
        self._bytes += len(piece)
        if self._bytes > MOST_ANSWER_BYTES:
            raise GenerationFailed(f"The upstream's answer is longer than {MOST_ANSWER_BYTES} bytes.")
        return piece

    async def _read_rest(self) -> None:
        """So that the connection can be used again."""
        assert self._pieces is not None
        with contextlib.suppress(httpx.HTTPError, _TooSlow):
            while await self._within(AFTER_DONE_SECONDS, anext(self._pieces, b"")):
                pass

    async def _within(self, seconds: float | None, step: Awaitable[Value]) -> Value:
        """Wait for ``step``. Raises _TooSlow, and _Aborted."""
        try:
            async with asyncio.timeout(seconds) as self._waiting:
                return await step
        except TimeoutError as error:
            raise (_Aborted if self._aborted else _TooSlow) from error
        finally:
            self._waiting = None

    async def _end(self) -> None:
        self._ended = True
        if self._number is not None:
            # Does nothing where it has been told how the request ended.
            self._breaker.released(self._number)
        await self._close()

    async def _close(self) -> None:
        if self._response is not None:
            with contextlib.suppress(httpx.HTTPError, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._response.aclose()


class _Cut(GenerationFailed):
    """The connection gives nothing more; the answer may have come whole before."""


async def read_body(
    client: httpx.AsyncClient, request: httpx.Request, most_bytes: int, seconds: float
) -> tuple[int, bytes]:
    """The status and the body of a small answer. Raises httpx.HTTPError, TimeoutError, GenerationFailed."""
    async with asyncio.timeout(seconds):
        response = await client.send(request, stream=True)
        try:
            body = b""
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > most_bytes:
                    raise GenerationFailed(f"The answer is longer than {most_bytes} bytes.")
            return response.status_code, body
        finally:
            await response.aclose()
