"""What one gateway holds of an account that several share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from gateway.limits.account import LEAST_WAIT, Account, Shortage
from gateway.limits.clock import Clock
from gateway.limits.limit_headers import Left
from gateway.limits.window import SECOND
from persistence.caller_limits import UNLIMITED, Limits
from persistence.limit_windows import COUNTED_SECONDS, HELD_SECONDS, LEASE_SECONDS, Asked, Told

# So much of a limit is taken at once where much is left: then not every request has to ask.
SHARE = 32


@dataclass(frozen=True, slots=True)
class Need:
    """What one request takes of an account: nothing of what is not limited."""

    requests: int
    tokens: int
    places: int


def need_of(limits: Limits, tokens: int) -> Need:
    """Of a request with so many tokens."""
    counted = limits.tokens_per_minute is not None or limits.tokens_per_day is not None
    return Need(
        1 if limits.requests_per_minute is not None else 0,
        tokens if counted else 0,
        1 if limits.concurrent_requests is not None else 0,
    )


@dataclass(slots=True, eq=False)
class Part:
    """What was taken in one ``second`` of PostgreSQL's, and not used yet; to be used before ``until``.
    Without a second: what was used without asking, and PostgreSQL has not been told."""

    second: int | None = None
    until: int = 0
    requests: int = 0
    tokens: int = 0


@dataclass(slots=True, eq=False)
class Lease:
    """``wanted``: by so many that wait for an answer of PostgreSQL's, or are about to ask.
    ``drawn``: requests that may still give something back. ``places``: of those the ones that take a
    place; PostgreSQL knows of ``declared`` until ``declared_until``."""

    account: Account
    limits: Limits = UNLIMITED
    part: Part = field(default_factory=Part)
    debt: Part = field(default_factory=Part)
    given: dict[int, tuple[int, int]] = field(default_factory=dict)
    wanted: int = 0
    drawn: int = 0
    places: int = 0
    declared: int = 0
    declared_until: int = 0
    told: Told | None = None
    told_at: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def covers(self, need: Need, now: int) -> bool:
        """Whether a request can be let in without asking."""
        part = self.part
        if need.places and (self.places + need.places > self.declared or now >= self.declared_until):
            return False
        if not (need.requests or need.tokens):
            return True
        return now < part.until and part.requests >= need.requests and part.tokens >= need.tokens

    def draw(self, need: Need) -> Part:
        """Let in what is covered."""
        self.part.requests -= need.requests
        self.part.tokens -= need.tokens
        self._count(need)
        return self.part

    def draw_alone(self, need: Need) -> Part:
        """Let in without asking."""
        self.debt.requests += need.requests
        self.debt.tokens += need.tokens
        self._count(need)
        return self.debt

    def _count(self, need: Need) -> None:
        self.drawn += 1
        self.places += need.places

    def end(self, part: Part, need: Need, requests: int, tokens: int, now: int) -> None:
        """A request has ended that was let in: take back what it has drawn from ``part`` and not used."""
        self.drawn -= 1
        self.places -= need.places
        if part.second is None:
            part.requests -= requests
            part.tokens -= tokens
        elif part is self.part and now < part.until:
            part.requests += requests
            part.tokens += tokens
        else:
            self._give_to(part.second, requests, tokens)

    def _give_to(self, second: int, requests: int, tokens: int) -> None:
        if requests or tokens:
            before = self.given.get(second, (0, 0))
            self.given[second] = before[0] + requests, before[1] + tokens

    def is_due(self, now: int) -> bool:
        """Whether PostgreSQL should be told something."""
        part = self.part
        unused = part.second is not None and now >= part.until and (part.requests or part.tokens)
        renew = self.declared and now > self.declared_until - round(HELD_SECONDS / 2 * SECOND)
        return bool(
            self.given
            or self.debt.requests
            or self.debt.tokens
            or self.places < self.declared
            or unused
            or renew
        )

    def is_idle(self, now: int) -> bool:
        """Whether nothing would be lost if it were forgotten."""
        busy = self.wanted or self.drawn or self.declared or now < self.part.until or self.lock.locked()
        return not (busy or self.is_due(now))

    def asking(self, need: Need | None, now: int) -> Asked:
        """What to say to PostgreSQL; ``need`` of one more request. Whatever is given back with it is not
        used here any more."""
        if need is not None or now >= self.part.until:
            part, self.part = self.part, Part()
            if part.second is not None:
                self._give_to(part.second, part.requests, part.tokens)
        given, self.given = self.given, {}
        need = need or Need(0, 0, 0)
        # Until it is answered nobody else is let in on what was declared.
        self.declared = min(self.declared, self.places)
        spare_requests = (self.limits.requests_per_minute or 0) // SHARE if need.requests else 0
        tokens = [n for n in (self.limits.tokens_per_minute, self.limits.tokens_per_day) if n is not None]
        return Asked(
            self.account.name,
            self.limits,
            need.requests,
            need.tokens,
            spare_requests,
            min(tokens) // SHARE if need.tokens else 0,
            self.places + need.places if self.limits.concurrent_requests is not None else 0,
            self.places if self.limits.concurrent_requests is not None else 0,
            (self.debt.requests, self.debt.tokens),
            [(second, *amounts) for second, amounts in given.items()],
        )

    def answered(self, asked: Asked, told: Told, sent: int) -> None:
        """What PostgreSQL said to what was ``asked`` at the moment ``sent``."""
        second = int(told.moment)
        self.told, self.told_at = told, sent
        if asked.requests or asked.tokens:
            until = sent + round(LEASE_SECONDS * SECOND) if told.granted else 0
            self.part = Part(second, until, told.requests, told.tokens)
        self.declared = asked.places if told.granted else asked.places_else
        self.declared_until = sent + round(HELD_SECONDS * SECOND)
        # It may have grown, or become less, since it was told.
        debt, self.debt = self.debt, Part()
        debt.second = second
        self._give_to(second, asked.debt[0] - debt.requests, asked.debt[1] - debt.tokens)

    def shortages(self, told: Told, need: Need, now: int, clock: Clock) -> Iterator[Shortage]:
        """Why PostgreSQL has granted nothing."""
        limits = self.limits
        requests = sum(requests for _, requests, _ in told.taken)
        tokens = sum(tokens for _, _, tokens in told.taken)
        most = limits.requests_per_minute
        if most is not None and requests + need.requests > most:
            wait = _wait(told, requests + need.requests - most, 0)
            yield Shortage("requests_per_minute", most, max(0, most - requests), wait)
        most = limits.tokens_per_minute
        if most is not None and tokens + need.tokens > most:
            wait = _wait(told, 0, tokens + need.tokens - most)
            yield Shortage("tokens_per_minute", most, max(0, most - tokens), wait)
        most = limits.tokens_per_day
        if most is not None and told.day_tokens + need.tokens > most:
            yield Shortage("tokens_per_day", most, max(0, most - told.day_tokens), clock.day_left)
        most = limits.concurrent_requests
        if most is not None and told.places_elsewhere + self.places + need.places > most:
            yield Shortage("concurrent_requests", most, 0, max(LEAST_WAIT, self.account.mean_duration))

    def requests_left(self, now: int) -> Left | None:
        """Of the minute's requests, as far as this gateway knows."""
        if self.limits.requests_per_minute is None or self.told is None:
            return None
        used = sum(requests for _, requests, _ in self.told.taken) - self.part.requests
        return Left(
            self.limits.requests_per_minute, self.limits.requests_per_minute - used, self._whole_in(now)
        )

    def tokens_left(self, now: int, clock: Clock) -> Iterator[Left]:
        """Of the minute's tokens and of the day's."""
        if self.told is None:
            return
        most = self.limits.tokens_per_minute
        if most is not None:
            used = sum(tokens for _, _, tokens in self.told.taken) - self.part.tokens
            yield Left(most, most - used, self._whole_in(now))
        most = self.limits.tokens_per_day
        if most is not None:
            yield Left(most, most - self.told.day_tokens + self.part.tokens, clock.day_left)

    def _whole_in(self, now: int) -> int:
        assert self.told is not None
        if not self.told.taken:
            return 0
        last = self.told.taken[-1][0] + COUNTED_SECONDS + 1 - self.told.moment
        return max(0, round(last * SECOND) - (now - self.told_at))


def _wait(told: Told, requests: int, tokens: int) -> int:
    """Nanoseconds until so much has left the minute."""
    free_at = told.moment
    for second, its_requests, its_tokens in told.taken:
        free_at = second + COUNTED_SECONDS + 1
        requests -= its_requests
        tokens -= its_tokens
        if requests <= 0 and tokens <= 0:
            break
    return max(1, round((free_at - told.moment) * SECOND))
