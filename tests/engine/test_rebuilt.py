"""An engine that dies comes back, and nothing of the dead one is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base import DeltaStream, Engine, EngineDead, EngineError, GenerationRequest
from engine.rebuilt import Pauses, RebuiltEngine
from tests.engine.mortal import GONE, Life, Lives
from tests.strategies import echo_request

LOOK_SECONDS = 0.001


class Clock:
    """Stands still but for the sleeps, which take no time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps: list[float] = []
        self.may_wake = asyncio.Event()
        self.may_wake.set()

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        await self.may_wake.wait()
        self.now += seconds


class Kept:
    """A RebuiltEngine over Lives."""

    def __init__(self, **options: Any) -> None:
        self.lives = Lives()
        self.clock = Clock()
        self.attempts: list[float | None] = []
        self.engine = RebuiltEngine(
            self.lives.new,
            self.lives.end_processes,
            attempted=self.attempts.append,
            look_seconds=LOOK_SECONDS,
            sleep=self.clock.sleep,
            clock=lambda: self.clock.now,
            **options,
        )

    @property
    def life(self) -> Life:
        """The last that was made."""
        return self.lives.made[-1]

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not true():
                await asyncio.sleep(0)

    async def until_back(self) -> None:
        """Until the last attempt was a good one, and nothing is dead."""
        await self.until(lambda: self.engine.up and not self.life.dead.is_set())


@asynccontextmanager
async def kept(**options: Any) -> AsyncIterator[Kept]:
    """Started, and ended afterwards; then nothing lives."""
    all_of_it = Kept(**options)
    try:
        await all_of_it.engine.start()
        yield all_of_it
    finally:
        await all_of_it.engine.shutdown()
        assert all_of_it.lives.living == []
        with pytest.raises(EngineDead):
            await all_of_it.engine.check()


async def echo(engine: Engine, text: str = "hi") -> str:
    stream = await engine.submit(echo_request(text))
    deltas = [await stream.next()]
    while deltas[-1].finish_reason is None:
        deltas.append(await stream.next())
    return "".join(delta.text for delta in deltas)


async def test_an_engine_that_dies_idle_is_missed_and_comes_back() -> None:
    async with kept() as it:
        card = it.engine.card
        it.life.die()
        await it.until_back()
        assert await echo(it.engine) == "hi"
        assert len(it.lives.made) == 2
        assert it.engine.card.name == card.name
        assert it.attempts == [0.0]
        assert it.clock.sleeps == []


async def test_a_request_that_finds_it_dead_says_so_at_once_and_the_card_stays() -> None:
    async with kept() as it:
        it.lives.may_start.clear()
        it.life.die()
        with pytest.raises(EngineDead, match=GONE):
            await it.engine.submit(echo_request("hi"))
        assert not it.engine.up
        await it.until(lambda: len(it.lives.made) == 2)
        with pytest.raises(EngineDead, match="is being built anew: attempt 1"):
            await it.engine.check()
        with pytest.raises(EngineDead):
            await it.engine.submit(echo_request("hi"))
        assert it.engine.card.name == "simulated"
        assert it.engine.tokenizer is None
        it.lives.may_start.set()
        await it.until_back()
        await it.engine.check()


async def test_a_stream_of_the_dead_one_ends_and_does_not_come_back_with_the_next() -> None:
    async with kept() as it:
        stream = await it.engine.submit(echo_request("hello"))
        assert (await stream.next()).text == "h"
        it.life.die()
        await it.until_back()
        with pytest.raises(EngineDead):
            await stream.next()
        assert await echo(it.engine) == "hi"


async def test_attempts_go_on_with_growing_pauses_and_each_failure_is_said() -> None:
    async with kept(pauses=Pauses(1.0, 5.0)) as it:
        it.lives.failures += [EngineError("no memory")] * 5
        it.life.die()
        await it.until_back()
        assert it.clock.sleeps == [1.0, 2.0, 4.0, 5.0, 5.0]
        assert it.attempts == [None] * 5 + [17.0]
        assert await echo(it.engine) == "hi"


async def test_between_two_attempts_it_says_why_the_last_one_failed() -> None:
    async with kept() as it:
        it.clock.may_wake.clear()
        it.lives.failures.append(EngineError("no memory"))
        it.life.die()
        await it.until(lambda: it.clock.sleeps)
        with pytest.raises(EngineDead, match=r"Attempt 1 .* failed \(no memory\); .* within 1 s"):
            await it.engine.check()
        assert it.lives.living == []
        it.clock.may_wake.set()
        await it.until_back()


