"""Who answers when the engine can't, for every way in which each of them may fail."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base import (
    Delta,
    DeltaStream,
    EngineDead,
    EngineError,
    EngineOverloaded,
    GenerationFailed,
    GenerationRequest,
    Instead,
    RequestRefused,
    Sampling,
    StructuredOutput,
)
from engine.ladder import Ladder, Rung
from engine.notice import NoticeEngine
from engine.simulated import SimulatedEngine
from tests.engine.mortal import MortalEngine
from tests.strategies import echo_request

TEXT = "abc"
ERRORS = (RequestRefused, EngineOverloaded, GenerationFailed, EngineDead)
REASONS = {EngineDead: "engine_dead", GenerationFailed: "engine_failed", EngineOverloaded: "overloaded"}

When = Literal["check", "submit", "next", "never"]


@dataclass
class Plan:
    """``fails`` at a point, in ``next`` after so many Deltas."""

    when: When
    error: type[EngineError] = EngineDead
    after: int = 0


class Planned(SimulatedEngine):
    """Fails as planned; each has a text of its own, which its answers begin with."""

    def __init__(self, plan: Plan, name: str = "") -> None:
        super().__init__()
        self._plan, self._name = plan, name
        self.started = self.ended = False
        self.asked = 0

    def fail(self, when: When) -> None:
        if self._plan.when == when:
            raise self._plan.error(f"{self._name} {when}")

    async def start(self) -> None:
        self.started = True

    async def check(self) -> None:
        self.fail("check")

    async def submit(self, request: GenerationRequest) -> DeltaStream:  # type: ignore[override]
        self.asked += 1
        self.fail("submit")
        return PlannedStream(self, await super().submit(request), self._plan.after)

    async def shutdown(self) -> None:
        self.ended = True


@dataclass
class PlannedStream:
    engine: Planned
    stream: DeltaStream
    left: int

    async def next(self) -> Delta:
        if self.left == 0:
            self.engine.fail("next")
        self.left -= 1
        return await self.stream.next()

    async def abort(self) -> None:
        await self.stream.abort()


@dataclass
class Outcome:
    """All that came of a request, and who had been asked."""

    deltas: list[Delta] = field(default_factory=list)
    error: EngineError | None = None

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def instead(self) -> Instead | None:
        assert all(delta.instead is None for delta in self.deltas[1:])
        return self.deltas[0].instead if self.deltas else None


async def outcome(ladder: Ladder, request: GenerationRequest | None = None) -> Outcome:
    found = Outcome()
    try:
        stream = await ladder.submit(request or echo_request(TEXT))
        while not found.deltas or found.deltas[-1].finish_reason is None:
            found.deltas.append(await stream.next())
    except EngineError as error:
        found.error = error
    return found


def ladder_of(main: Plan, *fallbacks: Plan, on_overload: bool = False) -> tuple[Ladder, list[Planned]]:
    rungs = [Rung(f"f{number}", Planned(plan, f"f{number}")) for number, plan in enumerate(fallbacks)]
    first = Planned(main, "main")
    return Ladder(first, rungs, on_overload), [first, *(rung.engine for rung in rungs)]  # type: ignore[list-item]


errors = st.sampled_from(ERRORS)
plans = (
    st.just(Plan("never"))
    | st.builds(Plan, st.just("check"), st.sampled_from([EngineDead]))
    | st.builds(Plan, st.just("submit"), errors)
    | st.builds(Plan, st.just("next"), errors, st.integers(0, 2))
)


def expected(main: Plan, fallbacks: list[Plan], on_overload: bool) -> tuple[str, str | None, str | None]:
    """Text, who answered, and whose error it ended with."""
    told = {"never": len(TEXT), "check": len(TEXT), "submit": 0, "next": main.after}[main.when]
    if told:
        return TEXT[:told], None, "main" if main.when == "next" else None
    if main.error not in REASONS or (main.error is EngineOverloaded and not on_overload):
        return "", None, "main"
    for number, plan in enumerate(fallbacks):
        if plan.when == "never":
            return TEXT, f"f{number}", None
        if plan.when == "next" and plan.after:
            return TEXT[: plan.after], f"f{number}", f"f{number}"
    return "", None, "main"


@given(plans, st.lists(plans, max_size=4), st.booleans())
async def test_each_answers_in_its_turn_and_nobody_after_a_first_token(
    main: Plan, fallbacks: list[Plan], on_overload: bool
) -> None:
    ladder, engines = ladder_of(main, *fallbacks, on_overload=on_overload)
    text, by, failed = expected(main, fallbacks, on_overload)
    found = await outcome(ladder)
    assert found.text == text
    if by is None:
        assert found.instead is None
    else:
        assert found.instead == Instead(by, REASONS[main.error])  # type: ignore[arg-type]
    assert (found.error is None) == (failed is None)
    if failed is not None:
        assert str(found.error).startswith(failed)
    assert max(engine.asked for engine in engines) == 1


@given(st.sampled_from([Plan("never"), Plan("check")]), st.lists(plans, max_size=3))
async def test_it_takes_requests_as_long_as_one_of_them_does(main: Plan, fallbacks: list[Plan]) -> None:
    ladder, _ = ladder_of(main, *fallbacks)
    well = [plan.when != "check" for plan in (main, *fallbacks)]
    if any(well):
        await ladder.check()
    else:
        with pytest.raises(EngineDead, match="main check"):
            await ladder.check()
    problems = await ladder.problems()
    assert len(problems) == well.count(False)
    assert [problem.split(":")[0] for problem in problems if problem.startswith("f")] == [
        f"f{number}" for number, is_well in enumerate(well[1:]) if not is_well
    ]


async def test_where_only_a_notice_is_left_it_does_not_count_as_well() -> None:
    ladder = Ladder(Planned(Plan("submit")), [Rung("notice", NoticeEngine("Later."), stands_in=False)])
    assert (await outcome(ladder)).text == "Later."
    dead = Ladder(Planned(Plan("check")), [Rung("notice", NoticeEngine("Later."), stands_in=False)])
    with pytest.raises(EngineDead):
        await dead.check()


@pytest.mark.parametrize(
    ("sampling", "refused"),
    [
        (Sampling(8), False),
        (Sampling(8, structured=StructuredOutput("json_object")), True),
        (Sampling(8, logprobs=0), True),
        (Sampling(8, prompt_logprobs=0), True),
    ],
)
async def test_a_notice_is_no_answer_to_what_needs_a_form(sampling: Sampling, refused: bool) -> None:
    ladder = Ladder(Planned(Plan("submit"), "main"), [Rung("notice", NoticeEngine("Later."))])
    found = await outcome(ladder, echo_request("hi", sampling=sampling))
    if refused:
        assert str(found.error) == "main submit"
    else:
        (delta,) = found.deltas
        assert (delta.text, list(delta.token_ids), delta.finish_reason) == ("Later.", [], "stop")
        assert delta.instead == Instead("notice", "engine_dead")


async def test_what_finds_no_place_goes_past_the_engine_where_that_is_wanted() -> None:
    ladder, (main, fallback) = ladder_of(Plan("never"), Plan("never"), on_overload=True)
    assert ladder.overflow is not None
    found = await outcome(ladder.overflow)
    assert (found.text, found.instead) == (TEXT, Instead("f0", "overloaded"))
    assert (main.asked, fallback.asked) == (0, 1)
    assert ladder_of(Plan("never"), Plan("never"))[0].overflow is None


async def test_what_a_dead_engine_had_not_told_is_counted_where_another_answers() -> None:
    class Untold(SimulatedEngine):
        async def submit(self, request: GenerationRequest) -> Any:
            raise EngineDead("gone", Delta("xy", [1, 2]))

    ladder = Ladder(Untold(), [Rung("f", Planned(Plan("never")))])
    assert (await outcome(ladder)).text == TEXT
    assert ladder.untold_tokens == 2
    alone = Ladder(Untold(), [Rung("f", Planned(Plan("next")))])
    found = await outcome(alone)
    assert isinstance(found.error, EngineDead)
    assert found.error.untold == Delta("xy", [1, 2])
    assert alone.untold_tokens == 0


class Stuck(SimulatedEngine):
    """Takes a request and does not come back."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.cancelled = False

    async def submit(self, request: GenerationRequest) -> Any:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def test_an_abort_during_the_switch_ends_it_there() -> None:
    main, stuck, last = MortalEngine(ttft_ms=3_600_000), Stuck(), Planned(Plan("never"))
    stream = await Ladder(main, [Rung("stuck", stuck), Rung("last", last)]).submit(echo_request(TEXT))
    waiting = asyncio.create_task(stream.next())
    main.die()
    await stuck.asked.wait()
    await stream.abort()
    async with asyncio.timeout(30):
        delta = await waiting
    assert (delta.text, delta.finish_reason, delta.instead) == ("", "abort", None)
    assert (stuck.cancelled, last.asked) == (True, 0)


