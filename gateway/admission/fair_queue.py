"""The queue before the engine: bounded, fair between callers, and honest about how long it takes.

::

    enter   there is room, and nobody waits for it?        -> in at once
            too many wait, or the wait would be too long?  -> RateLimitExceeded or Unavailable, Retry-After
            else wait                                      -> in when it is this request's turn
    leave   there is room for whoever is next

There are so many places as the engine can run requests; each choice of an answer takes one, and a request
with more choices than there are places takes all of them. While there is more than one caller the last places
are kept for callers who hold none: whoever asks for one thing at a time need not wait for the end of an
answer of somebody who asks for a hundred.

Nothing runs in the background: what happens here happens when a request enters, leaves, or gives up.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections.abc import Callable

from engine.base import Usage
from gateway import metrics
from gateway.access.caller import Caller
from gateway.admission.forecast import Pace, retry_after, seconds_until_free, still_promised
from gateway.admission.queue import Admission, AllAtOnce, Work
from gateway.admission.ticket import Account, Ticket
from gateway.admission.turns import Turns
from gateway.errors import GatewayError, RateLimitExceeded, Unavailable
from gateway.settings.admission import Admission as Settings

# Whoever has been the only caller for so long gets the places, too, that are kept for others.
ALONE_SECONDS = 600.0


class FairQueue:
    """An Admission with so many ``places``.

    ``reserved_share`` of them is kept for callers who hold none. ``most`` requests may wait, of each caller
    ``most_of_one``, and none longer than ``most_seconds``. ``clock`` is in seconds.
    """

    def __init__(
        self,
        places: int,
        reserved_share: float,
        most: int,
        most_of_one: int,
        most_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.places = places
        self.places_taken = 0
        self._kept = kept(places, reserved_share)
        self._most = most
        self._kept_in_queue = kept(most, reserved_share)
        self._most_of_one = most_of_one
        self._most_seconds = most_seconds
        self._clock = clock
        self._turns = Turns()
        self._pace = Pace()
        self._running: set[Ticket] = set()
        self._running_cost = 0
        self._promised: list[float] = []
        self._latest_caller: str | None = None
        self._callers_changed = -math.inf

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._turns.requests

    @property
    def callers_waiting(self) -> int:
        """How many callers have requests that wait."""
        return self._turns.callers

    async def enter(self, caller: Caller, work: Work) -> Ticket:
        """As Admission says. Whoever is cancelled just when he gets his place gives it back."""
        now = self._clock()
        account = self._turns.account(caller)
        if account.name != self._latest_caller:
            if self._latest_caller is not None:
                self._callers_changed = now
            self._latest_caller = account.name
        need = min(work.requests, self.places)
        ticket = Ticket(account, work, need, self._pace.answer_tokens(account, work), now, self._leave)
        if not self._turns.requests and self._has_room(ticket, now):
            self._let_in(ticket, now)
        else:
            await self._wait(ticket, work.deadline_seconds)
        return ticket

    async def _wait(self, ticket: Ticket, deadline_seconds: float | None) -> None:
        self._turns.join(ticket)
        self._let_in_whose_turn_it_is(ticket.arrived)
        if not ticket.waits:
            return
        refusal = self._refusal(ticket, deadline_seconds)
        if refusal is not None:
            self._turns.drop(ticket)
            raise refusal
        loop = asyncio.get_running_loop()
        ticket.called = loop.create_future()
        timer = loop.call_later(self._most_seconds, self._give_up, ticket)
        try:
            await ticket.called
            if ticket.refused is not None:
                raise ticket.refused
        except BaseException:
            if ticket in self._running:
                self._leave(ticket, Usage())
            else:
                self._turns.drop(ticket)
                self._let_in_whose_turn_it_is(self._clock())
            raise
        finally:
            timer.cancel()

    def _leave(self, ticket: Ticket, usage: Usage) -> None:
        now = self._clock()
        account = ticket.account
        self._running.remove(ticket)
        self._running_cost -= ticket.cost
        self.places_taken -= ticket.need
        account.held -= ticket.need
        used = usage.prompt_tokens + usage.completion_tokens
        account.add(used - ticket.cost)
        if used:
            self._pace.ended(account, now - ticket.started, usage.completion_tokens / ticket.requests)
        if self._turns.requests:
            self._let_in_whose_turn_it_is(now)

    def _let_in_whose_turn_it_is(self, now: float) -> None:
        while (ticket := self._next(now)) is not None:
            self._let_in(ticket, now)
            ticket.call()

    def _next(self, now: float) -> Ticket | None:
        """Who is let in now; None where nobody is.

        Whoever's turn it is keeps all others waiting until there is room for him, or big requests would wait
        for ever. Only where he holds places do those pass who hold none, since some places are kept for them;
        but nobody gets ahead of him in this way by more than what runs.
        """
        ticket = self._turns.first()
        while ticket is not None and ticket.called is not None and ticket.called.done():
            # It has given up, just now.
            self._turns.drop(ticket)
            ticket = self._turns.first()
        if ticket is not None and ticket.account.held and not self._has_room(ticket, now):
            latest = ticket.account.finish + self._running_cost / ticket.account.weight
            ticket = self._turns.first(without_place=True)
            if ticket is not None and ticket.account.finish > latest:
                return None
        return ticket if ticket is not None and self._has_room(ticket, now) else None

    def _has_room(self, ticket: Ticket, now: float) -> bool:
        return self.places_taken + ticket.need + self._kept_from(ticket.account, now) <= self.places

    def _kept_from(self, account: Account, now: float) -> int:
        """The places that are not for him."""
        if not account.held or now - self._callers_changed >= ALONE_SECONDS:
            return 0
        return self._kept

    def _let_in(self, ticket: Ticket, now: float) -> None:
        self._turns.charge(ticket)
        self._running.add(ticket)
        self._running_cost += ticket.cost
        self.places_taken += ticket.need
        ticket.account.held += ticket.need
        ticket.started = now
        ticket.waited_seconds = now - ticket.arrived
        metrics.QUEUE_WAIT.observe(ticket.waited_seconds)

    def _refusal(self, ticket: Ticket, deadline_seconds: float | None) -> GatewayError | None:
        """Why ``ticket``, the last of its caller's in the queue, may not wait."""
        account, now = ticket.account, ticket.arrived
        before = len(account.waiting) - 1
        if before >= self._most_of_one:
            part = (still_promised(account.promised, now) + 1) / (before + 1)
            cost, places = account.waiting_cost * part, account.waiting_places * part
            again = self._promise(account.promised, self._seconds_until(account, cost, places, now), now)
            told = f"{before} of your requests wait already; no more may."
            return RateLimitExceeded(told, again).counted_as("caller_queue_full")
        if self._turns.requests > self._most - (self._kept_in_queue if before else 0):
            places = (still_promised(self._promised, now) + 1) * self._turns.places / self._turns.requests
            again = self._promise(self._promised, self._seconds(places, account, now), now)
            full = Unavailable("Too many requests wait already.", retry_after_seconds=again)
            return full.counted_as("queue_full")
        promised = still_promised(account.promised, now)
        cost = account.waiting_cost + promised * ticket.cost
        places = account.waiting_places + promised * ticket.need
        seconds = self._seconds_until(account, cost, places, now)
        most = min(self._most_seconds, math.inf if deadline_seconds is None else deadline_seconds)
        if seconds is None or seconds <= most:
            return None
        return self._too_late(ticket, self._promise(account.promised, seconds - most, now))

    def _too_late(self, ticket: Ticket, retry_after_seconds: float) -> GatewayError:
        """For whoever's place would come too late: the caller's fault where he waits mostly for his own
        requests."""
        account = ticket.account
        own = account.held + account.waiting_places - ticket.need
        others = self.places_taken - account.held + self._turns.ahead(account, account.waiting_cost)
        if own >= others:
            told = "Your requests before this one take too long."
            return RateLimitExceeded(told, retry_after_seconds).counted_as("caller_wait_too_long")
        return Unavailable(
            "The requests before this one take too long.", retry_after_seconds=retry_after_seconds
        ).counted_as("wait_too_long")

    def _give_up(self, ticket: Ticket) -> None:
        """It has waited as long as anyone may."""
        if ticket.waits:
            now, account = self._clock(), ticket.account
            seconds = self._seconds_until(account, ticket.cost, ticket.need, now)
            ticket.refused = self._too_late(ticket, self._promise(account.promised, seconds, now))
            ticket.call()

    def _seconds_until(self, account: Account, cost: float, places: float, now: float) -> float | None:
        """Until the caller gets ``places`` for requests that cost ``cost`` together; None where no answer has
        ended yet."""
        return self._seconds(places + self._turns.ahead(account, cost), account, now)

    def _seconds(self, places: float, account: Account, now: float) -> float | None:
        """Until so many places have become free beyond those that are kept from the caller."""
        pace = self._pace.seconds_per_token
        if pace is None:
            return None
        running = [(one.started + one.answer_tokens * pace - now, one.need) for one in self._running]
        again = pace * self._turns.answer_tokens / max(self._turns.requests, 1)
        missing = places + self._kept_from(account, now) + self.places_taken - self.places
        return seconds_until_free(missing, running, again)

    def _promise(self, promised: list[float], seconds: float | None, now: float) -> float:
        """When to come again for whoever finds room in so many seconds; he is expected then."""
        told = retry_after(seconds)
        if seconds is not None and len(promised) < self._most:
            heapq.heappush(promised, now + told)
        return told


def kept(places: int, share: float) -> int:
    """How many of so many are kept: with a share above 0 at least one, but no more than a quarter."""
    return min(max(int(places * share), 1), places // 4) if share else 0


def admission_of(settings: Settings, engine_places: int | None) -> Admission:
    """As the settings have it, else so many at once as the engine can run; without either, all."""
    places = settings.max_running_requests or engine_places
    if places is None:
        return AllAtOnce()
    queue = FairQueue(
        places,
        settings.reserved_share,
        settings.queue_max_requests,
        settings.queue_max_requests_per_caller,
        settings.queue_max_seconds,
    )
    metrics.watch_queue(queue)
    return queue
