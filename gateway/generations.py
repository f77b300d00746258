"""All requests that run: who is let in, and how they end when the gateway does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.types import Receive

from engine.base import Engine
from gateway import metrics
from gateway.access.caller import ANONYMOUS, Caller
from gateway.admission.queue import Admission, AllAtOnce
from gateway.errors import Unavailable
from gateway.generation import ABORT_SECONDS, Generation
from gateway.limits.limiter import Limiter, Unlimited
from gateway.prompt_answer import Query
from persistence.recorder import Recorder

if TYPE_CHECKING:
    from gateway.tracing.generation_trace import GenerationTrace

log = logging.getLogger("gateway.generation")

# How often a drain says what it waits for.
SAY_SECONDS = 5.0


class Generations:
    """All requests that run, and whether more may come.

    ``commit_wait_seconds`` bounds how long an answer's end waits for its row. ``overflow`` takes the requests
    that ``admission`` finds no place for, where there is one.
    """

    def __init__(
        self,
        engine: Engine,
        recorder: Recorder,
        commit_wait_seconds: float,
        limiter: Limiter | None = None,
        admission: Admission | None = None,
        overflow: Engine | None = None,
    ) -> None:
        self.engine = engine
        self.overflow = overflow
        self.recorder = recorder
        self.commit_wait_seconds = commit_wait_seconds
        self.limiter: Limiter = limiter or Unlimited()
        self.admission: Admission = admission or AllAtOnce()
        # Soon nobody is let in any more; and, later, nobody is.
        self.leaving = False
        self.draining = False
        self._running: set[Generation] = set()
        self._none_running = asyncio.Event()
        self._none_running.set()
        self._hurried = asyncio.Event()

    def __len__(self) -> int:
        return len(self._running)

    def open(
        self,
        queries: Sequence[Query],
        receive: Receive,
        deadline_seconds: float | None = None,
        caller: Caller = ANONYMOUS,
        trace: GenerationTrace | None = None,
    ) -> Generation:
        """A request's way through, as an async context manager. ``receive`` is the ASGI channel on
        which a client's leaving is noticed; the body must have been read from it. After
        ``deadline_seconds`` it is ended. ``trace`` is told of it."""
        return Generation(self, queries, receive, deadline_seconds, caller, trace)

    def admit(self, generation: Generation) -> None:
        """Raises Unavailable."""
        if self.draining:
            metrics.REFUSED.labels("draining").inc()
            raise Unavailable("The gateway is shutting down.", code="shutting_down")
        if (reason := self.recorder.refusing) is not None:
            metrics.REFUSED.labels("rows").inc()
            raise Unavailable(reason, code="database_unavailable")
        self._running.add(generation)
        self._none_running.clear()

    def leave(self, generation: Generation) -> None:
        """A request has ended."""
        self._running.discard(generation)
        if not self._running:
            self._none_running.set()

    async def give_notice(self, seconds: float) -> None:
        """Go on for so long, or until ``hurry``, with all that watch the gateway's health sent away."""
        self.leaving = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurried.wait()

    async def drain(self, deadline_seconds: float) -> None:
        """Admit nothing more and wait for what runs; after the deadline, or ``hurry``, abort it."""
        self.leaving = self.draining = True
        none_running = asyncio.ensure_future(self._none_running.wait())
        hurried = asyncio.ensure_future(self._hurried.wait())
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_seconds
        while self._running and not self._hurried.is_set() and (left := deadline - loop.time()) > 0:
            log.info("waiting for %d requests, at most %.0f s more", len(self._running), left)
            await asyncio.wait(
                {none_running, hurried},
                timeout=min(left, SAY_SECONDS),
                return_when=asyncio.FIRST_COMPLETED,
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
        """Let a running ``give_notice`` or ``drain`` wait no longer."""
        self._hurried.set()
