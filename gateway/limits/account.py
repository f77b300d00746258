"""What one key, one user, or one address has used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from gateway.limits.clock import Clock
from gateway.limits.window import SECOND, Window
from persistence.caller_limits import Limits

Kind: TypeAlias = Literal["requests_per_minute", "tokens_per_minute", "tokens_per_day", "concurrent_requests"]

# A request that ends now says so much of how long the next ones take.
MEAN_SHARE = 8
LEAST_WAIT = SECOND // 2


@dataclass(frozen=True, slots=True)
class Shortage:
    """A limit that has not enough left, and in how many nanoseconds it will have, if nobody else comes."""

    kind: Kind
    limit: int
    left: int
    wait: int


@dataclass(slots=True, eq=False)
class Account:
    """``name`` as a Caller's; ``whose``: key, user, or address.

    A request belongs to the minute and to the day in which it was let in, with all that was reserved for it,
    and, when it has ended, with what it has used. ``running``: when those began that have not ended.
    """

    name: str
    whose: str
    window: Window = field(default_factory=Window)
    running: dict[object, int] = field(default_factory=dict)
    day: int = 0
    day_tokens: int = 0
    mean_duration: int = 0

    def refresh(self, now: int, day: int) -> None:
        """Forget what counts no more. To be called before anything is read."""
        self.window.forget(now)
        if day > self.day:
            self.day, self.day_tokens = day, 0

    @property
    def idle(self) -> bool:
        """Whether nothing would be lost if it were forgotten."""
        return not (self.running or self.window.empty_at or self.day_tokens)

    def shortages(self, limits: Limits, tokens: int, now: int, clock: Clock) -> Iterator[Shortage]:
        """The limits that one more request with so many tokens would pass."""
        window, most = self.window, limits.requests_per_minute
        if most is not None and window.requests >= most:
            wait = self._wait(window.requests + 1 - most, 0, now)
            yield Shortage("requests_per_minute", most, 0, wait)
        most = limits.tokens_per_minute
        if most is not None and window.tokens + tokens > most:
            left = max(0, most - window.tokens)
            wait = self._wait(0, window.tokens + tokens - most, now)
            yield Shortage("tokens_per_minute", most, left, wait)
        most = limits.tokens_per_day
        if most is not None and self.day_tokens + tokens > most:
            yield Shortage("tokens_per_day", most, max(0, most - self.day_tokens), clock.day_left)
        most = limits.concurrent_requests
        if most is not None and len(self.running) >= most:
            yield Shortage("concurrent_requests", most, 0, self._until_one_ends(now))

    def _wait(self, requests: int, tokens: int, now: int) -> int:
        """Nanoseconds until so much of the window has left it."""
        for leaves_at, its_requests, its_tokens in self.window.leaving():
            requests -= its_requests
            tokens -= its_tokens
            if requests <= 0 and tokens <= 0:
                return leaves_at - now
        return self.window.empty_at - now

    def _until_one_ends(self, now: int) -> int:
        """A guess: the oldest takes as long as others took."""
        return max(LEAST_WAIT, self.mean_duration - (now - next(iter(self.running.values()))))

    def ended(self, request: object, now: int, ran: bool) -> None:
        """A running request has ended; ``ran``: the engine took it."""
        duration = now - self.running.pop(request)
        if ran and self.mean_duration:
            self.mean_duration += (duration - self.mean_duration) // MEAN_SHARE
        elif ran:
            self.mean_duration = duration
