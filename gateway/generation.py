"""The one path that every request takes.

::

    1 admit    is there a place?                                 -> Unavailable
    2 submit   the engine takes each choice, or refuses it       -> a real 4xx/5xx
    3 begin    each prompt's row is handed to the recorder, not awaited
    4 next     Delta after Delta, read into what the client may see; the first before any byte leaves
    5 settle   once, always: how it ended, exact text and counts; returns when the rows are committed

A client that leaves, a deadline that passes, and a gateway that ends abort the request in the engine; the
engine then gives what it had generated as a last Delta, so the counts stay exact and no task is torn down
in the middle.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from starlette.types import Receive

from adapters.chat_format import Answer, Piece, Reader
from engine.base import Engine, EngineError, GenerationRequest, RequestRefused, Usage
from gateway import metrics
from gateway.choice import Choice
from gateway.errors import DeadlineExceeded, GatewayError, GenerationError, Unavailable, from_engine
from persistence.recorder import MessageRow, Recorder

log = logging.getLogger("gateway.generation")

AbortReason = Literal["cancelled", "shutdown", "timeout", "error"]

# How long an aborted request's last Delta is waited for.
ABORT_SECONDS = 5.0

# So many choices are submitted before other requests get their turn.
SUBMITTED_PER_TURN = 16


@dataclass(frozen=True, slots=True)
class Query:
    """One prompt on its way: its row, and the engine's request for each of its choices.

    ``field_names``: what the client calls fields that the engine knows by another name.
    """

    row: MessageRow
    requests: Sequence[GenerationRequest]
    new_reader: Callable[[], Reader]
    field_names: Mapping[str, str] = field(default_factory=dict)


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
        self, queries: Sequence[Query], receive: Receive, deadline_seconds: float | None = None
    ) -> Generation:
        """A request's way through, as an async context manager. ``receive`` is the ASGI channel on
        which a client's leaving is noticed; the body must have been read from it. After
        ``deadline_seconds`` it is ended."""
        return Generation(self, queries, receive, deadline_seconds)

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
    """One request on its way: its prompts' choices, in their order, told apart by their index.

    After ``settle`` its ``status`` is completed, cancelled, timeout, error or shutdown.
    """

    def __init__(
        self,
        generations: Generations,
        queries: Sequence[Query],
        receive: Receive,
        deadline_seconds: float | None,
    ) -> None:
        self._generations = generations
        self._receive = receive
        self._deadline_seconds = deadline_seconds
        self._arrived = time.perf_counter()
        self._prompts = [
            (query, [Choice(request, query.new_reader()) for request in query.requests]) for query in queries
        ]
        self.choices = [choice for _, choices in self._prompts for choice in choices]
        self._only = self.choices[0] if len(self.choices) == 1 else None
        self._next_of: dict[asyncio.Task[Piece], int] = {}
        # The watch for the client, and the aborts that a timer or a client caused.
        self._tasks: set[asyncio.Task[None]] = set()
        self._deadline: asyncio.TimerHandle | None = None
        self._begun: list[MessageRow] = []
        self._abort_reason: AbortReason | None = None
        self._settled = False
        self.ttft_seconds: float | None = None
        self.status = "running"

    @property
    def ended(self) -> bool:
        """Whether ``next`` has given the last there is."""
        if self._only is not None:
            return self._only.ended
        return all(choice.ended for choice in self.choices)

    @property
    def finished(self) -> bool:
        """Whether every choice has come to its own end."""
        return all(choice.finished for choice in self.choices)

    @property
    def answers(self) -> list[Answer]:
        """The choices; valid when all are ``finished``."""
        return [choice.answer for choice in self.choices]

    @property
    def queue_seconds(self) -> float | None:
        """How long the request waited for the engine, as far as the engine has told."""
        known = [choice.queue_seconds for choice in self.choices if choice.queue_seconds is not None]
        return max(known, default=None)

    @property
    def usage(self) -> Usage:
        """The engine's counts so far; a prompt counts once, however many choices answer it."""
        usage = Usage()
        for query, choices in self._prompts:
            # An engine that broke never told; the prompt is known all the same.
            prompt_tokens = max(choice.prompt_tokens for choice in choices)
            usage.prompt_tokens += prompt_tokens or len(query.requests[0].prompt_token_ids)
            usage.completion_tokens += sum(choice.completion_tokens for choice in choices)
            usage.cached_tokens += choices[0].cached_tokens
        return usage

    @property
    def failure(self) -> GatewayError | None:
        """After ``settle``: what to tell a client who has not been given the whole answer."""
        match self.status:
            case "shutdown":
                return Unavailable("The gateway is shutting down.", code="shutting_down")
            case "timeout":
                return DeadlineExceeded(f"The answer took longer than {self._deadline_seconds:g} seconds.")
            case "error":
                return GenerationError("The engine failed on this request.")
            case _:
                return None

    async def __aenter__(self) -> Self:
        """Admit and submit. Raises GatewayError; a request of which the engine took nothing has left no
        row then."""
        self._generations.admit(self)
        metrics.RUNNING.inc()
        try:
            await self._submit()
        except BaseException as error:
            await self._leave(error)
            if isinstance(error, EngineError):
                raise from_engine(error) from error
            raise
        self._start(self._watch_client())
        if self._deadline_seconds is not None:
            left = self._deadline_seconds - (time.perf_counter() - self._arrived)
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(left, lambda: self._start(self.abort("timeout")))
        return self

    async def _submit(self) -> None:
        submitted = 0
        for query, choices in self._prompts:
            for choice in choices:
                try:
                    await choice.submit(self._generations.engine)
                except RequestRefused as error:
                    error.param = query.field_names.get(error.param or "", error.param)
                    raise
                if choice is choices[0]:
                    self._generations.recorder.begin(query.row)
                    self._begun.append(query.row)
                submitted += 1
                if submitted % SUBMITTED_PER_TURN == 0:
                    await asyncio.sleep(0)
                if self._abort_reason is not None:
                    # It was to end while it was being submitted.
                    await choice.abort()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave(error)

    async def _leave(self, error: BaseException | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        for task in self._tasks:
            task.cancel()
        try:
            if self._begun and not self._settled:
                await asyncio.shield(self._end_early(error))
        finally:
            metrics.RUNNING.dec()
            self._generations.leave(self)

    async def next(self) -> Sequence[tuple[int, Piece]]:
        """What the engine's next Deltas add to the choices. Raises GatewayError."""
        pieces: Sequence[tuple[int, Piece]]
        if self._only is not None:
            pieces = ((0, await self._only.next()),)
        else:
            pieces = await self._next_of_many()
        if self.ttft_seconds is None:
            self.ttft_seconds = time.perf_counter() - self._arrived
            metrics.TTFT.observe(self.ttft_seconds)
        return pieces

    async def _next_of_many(self) -> list[tuple[int, Piece]]:
        waited_for = set(self._next_of.values())
        for index, choice in enumerate(self.choices):
            if not choice.ended and index not in waited_for:
                self._next_of[asyncio.create_task(choice.next())] = index
        done, _ = await asyncio.wait(self._next_of, return_when=asyncio.FIRST_COMPLETED)
        ready = sorted(((self._next_of.pop(task), task) for task in done), key=lambda pair: pair[0])
        for failure in [task.exception() for _, task in ready]:
            if failure is not None:
                raise failure
        return [(index, task.result()) for index, task in ready]

    async def abort(self, reason: AbortReason) -> None:
        """End the request in the engine; ``next`` still gives what was generated so far."""
        if self._abort_reason is None and not self.ended:
            self._abort_reason = reason
            for choice in self.choices:
                await choice.abort()

    async def settle(self, error: BaseException | None = None) -> None:
        """Close the rows with how the request ended; returns when they are committed.

        Called by whoever sends the answer, before its last byte; a second call does nothing.
        """
        if self._settled:
            return
        self._settled = True
        for query, choices in self._prompts:
            if query.row in self._begun:
                self._fill(query, choices, error)
        completed = all(row.status == "completed" for row in self._begun)
        self.status = "completed" if completed else self._abort_reason or "error"
        with metrics.COMMIT_WAIT.time():
            committed = await self._close()
        if not committed:
            log.warning("row %s is not committed yet; its answer ends without it", self._begun[0].id.hex)

    async def _close(self) -> bool:
        recorder, seconds = self._generations.recorder, self._generations.commit_wait_seconds
        if len(self._begun) == 1:
            return await recorder.close(self._begun[0], seconds)
        return all(await asyncio.gather(*(recorder.close(row, seconds) for row in self._begun)))

    def _fill(self, query: Query, choices: Sequence[Choice], error: BaseException | None) -> None:
        row, first = query.row, choices[0]
        finished = error is None and all(choice.finished for choice in choices)
        row.status = "completed" if finished else self._abort_reason or "error"
        row.finish_reason = first.end_reason if finished else row.status
        row.response = first.text
        if calls := first.tool_calls:
            row.meta_data["tool_calls"] = [{"name": one.name, "arguments": one.arguments} for one in calls]
        if len(choices) > 1:
            row.meta_data["choices"] = [told(choice, row.status) for choice in choices]
        row.prompt_tokens = first.prompt_tokens or len(query.requests[0].prompt_token_ids)
        row.completion_tokens = sum(choice.completion_tokens for choice in choices)
        row.cached_tokens = first.cached_tokens
        if first.queue_seconds is not None:
            row.meta_data["queue_ms"] = round(first.queue_seconds * 1000, 3)
        if row.status == "error":
            # The client is told less than the operator.
            cause = (error.__cause__ or error) if error is not None else "The engine ended the request."
            row.error = str(cause)
            log.error("request %s failed: %s", row.request_id, row.error)
        row.ttft_ms = self.ttft_seconds * 1000 if self.ttft_seconds is not None else None
        row.duration_ms = (time.perf_counter() - self._arrived) * 1000
        metrics.REQUESTS.labels(row.endpoint, row.status).inc()
        metrics.PROMPT_TOKENS.inc(row.prompt_tokens)
        metrics.COMPLETION_TOKENS.inc(row.completion_tokens)
        metrics.CACHED_TOKENS.inc(row.cached_tokens)

    async def _end_early(self, error: BaseException | None) -> None:
        """Whoever was answering has stopped before the end: take what the engine had, settle."""
        if not self.ended:
            reason: AbortReason = "cancelled" if error is None else "error"
            self._abort_reason = self._abort_reason or (
                "shutdown" if isinstance(error, asyncio.CancelledError) else reason
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ABORT_SECONDS):
                    # What breaks now is told no one: the request has failed already.
                    rest = map(self._rest_of, range(len(self.choices)))
                    await asyncio.gather(*rest, return_exceptions=True)
        await self.settle(error if isinstance(error, Exception) else None)

    async def _rest_of(self, index: int) -> None:
        choice = self.choices[index]
        await choice.abort()
        for task in [task for task, of in self._next_of.items() if of == index]:
            await task
        while choice.submitted and not choice.ended:
            await choice.next()

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch_client(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        await self.abort("cancelled")


def told(choice: Choice, status: str) -> dict[str, Any]:
    """One of several choices, for the row's meta_data; ``status`` is the row's."""
    fields: dict[str, Any] = {
        "response": choice.text,
        "finish_reason": choice.end_reason or status,
        "completion_tokens": choice.completion_tokens,
    }
    if calls := choice.tool_calls:
        fields["tool_calls"] = [{"name": call.name, "arguments": call.arguments} for call in calls]
    return fields
