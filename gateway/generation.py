"""The one path that every request takes.

::

    1 admit    does the caller have it left? wait for a place    -> 429, 503
    2 submit   the engine takes each choice, or refuses it       -> a real 4xx/5xx
    3 begin    each prompt's row is handed to the recorder, not awaited
    4 next     Delta after Delta, read into what the client may see; the first before any byte leaves
    5 settle   once, always: how it ended, exact text and counts; returns when the rows are committed

A client that leaves, a deadline that passes, and a gateway that ends abort the request in the engine; the
engine then gives what it had generated as a last Delta, so the counts stay exact and no task is torn down
in the middle. Who waits for a place then waits no more, and has no row.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from adapters.chat_format import Answer, Piece
from engine.base import Engine, EngineError, EngineOverloaded, Usage
from gateway import metrics
from gateway.access.caller import Caller
from gateway.admission.queue import Place, Work
from gateway.errors import DeadlineExceeded, GatewayError, GenerationError, Unavailable, from_engine
from gateway.generation_stats import GenerationStats
from gateway.limits.limiter import Reservation
from gateway.prompt_answer import PromptAnswer, Query, names_of
from persistence.message_row import MessageRow

if TYPE_CHECKING:
    from gateway.generations import Generations
    from gateway.tracing.generation_trace import GenerationTrace

log = logging.getLogger("gateway.generation")

AbortReason = Literal["cancelled", "shutdown", "timeout", "error"]

# How long an aborted request's last Delta is waited for.
ABORT_SECONDS = 5.0

# So many choices are submitted before other requests get their turn.
SUBMITTED_PER_TURN = 16


class Generation:
    """One request on its way: its prompts' choices, in their order, told apart by their index.

    After ``settle`` its ``status`` is completed, cancelled, timeout, error or shutdown; unkept where it is
    complete and its row is durable nowhere, which is not an answer that may end well.
    """

    def __init__(
        self,
        generations: Generations,
        queries: Sequence[Query],
        receive: Receive,
        deadline_seconds: float | None,
        caller: Caller,
        trace: GenerationTrace | None = None,
    ) -> None:
        self._trace = trace
        self._generations = generations
        self._caller = caller
        self._receive = receive
        self._deadline_seconds = deadline_seconds
        self._arrived, self._arrived_at = time.perf_counter(), time.time()
        self._prompts = [PromptAnswer(query) for query in queries]
        self.choices = [choice for prompt in self._prompts for choice in prompt.choices]
        self._only = self.choices[0] if len(self.choices) == 1 else None
        self._next_of: dict[asyncio.Task[Piece], int] = {}
        # The watch for the client, and the aborts that a timer or a client caused.
        self._tasks: set[asyncio.Task[None]] = set()
        self._deadline: asyncio.TimerHandle | None = None
        self._abort_reason: AbortReason | None = None
        self._settled = False
        self._ending: asyncio.Task[None] | None = None
        self._reservation: Reservation | None = None
        self._place: Place | None = None
        self._has_place = False
        self._entered = False
        # While the request waits for its place.
        self._waiting: asyncio.Timeout | None = None
        self._full: Unavailable | None = None
        self.ttft_seconds: float | None = None
        self.status = "running"
        # Once the rows are closed.
        self.stats: GenerationStats | None = None

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
    def questions(self) -> list[str]:
        """What was asked last, of each prompt."""
        return [prompt.row.query for prompt in self._prompts]

    @property
    def queue_seconds(self) -> float | None:
        """How long the request waited for a place at the engine, and there, as far as the engine tells."""
        known = [choice.queue_seconds for choice in self.choices if choice.queue_seconds is not None]
        waited = self._place.waited_seconds if self._place is not None else 0.0
        return waited + max(known) if known else waited or None

    @property
    def headers(self) -> dict[str, str]:
        """What the answer's headers tell of it: how long it waited for the engine, and for its first token,
        in milliseconds, what its caller has left, and who answered in the engine's place."""
        headers = dict(self._reservation.headers) if self._reservation is not None else {}
        if instead := [one for prompt in self._prompts for one in prompt.instead]:
            headers["x-gateway-degraded"] = names_of(instead)
        if self.queue_seconds is not None:
            headers["x-gateway-queue-ms"] = f"{self.queue_seconds * 1000:.1f}"
        if self.ttft_seconds is not None:
            headers["x-gateway-ttft-ms"] = f"{self.ttft_seconds * 1000:.1f}"
        return headers

    @property
    def usage(self) -> Usage:
        """The engine's counts so far."""
        begun = [prompt for prompt in self._prompts if prompt.begun]
        return Usage(
            sum(prompt.prompt_tokens for prompt in begun),
            sum(prompt.completion_tokens for prompt in begun),
            sum(prompt.cached_tokens for prompt in begun),
            not all(prompt.counted for prompt in begun),
        )

    @property
    def _rows(self) -> list[MessageRow]:
        return [prompt.row for prompt in self._prompts if prompt.begun]

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
            case "unkept":
                return Unavailable("The answer could not be recorded.", code="not_recorded")
            case _:
                return None

    @property
    def _seconds_left(self) -> float | None:
        if self._deadline_seconds is None:
            return None
        return self._deadline_seconds - (time.perf_counter() - self._arrived)

    @property
    def _work(self) -> Work:
        requests = [request for prompt in self._prompts for request in prompt.requests]
        return Work(
            sum(prompt.requests[0].most_prompt_tokens for prompt in self._prompts),
            sum(request.sampling.max_tokens for request in requests),
            len(requests),
            self._seconds_left,
        )

    async def __aenter__(self) -> Self:
        """Admit and submit. Raises GatewayError, and ClientDisconnect where the client has left before there
        was a place; a request of which the engine took nothing has left no row then."""
        self._generations.admit(self)
        try:
            self._watch()
            await self._submit(await self._enter())
        except BaseException as error:
            await self._leave(error)
            if self._trace is not None and not self._rows:
                self._trace.failed(self._prompts, error)
            told = self._told_of(error)
            if isinstance(told, GatewayError) and told.refused_as is not None and not self._rows:
                metrics.REFUSED.labels(told.refused_as).inc()
            if told is not error:
                raise told from error
            raise
        return self

    def _told_of(self, error: BaseException) -> BaseException:
        """What is raised where ``error`` has ended the request before its first token."""
        if self._full is not None and isinstance(error, EngineOverloaded):
            # Nobody else could take it: what the queue said is true, and when to come again.
            return self._full
        return from_engine(error) if isinstance(error, EngineError) else error

    def _watch(self) -> None:
        """From now on the client's leaving and the deadline are noticed."""
        self._start(self._watch_client())
        if (left := self._seconds_left) is not None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(left, lambda: self._start(self.abort("timeout")))

    async def _enter(self) -> Engine:
        """Take what the request may use from its caller's limits, and wait for a place; gives the engine that
        the place is at."""
        try:
            async with asyncio.timeout(None) as self._waiting:
                work = self._work
                most_tokens = work.prompt_tokens + work.completion_tokens
                self._reservation = await self._generations.limiter.reserve(self._caller, most_tokens)
                engine = await self._place_at(work)
                self._entered = True
                if self._trace is not None:
                    self._trace.admitted()
                metrics.RUNNING.inc()
        except TimeoutError:
            if self._abort_reason is None:
                raise
        finally:
            self._waiting = None
        if self._abort_reason is not None:
            metrics.LEFT.labels(self._abort_reason).inc()
            self.status = self._abort_reason
            raise self.failure or ClientDisconnect
        return engine

    async def _place_at(self, work: Work) -> Engine:
        """The engine once there is a place at it, or who takes what it has no place for. Raises
        GatewayError."""
        generations = self._generations
        try:
            self._place = await generations.admission.enter(self._caller, work)
            self._has_place = True
        except Unavailable as full:
            if generations.overflow is None:
                raise
            self._full = full
            return generations.overflow
        return generations.engine

    async def _submit(self, engine: Engine) -> None:
        submitted = 0
        for prompt in self._prompts:
            for choice in prompt.choices:
                await choice.submit(engine)
                if not prompt.begun:
                    prompt.begun = True
                    self._generations.recorder.begin(prompt.row)
                submitted += 1
                if submitted % SUBMITTED_PER_TURN == 0:
                    await asyncio.sleep(0)

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
            if self._prompts[0].begun:
                await self._end(error)
        finally:
            if self._ending is None or self._ending.done():
                self._give_back()
            else:
                # Whoever waited for the end was cancelled, which is not the end.
                self._ending.add_done_callback(lambda _: self._give_back())

    def _give_back(self) -> None:
        """What the request held, and has used; it is gone then."""
        self._generations.leave(self)
        used = self.usage
        self._leave_place(used)
        if self._entered:
            metrics.RUNNING.dec()
        if self._reservation is not None:
            tokens = used.prompt_tokens + used.completion_tokens
            if used.untold:
                # Nobody knows; it was no more than was reserved.
                tokens = max(tokens, self._work.prompt_tokens + self._work.completion_tokens)
            self._reservation.settle(tokens)

    def _leave_place(self, used: Usage) -> None:
        if self._place is not None and self._has_place:
            self._has_place = False
            self._place.leave(used)

    async def next(self) -> Sequence[tuple[int, Piece]]:
        """What the engine's next Deltas add to the choices. Raises GatewayError."""
        pieces: Sequence[tuple[int, Piece]]
        if self._only is not None:
            pieces = ((0, await self._only.next()),)
        else:
            pieces = await self._next_of_many()
        if self.ttft_seconds is None and self._has_token(pieces):
            self.ttft_seconds = time.perf_counter() - self._arrived
        return pieces

    def _has_token(self, pieces: Sequence[tuple[int, Piece]]) -> bool:
        """Whether one has come: what is aborted before it ends with an empty Delta. Who tells text may count
        its tokens later, or never."""
        return any(choice.completion_tokens for choice in self.choices) or any(
            piece.text or piece.tool_calls for _, piece in pieces
        )

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
        """End the request in the engine, where ``next`` still gives what was generated so far, or its wait
        for a place."""
        if self._abort_reason is None and not self.ended:
            self._abort_reason = reason
            if self._waiting is not None:
                self._waiting.reschedule(asyncio.get_running_loop().time())
            for choice in self.choices:
                await choice.abort()

    async def settle(self, error: BaseException | None = None) -> None:
        """Close the rows with how the request ended; returns when they are durable.

        Called by whoever sends the answer, before its last byte; a second call does nothing.
        """
        if self._settled:
            return
        self._settled = True
        if self.ended:
            # Nobody waits for a place while a row is committed.
            self._leave_place(self.usage)
        ended, rows = self._abort_reason or "error", self._rows
        for prompt in self._prompts:
            if prompt.begun:
                prompt.fill_row(ended, error)
        for row in rows:
            row.ttft_ms = self.ttft_seconds * 1000 if self.ttft_seconds is not None else None
            row.duration_ms = (time.perf_counter() - self._arrived) * 1000
            if self._place is not None and self._place.waited_seconds:
                row.queue_ms = round((row.queue_ms or 0.0) + self._place.waited_seconds * 1000, 3)
        self.status = "completed" if all(row.status == "completed" for row in rows) else ended
        ended_at = time.perf_counter()
        try:
            committed = await self._close(rows)
            if not committed and self.status == "completed":
                log.error("row %s is kept nowhere yet: its answer ends as failed", rows[0].id.hex)
                self.status = "unkept"
        finally:
            self.stats = self._stats(ended_at)
            metrics.observe(self.stats)
            if self._trace is not None:
                self._trace.ended(self.stats, self._prompts)

    def _stats(self, ended_at: float) -> GenerationStats:
        first = self._rows[0]
        return GenerationStats(
            request_id=first.request_id,
            endpoint=first.endpoint,
            model=first.model,
            caller=self._caller,
            stream=bool(first.meta_data.get("stream")),
            status=self.status,
            finish_reasons=[choice.end_reason or self.status for choice in self.choices],
            usage=self.usage,
            arrived=self._arrived_at,
            queue_seconds=self._place.waited_seconds if self._place is not None else 0.0,
            ttft_seconds=self.ttft_seconds,
            seconds=ended_at - self._arrived,
            commit_seconds=time.perf_counter() - ended_at,
            row_ids=[row.id for row in self._rows],
            conversation_id=first.conversation_id,
            instead=[one for prompt in self._prompts for one in prompt.instead],
        )

    async def _close(self, rows: Sequence[MessageRow]) -> bool:
        recorder, seconds = self._generations.recorder, self._generations.commit_wait_seconds
        if len(rows) == 1:
            return await recorder.close(rows[0], seconds)
        return all(await asyncio.gather(*(recorder.close(row, seconds) for row in rows)))

    async def fail(self, error: GatewayError) -> None:
        """End what still runs in the engine and ``settle``: the client is told of ``error``."""
        await self._end(error)

    async def _end(self, error: BaseException | None) -> None:
        if self._ending is None and not self._settled:
            self._ending = asyncio.create_task(self._end_early(error))
        if self._ending is not None:
            await asyncio.shield(self._ending)

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