async def test_what_dies_again_soon_is_given_a_pause_and_what_has_lived_is_not() -> None:
    async with kept(pauses=Pauses(1.0, 60.0)) as it:
        it.life.die()
        await it.until_back()
        it.life.die()
        await it.until_back()
        assert it.clock.sleeps == [1.0]
        it.clock.now += 60.0
        it.life.die()
        await it.until_back()
        assert it.clock.sleeps == [1.0]


async def test_a_new_engine_that_answers_wrongly_is_not_trusted() -> None:
    asked: list[Engine] = []

    async def prove(engine: Engine) -> None:
        asked.append(engine)
        assert await echo(engine) == "hi"
        if len(asked) == 1:
            raise EngineError("wrong text")

    async with kept(prove=prove) as it:
        it.life.die()
        await it.until_back()
        # The first one is its caller's to ask.
        assert asked == it.lives.made[1:]
        assert it.attempts == [None, 1.0]


async def test_one_that_dies_while_it_is_proven_is_only_a_failed_attempt() -> None:
    async def prove(engine: Engine) -> None:
        if len(it.lives.made) == 2:
            it.life.die()
        await engine.check()

    async with kept(prove=prove) as it:
        it.life.die()
        await it.until_back()
        assert it.attempts == [None, 1.0]


async def test_without_restarts_it_stays_dead_and_is_cleared_away() -> None:
    async with kept(restarts=False) as it:
        it.life.die()
        await it.until(lambda: not it.lives.living)
        with pytest.raises(EngineDead, match=GONE):
            await it.engine.check()
        assert len(it.lives.made) == 1


async def test_a_first_start_that_fails_is_the_callers_to_tell() -> None:
    it = Kept()
    it.lives.failures.append(EngineError("no such model"))
    with pytest.raises(EngineError, match="no such model"):
        await it.engine.start()
    await it.engine.shutdown()
    assert len(it.lives.made) == 1
    assert it.lives.living == []


async def test_the_end_ends_an_engine_that_is_being_built() -> None:
    async with kept() as it:
        it.lives.may_start.clear()
        it.lives.starting.clear()
        it.life.die()
        await it.lives.starting.wait()
    assert len(it.lives.made) == 2


async def test_the_end_does_not_wait_for_a_pause() -> None:
    async with kept() as it:
        it.clock.may_wake.clear()
        it.lives.failures.append(EngineError("no memory"))
        it.life.die()
        await it.until(lambda: it.clock.sleeps)
    assert len(it.lives.made) == 2


async def test_whoever_learns_late_of_a_death_does_not_bring_down_the_next_life() -> None:
    late = asyncio.Event()

    class Late(Life):
        async def submit(self, request: GenerationRequest) -> DeltaStream:  # type: ignore[override]
            await late.wait()
            raise EngineDead(GONE)

    async with kept() as it:
        it.life.__class__ = Late
        submission = asyncio.create_task(it.engine.submit(echo_request("hi")))
        await asyncio.sleep(0)
        it.life.die()
        await it.until_back()
        late.set()
        with pytest.raises(EngineDead):
            await submission
        assert it.engine.up
        assert await echo(it.engine) == "hi"


ACTS: dict[str, Callable[[Kept], Awaitable[object] | None]] = {
    "dies": lambda it: it.life.die(),
    "next start fails": lambda it: it.lives.failures.append(EngineError("no memory")),
    "a start hangs": lambda it: it.lives.may_start.clear(),
    "starts go on": lambda it: it.lives.may_start.set(),
    "time passes": lambda it: asyncio.sleep(2 * LOOK_SECONDS),
    "asked": lambda it: asyncio.gather(echo(it.engine), return_exceptions=True),
    "checked": lambda it: asyncio.gather(it.engine.check(), return_exceptions=True),
}


@given(st.lists(st.sampled_from(sorted(ACTS)), max_size=12), st.booleans())
async def test_whatever_happens_one_lives_at_a_time_and_at_last_one_does(acts: list[str], ends: bool) -> None:
    async with kept() as it:
        for act in acts:
            if (waiting := ACTS[act](it)) is not None:
                await waiting
        if not ends:
            it.lives.may_start.set()
            it.lives.failures.clear()
            await it.until_back()
            assert await echo(it.engine) == "hi"
