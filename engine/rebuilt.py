"""An engine that is built anew where it stands when it has died.

One engine lives at a time: the dead one has given back its processes and their memory before the next is
started, which a GPU has no room for otherwise. Attempts go on for as long as the gateway does, with pauses
that grow; each failure is said.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from engine.base import DeltaStream, Engine, EngineDead, GenerationRequest, ModelCard, Tokenizer, ToolParser

log = logging.getLogger("gateway.engine")

# How often an engine that nobody asks is looked at.
LOOK_SECONDS = 0.5
# What a new engine's self-check may take.
PROVE_SECONDS = 120.0
# How long a half-built engine may take to end.
END_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long to wait before an attempt, in seconds: not at all before the first one, then ``first``, then
    twice as long each time, up to ``longest``. An engine that has lived for ``longest`` begins anew."""

    first: float = 1.0
    longest: float = 60.0

    def before(self, attempt: int) -> float:
        """``attempt`` counts from 0."""
        # 2**64 seconds are enough for any ``longest``, and a float still.
        return min(self.first * 2.0 ** min(attempt - 1, 64), self.longest) if attempt else 0.0


class RebuiltEngine:
    """The Engine that ``new`` makes, and after its death the next one.

    ``new`` gives an engine that is not started; it may block. ``end_processes`` ends what is left of a
    dead or half-built one below this process; it may block too. ``prove`` asks a new engine something
    before it is trusted with requests, and raises where the answer is wrong; the first one is the caller's
    to ask. With ``restarts`` off a dead engine stays dead. ``attempted`` is told of each attempt: the
    seconds from the death until requests were taken again, None where it failed.

    ``card`` and ``tokenizer`` stay valid while no engine lives; ``up`` says whether one does.
    """

    def __init__(
        self,
        new: Callable[[], Engine],
        end_processes: Callable[[], object],
        pauses: Pauses = Pauses(),
        *,
        prove: Callable[[Engine], Awaitable[None]] | None = None,
        restarts: bool = True,
        attempted: Callable[[float | None], object] = lambda seconds: None,
        look_seconds: float = LOOK_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._new = new
        self._end_processes = end_processes
        self._pauses = pauses
        self._prove = prove
        self._restarts = restarts
        self._attempted = attempted
        self._look_seconds = look_seconds
        self._sleep = sleep
        self._clock = clock
        # The one that lives or has died, and the one that is being started.
        self._engine: Engine | None = None
        self._building: Engine | None = None
        self._starting: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._card: ModelCard | None = None
        self._tokenizer: Tokenizer | None = None
        self._down: str | None = "The engine has not been started."
        self._died = asyncio.Event()
        self._died_at = 0.0
        self._began_at = 0.0
        self._attempts = 0

    @property
    def up(self) -> bool:
        """Whether there is an engine that takes requests, as far as is known."""
        return self._down is None

    @property
    def card(self) -> ModelCard:
        """Of the engine that lives, or lived last; valid after ``start``."""
        if self._card is None:
            raise EngineDead("The engine has not been started.")
        return self._card

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The first engine's: all have the same, and it outlives its engine."""
        return self._tokenizer

    async def start(self) -> None:
        """Start the first engine; what then fails is the caller's to tell. Raises EngineError."""
        engine = self._engine = await asyncio.to_thread(self._new)
        await engine.start()
        self._tokenizer = engine.tokenizer
        self._serve(engine)
        self._keeper = asyncio.create_task(self._keep(), name="engine keeper")

    async def submit(self, request: GenerationRequest) -> DeltaStream:
        """Raises EngineDead while no engine lives, else as the engine does."""
        engine = self._living()
        try:
            return await engine.submit(request)
        except EngineDead as error:
            self._note_death(engine, error)
            raise

    async def check(self) -> None:
        """Raises EngineDead while no engine lives, and says what is done about it."""
        engine = self._living()
        try:
            await engine.check()
        except EngineDead as error:
            self._note_death(engine, error)
            raise

    def tool_parser(self, name: str) -> ToolParser:
        """Raises EngineError."""
        return self._living().tool_parser(name)

    async def shutdown(self) -> None:
        """End the engine that lives, and one that is being started."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        self._down = "The engine has been shut down."
        await self._end_start()
        for engine in (self._building, self._engine):
            if engine is not None:
                await engine.shutdown()

    def _living(self) -> Engine:
        if self._down is not None or self._engine is None:
            raise EngineDead(self._down or "The engine has not been started.")
        return self._engine

    def _note_death(self, engine: Engine, error: EngineDead) -> None:
        # A request may learn late of the death of one that has been replaced.
        if engine is self._engine and self._down is None:
            log.error("the engine has died: %s", error)
            self._down = str(error)
            self._died_at = self._clock()
            self._died.set()

    def _serve(self, engine: Engine) -> None:
        self._engine, self._card, self._down = engine, engine.card, None
        self._began_at = self._clock()
        self._died.clear()

    async def _keep(self) -> None:
        """Look after the engine for as long as it is wanted."""
        while True:
            await self._until_dead()
            if not self._restarts:
                await self._end(self._engine)
                return
            if self._died_at - self._began_at >= self._pauses.longest:
                self._attempts = 0
            await self._rebuild()

    async def _until_dead(self) -> None:
        while not self._died.is_set():
            with contextlib.suppress(EngineDead):
                await self.check()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._look_seconds):
                    await self._died.wait()

    async def _rebuild(self) -> None:
        died_at, death = self._died_at, self._down
        await self._end(self._engine)
        while True:
            pause = self._pauses.before(self._attempts)
            self._attempts += 1
            if pause:
                log.warning("attempt %d to build the engine anew in %.1f s", self._attempts, pause)
                await self._sleep(pause)
            self._down = f"{death} It is being built anew: attempt {self._attempts}."
            try:
                engine = await self._build()
            except Exception as error:
                why = str(error) or type(error).__name__
                log.error("attempt %d to build the engine anew failed: %s", self._attempts, why)
                self._attempted(None)
                await self._end(self._building)
                self._building = None
                next_pause = self._pauses.before(self._attempts)
                self._down = (
                    f"{death} Attempt {self._attempts} to build it anew failed ({why}); "
                    f"the next comes within {next_pause:.0f} s."
                )
                continue
            self._serve(engine)
            seconds = self._clock() - died_at
            log.warning("the engine is back after %.1f s, with attempt %d", seconds, self._attempts)
            self._attempted(seconds)
            return

    async def _build(self) -> Engine:
        """A new engine that takes requests. Raises whatever kept it from that."""
        engine = self._building = await asyncio.to_thread(self._new)
        # Not cancelled with the keeper: what it has started would go on behind our back.
        self._starting = asyncio.create_task(engine.start())
        await asyncio.shield(self._starting)
        if self._prove is not None:
            async with asyncio.timeout(PROVE_SECONDS):
                await self._prove(engine)
        await engine.check()
        self._building = None
        return engine

    async def _end(self, engine: Engine | None) -> None:
        """Shut a dead or failed engine down, whatever state it is in; then nothing of it is left."""
        try:
            if engine is not None:
                await engine.shutdown()
            await asyncio.to_thread(self._end_processes)
        except Exception:
            log.exception("a dead engine could not be shut down")

    async def _end_start(self) -> None:
        """End what a running start has started, which makes it fail, and wait for its failure."""
        if self._starting is None:
            return
        deadline = self._clock() + END_SECONDS
        while not self._starting.done() and self._clock() < deadline:
            await asyncio.to_thread(self._end_processes)
            await asyncio.wait({self._starting}, timeout=0.2)
        self._starting.cancel()
        await asyncio.wait({self._starting})
        if not self._starting.cancelled() and (error := self._starting.exception()) is not None:
            log.info("a half-built engine was ended: %s", error)
