"""Limits as one gateway counts them, in its own memory.

All that a request takes it takes at once, from each account that it counts for or from none, and nothing
waits meanwhile: however many come at the same moment, no more is let in than the limits say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from gateway.access.caller import Caller
from gateway.limits.account import Account, Shortage
from gateway.limits.accounts import Accounts
from gateway.limits.clock import Clock
from gateway.limits.day_use import DayUse
from gateway.limits.limit_headers import standing
from gateway.limits.limiter import UNLIMITED, Reservation
from gateway.limits.refusal import larger_than_limit, limit_reached
from gateway.limits.window import Entry
from persistence.caller_limits import Limits

Claims = Sequence[tuple[Account, Limits]]

Counted = Callable[[str, int, int], None]
"""Told of an account, a day, and how many tokens more were counted for it, or less."""


class Taken:
    """What one request has taken from its accounts; a Reservation."""

    def __init__(
        self, claims: Claims, tokens: int, now: int, clock: Clock, counted: Counted | None = None
    ) -> None:
        self._clock = clock
        self._counted = counted
        self._tokens = tokens
        self._claims = claims
        self._entries: list[Entry] = []
        self._days: list[int] = []
        self._settled = False
        for account, limits in claims:
            account.running[self] = now
            self._entries.append(account.window.add(1, tokens, now))
            self._days.append(account.day)
            if limits.tokens_per_day is not None:
                self._count_day(account, account.day, tokens)
        self._standing = standing(claims, now, clock)

    @property
    def headers(self) -> Mapping[str, str]:
        """What was left when it had been taken."""
        return self._standing.headers

    def settle(self, tokens: int) -> None:
        """Give back what was not used; a request that has used nothing was none. Only the first call
        counts."""
        if self._settled:
            return
        self._settled = True
        now, more = self._clock.monotonic(), tokens - self._tokens
        for (account, limits), entry, day in zip(self._claims, self._entries, self._days, strict=True):
            account.ended(self, now, tokens > 0)
            account.window.change(entry, 0 if tokens else -1, more)
            if limits.tokens_per_day is not None:
                self._count_day(account, day, more)

    def _count_day(self, account: Account, day: int, more: int) -> None:
        if account.day == day:
            account.day_tokens += more
        if self._counted is not None and more:
            self._counted(account.name, day, more)


class MemoryLimiter:
    """``answer_tokens``: the longest answer to a request that names no max_tokens and counts for a limit of
    tokens. Without ``day_use`` the day begins with each gateway."""

    # How much later than here the minute ends elsewhere, in nanoseconds.
    slack = 0
    # Whether shared limits can't be looked up.
    away = False

    def __init__(
        self,
        accounts: Accounts,
        answer_tokens: int,
        clock: Clock | None = None,
        day_use: DayUse | None = None,
    ) -> None:
        self.accounts = accounts
        self._answer_tokens = answer_tokens
        self._clock = clock or Clock()
        self._day_use = day_use

    @property
    def leases(self) -> int:
        """Of how many accounts it holds a part of what is shared."""
        return 0

    async def start(self) -> None:
        """Go on with the day where it was. Raises DatabaseUnavailable."""
        if self._day_use is not None:
            await self._day_use.start(self.accounts)

    async def stop(self) -> None:
        """Write what is to be kept. Safe to call twice, and without a start."""
        if self._day_use is not None:
            await self._day_use.stop()

    async def reserve(self, caller: Caller, tokens: int) -> Reservation:
        """As Limiter has it."""
        claims = self._claims_of(caller)
        return self._take(claims, tokens) if claims else UNLIMITED

    def answer_tokens(self, caller: Caller, prompt_tokens: int, answers: int) -> int | None:
        """As Limiter has it: such an answer is never too long for the limits, nor, while the day has any
        left, for the day."""
        rooms = [
            room
            for account, limits in self._claims_of(caller)
            for room in (
                limits.tokens_per_minute,
                None if limits.tokens_per_day is None else limits.tokens_per_day - self._day_tokens(account),
            )
            if room is not None
        ]
        if not rooms:
            return None
        return max(1, min(self._answer_tokens, (min(rooms) - prompt_tokens) // answers))

    def _day_tokens(self, account: Account) -> int:
        """Of today, as far as it is known."""
        return account.day_tokens

    def _claims_of(self, caller: Caller) -> Claims:
        return self.accounts.of(caller, self._clock.monotonic(), self._clock.day)

    def _take(self, claims: Claims, tokens: int) -> Taken:
        """Raises RateLimitExceeded and InvalidRequest."""
        now = self._clock.monotonic()
        worst: tuple[Shortage, Account] | None = None
        for account, limits in claims:
            for shortage in account.shortages(limits, tokens, now, self._clock):
                if "tokens" in shortage.kind and tokens > shortage.limit:
                    raise larger_than_limit(shortage.kind, shortage.limit, account.whose, tokens)
                if shortage.kind in ("requests_per_minute", "tokens_per_minute"):
                    shortage = replace(shortage, wait=shortage.wait + self.slack)
                if worst is None or shortage.wait > worst[0].wait:
                    worst = shortage, account
        if worst is not None:
            headers = standing(claims, now, self._clock).headers
            raise limit_reached(worst[0], worst[1].whose, tokens, headers)
        counted = None if self._day_use is None else self._day_use.counted
        return Taken(claims, tokens, now, self._clock, counted)
