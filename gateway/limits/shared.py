"""Limits that several gateways share by way of PostgreSQL.

Each takes of an account what a request needs, and where much is left some more, so that it need not ask for
each request; PostgreSQL grants no more than there is. What was taken and not used goes back a moment later.

While PostgreSQL is away each gateway lets in what it counts itself, up to its part of each limit, and tells
of it when PostgreSQL is back. In a minute in which it goes or comes no more than (2 - 1 / gateways) times a
limit is let in: what PostgreSQL has granted, and the parts of all gateways but the one that has got it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

from gateway import metrics
from gateway.access.caller import Caller
from gateway.errors import Unavailable
from gateway.limits.account import Account
from gateway.limits.accounts import Accounts
from gateway.limits.clock import DAY_SECONDS, Clock
from gateway.limits.lease import Lease, Need, Part, need_of
from gateway.limits.limit_headers import Standing
from gateway.limits.limiter import UNLIMITED, Reservation
from gateway.limits.memory import MemoryLimiter, Taken
from gateway.limits.refusal import limit_reached
from gateway.limits.window import SECOND
from persistence.caller_limits import Limits
from persistence.database import DatabaseUnavailable
from persistence.limit_windows import LEASE_SECONDS, LimitWindows, Told

log = logging.getLogger("gateway.limits")

# What is given back is told together.
GATHER_SECONDS = 0.05
LOOK_SECONDS = 0.25
# While PostgreSQL is away.
RETRY_SECONDS = 1.0
STOP_SECONDS = 2.0
# Another gateway tells that a request has ended a moment after its client knows.
PLACE_TRIES, PLACE_SECONDS = 4, 0.05
MOST_TRIES = 10
# What PostgreSQL counts leaves the minute so much later than what is counted here.
SLACK = round((LEASE_SECONDS + 1) * SECOND)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a request has of one account."""

    lease: Lease
    part: Part
    need: Need

    def settle(self, tokens: int, now: int) -> None:
        """It has ended, and used so many tokens; none: it was none."""
        need = self.need
        more = need.tokens - tokens if need.tokens else 0
        self.lease.end(self.part, need, 0 if tokens else need.requests, more, now)


class SharedTaken:
    """What one request has, here and of what is shared; a Reservation."""

    def __init__(self, limiter: SharedLimiter, taken: Taken, drawn: Sequence[Drawn], now: int) -> None:
        self._limiter = limiter
        self._taken = taken
        self._drawn = drawn
        self._standing = None if limiter.away else limiter.standing([one.lease for one in drawn], now)

    @property
    def headers(self) -> Mapping[str, str]:
        """What was left when it had been taken."""
        return self._taken.headers if self._standing is None else self._standing.headers

    def settle(self, tokens: int) -> None:
        """Only the first call counts."""
        drawn, self._drawn = self._drawn, ()
        self._taken.settle(tokens)
        self._limiter.give_back(drawn, tokens)


