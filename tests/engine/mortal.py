"""Engines that can be made to die, and a look at how many of them live."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from engine.base import Delta, DeltaStream, EngineDead, EngineError, GenerationRequest
from engine.simulated import SimulatedEngine, SimulatedStream

GONE = "The engine's processes have ended."


class MortalEngine(SimulatedEngine):
    """Echoes until ``die``; then every stream and every call says so."""

    def __init__(self, ttft_ms: float = 0.0, tokens_per_second: float | None = None) -> None:
        super().__init__(ttft_ms, tokens_per_second)
        self.dead = asyncio.Event()
        self.submitted = 0

    def die(self) -> None:
        self.dead.set()

    async def submit(self, request: GenerationRequest) -> DeltaStream:  # type: ignore[override]
        self._raise_if_dead()
        self.submitted += 1
        return MortalStream(await super().submit(request), self.dead)

    async def check(self) -> None:
        self._raise_if_dead()

    def _raise_if_dead(self) -> None:
        if self.dead.is_set():
            raise EngineDead(GONE)


@dataclass
class MortalStream:
    """A stream that ends with its engine."""

    stream: SimulatedStream
    dead: asyncio.Event

    async def next(self) -> Delta:
        next_delta = asyncio.ensure_future(self.stream.next())
        dead = asyncio.ensure_future(self.dead.wait())
        await asyncio.wait({next_delta, dead}, return_when=asyncio.FIRST_COMPLETED)
        if dead.done():
            next_delta.cancel()
            raise EngineDead(GONE)
        dead.cancel()
        return next_delta.result()

    async def abort(self) -> None:
        await self.stream.abort()


class Life(MortalEngine):
    """One of those that ``Lives`` makes."""

    def __init__(self, lives: Lives) -> None:
        super().__init__()
        self._lives = lives

    async def start(self) -> None:
        assert not self._lives.living, "two engines at a time"
        self._lives.living.append(self)
        self._lives.starting.set()
        await self._lives.may_start.wait()
        if self._lives.failures:
            raise self._lives.failures.pop(0)
        if self.dead.is_set():
            raise EngineError("killed while it was starting")

    async def shutdown(self) -> None:
        self.die()
        if self in self._lives.living:
            self._lives.living.remove(self)


class Lives:
    """Makes engines; no two of them live at a time. Starts fail with ``failures``, one each, and wait for
    ``may_start``."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.made: list[Life] = []
        self.living: list[Life] = []
        self.failures: list[Exception] = []
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.starting = asyncio.Event()

    def new(self) -> Life:
        self.made.append(Life(self))
        return self.made[-1]

    def end_processes(self) -> None:
        """As ending an engine's processes does: it dies, and a start of it fails. Is called in a thread."""
        for life in list(self.living):
            self._loop.call_soon_threadsafe(self._kill, life)

    def _kill(self, life: Life) -> None:
        life.die()
        self.may_start.set()