async def test_a_cancelled_reader_leaves_nothing_running_and_may_still_abort() -> None:
    stuck = Stuck()
    stream = await Ladder(Planned(Plan("submit")), [Rung("stuck", stuck)]).submit(echo_request(TEXT))
    waiting = asyncio.create_task(stream.next())
    await stuck.asked.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert stuck.cancelled
    await stream.abort()
    assert (await stream.next()).finish_reason == "abort"


async def test_an_aborted_request_whose_engine_dies_asks_nobody_else() -> None:
    main, fallback = MortalEngine(ttft_ms=3_600_000), Planned(Plan("never"))
    stream = await Ladder(main, [Rung("f", fallback)]).submit(echo_request(TEXT))
    main.die()
    await stream.abort()
    with pytest.raises(EngineDead):
        await stream.next()
    assert fallback.asked == 0


async def test_an_abort_of_a_fallbacks_answer_gives_what_it_had() -> None:
    fallback = SimulatedEngine(tokens_per_second=0.001)
    stream = await Ladder(Planned(Plan("submit")), [Rung("f", fallback)]).submit(echo_request(TEXT))
    first = await stream.next()
    assert (first.text, first.instead) == ("a", Instead("f", "engine_dead"))
    await stream.abort()
    assert (await stream.next()).finish_reason == "abort"


async def test_a_fallback_that_does_not_start_or_end_keeps_no_other_from_it() -> None:
    class Broken(Planned):
        async def start(self) -> None:
            raise EngineError("away")

        async def shutdown(self) -> None:
            raise ZeroDivisionError

    main, fallback = Planned(Plan("never")), Planned(Plan("never"))
    ladder = Ladder(main, [Rung("broken", Broken(Plan("never"))), Rung("f", fallback)])
    await ladder.start()
    assert main.started
    assert fallback.started
    with pytest.raises(ZeroDivisionError):
        await ladder.shutdown()
    assert main.ended
    assert fallback.ended


async def test_after_the_first_token_nothing_stands_between_the_engine_and_its_reader() -> None:
    main = SimulatedEngine()
    stream = await Ladder(main, []).submit(echo_request(TEXT))
    await stream.next()
    assert type(stream.next.__self__).__name__ == "SimulatedStream"  # type: ignore[attr-defined]