class SharedLimiter(MemoryLimiter):
    """``gateways``: among how many a limit is divided while PostgreSQL is away."""

    slack = SLACK

    def __init__(
        self,
        accounts: Accounts,
        answer_tokens: int,
        windows: LimitWindows,
        gateways: int,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(accounts, answer_tokens, clock)
        self._windows = windows
        self._gateways = gateways
        self._leases: dict[str, Lease] = {}
        self._asking: set[asyncio.Task[Told | None]] = set()
        self._something = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.away = False

    @property
    def leases(self) -> int:
        """As MemoryLimiter has it."""
        return len(self._leases)

    async def start(self) -> None:
        """Begin to tell PostgreSQL what is given back."""
        self._task = asyncio.create_task(self._run(), name="shared limits")

    async def stop(self) -> None:
        """Give back what is left, unless PostgreSQL is away. Safe to call twice."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        for lease in self._leases.values():
            lease.part.until = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._tell_all()
        self._windows.close()

    async def reserve(self, caller: Caller, tokens: int) -> Reservation:
        """As Limiter has it."""
        claims = self._claims_of(caller)
        if not claims:
            return UNLIMITED
        taken = self._take(claims, tokens)
        drawn: list[Drawn] = []
        try:
            for account, limits in claims:
                drawn.append(await self._draw(account, limits, tokens))
        except BaseException:
            taken.settle(0)
            self.give_back(drawn, 0)
            raise
        return SharedTaken(self, taken, drawn, self._clock.monotonic())

    def give_back(self, drawn: Sequence[Drawn], tokens: int) -> None:
        """A request has ended that used so many tokens."""
        now = self._clock.monotonic()
        for one in drawn:
            one.settle(tokens, now)
        self._something.set()

    def standing(self, leases: Sequence[Lease], now: int) -> Standing:
        """Where the caller stands whose leases these are, as far as this gateway has heard."""
        found = Standing()
        for lease in leases:
            requests = lease.requests_left(now)
            if requests is not None:
                found.count_requests(requests)
            for tokens in lease.tokens_left(now, self._clock):
                found.count_tokens(tokens)
        return found

    async def _draw(self, account: Account, limits: Limits, tokens: int) -> Drawn:
        """Raises RateLimitExceeded, and Unavailable where the gateway's own part is used up."""
        lease = self._leases.get(account.name)
        if lease is None:
            lease = self._leases[account.name] = Lease(account)
        lease.limits = limits
        lease.wanted += 1
        try:
            return await self._draw_from(lease, tokens)
        finally:
            lease.wanted -= 1

    async def _draw_from(self, lease: Lease, tokens: int) -> Drawn:
        account, limits = lease.account, lease.limits
        need, tries = need_of(limits, tokens), 0
        while not self.away:
            if lease.covers(need, self._clock.monotonic()):
                return Drawn(lease, lease.draw(need), need)
            # Whoever asked is gone where he is cancelled; what was granted is used by others, or given back.
            told = await asyncio.shield(self._asking_for(lease, need))
            if told is not None and not told.granted:
                tries += 1
                now = self._clock.monotonic()
                shortages = list(lease.shortages(told, need, now, self._clock))
                worst = max(shortages, key=lambda one: one.wait, default=None)
                only_places = all(one.kind == "concurrent_requests" for one in shortages)
                if worst is not None and (not only_places or tries >= PLACE_TRIES):
                    headers = self.standing([lease], now).headers
                    raise limit_reached(worst, account.whose, tokens, headers)
                if tries == MOST_TRIES:
                    raise Unavailable("Too many ask at this moment; try again soon.")
                await asyncio.sleep(PLACE_SECONDS)
        self._check_part(account, limits)
        self._something.set()
        return Drawn(lease, lease.draw_alone(need), need)

    def _asking_for(self, lease: Lease, need: Need) -> asyncio.Task[Told | None]:
        def ended(task: asyncio.Task[Told | None]) -> None:
            self._asking.discard(task)
            lease.wanted -= 1

        lease.wanted += 1
        task = asyncio.create_task(self._ask(lease, need))
        self._asking.add(task)
        task.add_done_callback(ended)
        return task

    async def _ask(self, lease: Lease, need: Need | None) -> Told | None:
        """What PostgreSQL tells; None where it is away, and where nothing had to be asked after all."""
        async with lease.lock:
            now = self._clock.monotonic()
            if self.away and need is not None:
                return None
            if need is not None and lease.covers(need, now):
                return None
            asked = lease.asking(need, now)
            try:
                told = await self._windows.exchange(asked)
            except DatabaseUnavailable as error:
                if not self.away:
                    log.warning("limits are not shared, each gateway keeps to its part: %s", error)
                self.away = True
                self._something.set()
                return None
            lease.answered(asked, told, now)
            return told

    def _day_tokens(self, account: Account) -> int:
        lease = self._leases.get(account.name)
        told = None if lease is None else lease.told
        if told is None or int(told.moment) // DAY_SECONDS != account.day:
            return account.day_tokens
        return max(account.day_tokens, told.day_tokens)

    def _check_part(self, account: Account, limits: Limits) -> None:
        """Raises Unavailable where more was let in here than this gateway's part of the limits. What asks is
        counted already."""
        used = (
            account.window.requests,
            account.window.tokens,
            account.day_tokens,
            len(account.running),
        )
        for have, most in zip(used, astuple(limits), strict=True):
            if most is not None and have > max(1, most // self._gateways):
                metrics.REFUSED.labels("limits_not_shared").inc()
                raise Unavailable(
                    "Limits can't be looked up now, and this gateway's part of them is used; try again soon.",
                    code="limits_unavailable",
                )

    async def _run(self) -> None:
        while True:
            if not self._leases and not self.away:
                await self._something.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._something.wait()
            await asyncio.sleep(RETRY_SECONDS if self.away else GATHER_SECONDS)
            self._something.clear()
            await self._tell_all()

    async def _tell_all(self) -> None:
        """Tell of all leases what is due; PostgreSQL is back where all could be told."""
        now = self._clock.monotonic()
        for lease in list(self._leases.values()):
            if self.away or lease.is_due(now):
                if await self._ask(lease, None) is None:
                    return
            elif lease.is_idle(now):
                del self._leases[lease.account.name]
        if self.away:
            log.info("limits are shared again")
        self.away = False
