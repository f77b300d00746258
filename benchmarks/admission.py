"""What the queue before the engine costs each request, in microseconds.

    python -m benchmarks.admission

Printed: the median of ROUNDS rounds (least to greatest) of a request that enters and leaves again, where
there is room, and where it waits for its turn behind others; and of one that is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import median
from uuid import UUID

import uvloop

from engine.base import Usage
from gateway.access.caller import Caller
from gateway.admission.fair_queue import FairQueue
from gateway.admission.queue import Place, Work
from gateway.errors import GatewayError

ROUNDS = 7
PLACES, WAITING = 256, 500
WORK, USED = Work(100, 200, 1, 600.0), Usage(100, 200)


def callers(number: int) -> list[Caller]:
    """So many."""
    return [Caller(user_id=UUID(int=one)) for one in range(1, number + 1)]


async def with_room(queue: FairQueue, who: list[Caller], requests: int) -> None:
    """Each enters at once, and leaves."""
    for number in range(requests):
        (await queue.enter(who[number % len(who)], WORK)).leave(USED)


async def in_turn(queue: FairQueue, who: list[Caller], requests: int) -> None:
    """All places are taken and WAITING requests wait while each enters, gets its turn, and leaves."""
    inside: list[Place] = []

    async def come(caller: Caller) -> None:
        inside.append(await queue.enter(caller, WORK))

    tasks = [asyncio.create_task(come(who[number % len(who)])) for number in range(PLACES + WAITING)]
    await asyncio.sleep(0)
    for number in range(requests):
        tasks.append(asyncio.create_task(come(who[number % len(who)])))
        inside.pop().leave(USED)
        await asyncio.sleep(0)
    while inside:
        inside.pop().leave(USED)
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)


async def refused(queue: FairQueue, who: list[Caller], requests: int) -> None:
    """All places are taken, no more may wait."""
    await with_room(queue, who, 1)
    places = [await queue.enter(who[0], WORK) for _ in range(PLACES)]
    for number in range(requests):
        try:
            await queue.enter(who[number % len(who)], WORK)
        except GatewayError:
            continue
        raise AssertionError("was let in")
    for place in places:
        place.leave(USED)


def measure(
    name: str,
    scenario: Callable[[FairQueue, list[Caller], int], Awaitable[None]],
    number_of_callers: int,
    requests: int,
    most: int = 10_000,
) -> None:
    """Print a line."""

    async def once() -> float:
        queue = FairQueue(PLACES, 0.0, most, most, 3600.0)
        who = callers(number_of_callers)
        began = time.perf_counter()
        await scenario(queue, who, requests)
        return (time.perf_counter() - began) / requests * 1e6

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = sorted(runner.run(once()) for _ in range(ROUNDS))
    spread = f"{figures[0]:.1f} to {figures[-1]:.1f}"
    print(f"{name}, {number_of_callers} callers: {median(figures):.1f} µs ({spread})")


def main() -> None:
    """All of them."""
    for number in (1, 100):
        measure("room", with_room, number, 20_000)
        measure(f"in turn, {WAITING} wait", in_turn, number, 5_000)
        measure("refused", refused, number, 2_000, most=0)


if __name__ == "__main__":
    main()
