"""The one path that every request takes.

::

    1 admit    is there a place?                                 -> Unavailable
    2 submit   the engine takes the prompt, or refuses it        -> a real 4xx/5xx
    3 begin    the row is handed to the recorder, not awaited
    4 next     Delta after Delta, read into what the client may see; the first before any byte leaves
    5 settle   once, always: how it ended, exact text and counts; returns when the row is committed

A client that leaves, and a gateway that ends, abort the request in the engine; the engine then gives
what it had generated as a last Delta, so the counts stay exact and no task is torn down in the middle.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from types import TracebackType
from typing import Literal, Self

from starlette.types import Receive

from adapters.chat_format import Answer, ContentLogprob, EndReason, Piece, Reader
from engine.base import Delta, DeltaStream, Engine, EngineError, GenerationRequest, ToolCall, Usage
from gateway import metrics
from gateway.errors import GatewayError, GenerationError, Unavailable, from_engine
from persistence.recorder import MessageRow, Recorder

log = logging.getLogger("gateway.generation")

AbortReason = Literal["cancelled", "shutdown", "error"]

# How long an aborted request's last Delta is waited for.
ABORT_SECONDS = 5.0


class Generations:
    """All requests that run, and whether more may come.

    ``commit_wait_seconds`` bounds how long an answer's end waits for its row.
    """

    def __init__(self, engine: Engine, recorder: Recorder, commit_wait_seconds: float) -> None:
        self.engine = engine
        self.recorder = recorder
        self.commit_wait_seconds = commit_wait_seconds
        self.draining = False
        self._running: set[Generation] = set()
        self._none_running = asyncio.Event()
        self._none_running.set()
        self._hurried = asyncio.Event()

    def __len__(self) -> int:
        return len(self._running)

    def open(
        self, request: GenerationRequest, reader: Reader, row: MessageRow, receive: Receive
    ) -> Generation:
        """A request's way through, as an async context manager. ``receive`` is the ASGI channel on
        which a client's leaving is noticed; the body must have been read from it."""
        return Generation(self, request, reader, row, receive)

    def admit(self, generation: Generation) -> None:
        """Raises Unavailable."""
        if self.draining:
            metrics.REFUSED.labels("draining").inc()
            raise Unavailable("The gateway is shutting down.", code="shutting_down")
        if self.recorder.full:
            metrics.REFUSED.labels("rows").inc()
            raise Unavailable("Too many rows wait for the database.", code="database_unavailable")
        self._running.add(generation)
        self._none_running.clear()

    def leave(self, generation: Generation) -> None:
        """A request has ended."""
        self._running.discard(generation)
        if not self._running:
            self._none_running.set()

    async def drain(self, deadline_seconds: float) -> None:
        """Admit nothing more and wait for what runs; after the deadline, or ``hurry``, abort it."""
        self.draining = True
        if self._running:
            log.info("waiting for %d requests, at most %.0f s", len(self._running), deadline_seconds)
        none_running = asyncio.ensure_future(self._none_running.wait())
        hurried = asyncio.ensure_future(self._hurried.wait())
        await asyncio.wait(
            {none_running, hurried}, timeout=deadline_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        none_running.cancel()
        hurried.cancel()
        if self._running:
            log.warning("ending %d requests that are still running", len(self._running))
            await asyncio.gather(*(generation.abort("shutdown") for generation in list(self._running)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ABORT_SECONDS + self.commit_wait_seconds):
                await self._none_running.wait()

    def hurry(self) -> None:
        """Let a running ``drain`` wait no longer for requests."""
        self._hurried.set()


class Generation:
    """One request on its way.

    ``finished`` is set when the answer has come to its end by itself; ``answer`` may be asked for then.
    After ``settle`` its ``status`` is completed, cancelled, error or shutdown, and ``usage`` is the
    engine's count.
    """

    def __init__(
        self,
        generations: Generations,
        request: GenerationRequest,
        reader: Reader,
        row: MessageRow,
        receive: Receive,
    ) -> None:
        self._generations = generations
        self._request = request
        self._reader = reader
        self._row = row
        self._receive = receive
        self._arrived = time.perf_counter()
        self._stream: DeltaStream | None = None
        self._watch: asyncio.Task[None] | None = None
        self._texts: list[str] = []
        self._logprobs: list[ContentLogprob] = []
        self._calls: list[tuple[str, list[str]]] = []
        self._last: Delta | None = None
        self._end_reason: EndReason | None = None
        self._abort_reason: AbortReason | None = None
        self._settled = False
        self.usage = Usage()
        self.status = "running"

    @property
    def ended(self) -> bool:
        """Whether ``next`` has given the last there is."""
        return self._last is not None

    @property
    def finished(self) -> bool:
        """Whether the answer has come to its own end: it was neither aborted nor broken."""
        return self._end_reason is not None

    @property
    def answer(self) -> Answer:
        """The whole answer; valid when it is ``finished``."""
        assert self._end_reason is not None
        return Answer("".join(self._texts), self._end_reason, self.tool_calls, self._logprobs)

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The calls so far."""
        return [ToolCall(name, "".join(arguments)) for name, arguments in self._calls]

    @property
    def failure(self) -> GatewayError | None:
        """After ``settle``: what to tell a client who has not been given the whole answer."""
        match self.status:
            case "shutdown":
                return Unavailable("The gateway is shutting down.", code="shutting_down")
            case "error":
                return GenerationError("The engine failed on this request.")
            case _:
                return None

    async def __aenter__(self) -> Self:
        """Admit and submit. Raises GatewayError; the request has left no row then."""
        self._generations.admit(self)
        try:
            self._stream = await self._generations.engine.submit(self._request)
        except EngineError as error:
            self._generations.leave(self)
            raise from_engine(error) from error
        except BaseException:
            self._generations.leave(self)
            raise
        metrics.RUNNING.inc()
        self._generations.recorder.begin(self._row)
        if self._abort_reason is not None:
            # It was to end while it was being submitted.
            await self._abort_in_engine(self._stream)
        self._watch = asyncio.create_task(self._watch_client())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._watch is not None
        self._watch.cancel()
        try:
            if not self._settled:
                await asyncio.shield(self._end_early(error))
        finally:
            metrics.RUNNING.dec()
            self._generations.leave(self)

    async def next(self) -> Piece:
        """What the engine's next Delta adds to the answer. Raises GatewayError."""
        delta = await self._next_delta()
        if self._row.ttft_ms is None:
            seconds = time.perf_counter() - self._arrived
            self._row.ttft_ms = seconds * 1000
            metrics.TTFT.observe(seconds)
        piece = self._reader.read(delta)
        self._keep(piece)
        if delta.finish_reason in ("stop", "length"):
            self._end_reason = self._reader.end_reason(delta.finish_reason)
        elif piece.ended and delta.finish_reason is None:
            await self._end_in_engine()
        return piece

    async def _next_delta(self) -> Delta:
        assert self._stream is not None
        try:
            delta = await self._stream.next()
        except EngineError as error:
            raise from_engine(error) from error
        self.usage.completion_tokens += len(delta.token_ids)
        if delta.finish_reason is not None:
            self._last = delta
            self.usage.prompt_tokens = delta.prompt_tokens
            self.usage.cached_tokens = delta.cached_tokens
        return delta

    def _keep(self, piece: Piece) -> None:
        if piece.text:
            self._texts.append(piece.text)
        if piece.logprobs:
            self._logprobs += piece.logprobs
        for call in piece.tool_calls:
            if call.name is not None:
                self._calls.append((call.name, []))
            self._calls[call.index][1].append(call.arguments)

    async def _end_in_engine(self) -> None:
        """The answer is whole: end the request, and count what was generated beyond it."""
        assert self._stream is not None
        if self._abort_reason is None:
            self._end_reason = self._reader.end_reason("stop")
        await self._abort_in_engine(self._stream)
        while self._last is None:
            await self._next_delta()

    async def abort(self, reason: AbortReason) -> None:
        """End the request in the engine; ``next`` still gives what was generated so far."""
        if self._last is None and self._abort_reason is None:
            self._abort_reason = reason
            if self._stream is not None:
                await self._abort_in_engine(self._stream)

    async def _abort_in_engine(self, stream: DeltaStream) -> None:
        # An engine that can't be told any more fails the request by itself.
        with contextlib.suppress(EngineError):
            await stream.abort()

    async def settle(self, error: BaseException | None = None) -> None:
        """Close the row with how the request ended; returns when it is committed.

        Called by whoever sends the answer, before its last byte; a second call does nothing.
        """
        if self._settled:
            return
        self._settled = True
        finished = error is None and self.finished
        self.status = "completed" if finished else self._abort_reason or "error"
        row, usage = self._row, self.usage
        row.status = self.status
        row.finish_reason = self._end_reason if finished else self.status
        row.response = "".join(self._texts)
        if self._calls:
            row.meta_data["tool_calls"] = [
                {"name": call.name, "arguments": call.arguments} for call in self.tool_calls
            ]
        # An engine that broke never told; the prompt is known all the same.
        row.prompt_tokens = usage.prompt_tokens or len(self._request.prompt_token_ids)
        row.completion_tokens, row.cached_tokens = usage.completion_tokens, usage.cached_tokens
        if self._last is not None and self._last.queue_seconds is not None:
            row.meta_data["queue_ms"] = round(self._last.queue_seconds * 1000, 3)
        if self.status == "error":
            # The client is told less than the operator.
            cause = (error.__cause__ or error) if error is not None else "The engine ended the request."
            row.error = str(cause)
            log.error("request %s failed: %s", row.request_id, row.error)
        row.duration_ms = (time.perf_counter() - self._arrived) * 1000
        metrics.REQUESTS.labels(row.endpoint, self.status).inc()
        metrics.PROMPT_TOKENS.inc(row.prompt_tokens)
        metrics.COMPLETION_TOKENS.inc(row.completion_tokens)
        metrics.CACHED_TOKENS.inc(row.cached_tokens)
        with metrics.COMMIT_WAIT.time():
            committed = await self._generations.recorder.close(row, self._generations.commit_wait_seconds)
        if not committed:
            log.warning("row %s is not committed yet; its answer ends without it", row.id.hex)

    async def _end_early(self, error: BaseException | None) -> None:
        """Whoever was answering has stopped before the end: take what the engine had, settle."""
        if self._last is None and not isinstance(error, GatewayError):
            reason: AbortReason = "cancelled" if error is None else "error"
            await self.abort("shutdown" if isinstance(error, asyncio.CancelledError) else reason)
            with contextlib.suppress(TimeoutError, GatewayError):
                async with asyncio.timeout(ABORT_SECONDS):
                    while self._last is None:
                        await self.next()
        await self.settle(error if isinstance(error, Exception) else None)

    async def _watch_client(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        await self.abort("cancelled")
