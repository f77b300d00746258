"""``x-ratelimit-*``, as OpenAI has them: what a caller may ask for, what of it is left, and when it is whole
again. Source: the guide to OpenAI's rate limits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.limits.account import Account
from gateway.limits.clock import Clock
from persistence.caller_limits import Limits


@dataclass(frozen=True, slots=True)
class Left:
    """Of one limit; ``whole_in`` nanoseconds all of it is left, if nobody else comes."""

    limit: int
    left: int
    whole_in: int


@dataclass(slots=True)
class Standing:
    """The limits with the least left, where there are any."""

    requests: Left | None = None
    tokens: Left | None = None

    def count_requests(self, left: Left) -> None:
        """Keep it where it is the tightest so far."""
        if self.requests is None or left.left < self.requests.left:
            self.requests = left

    def count_tokens(self, left: Left) -> None:
        """Keep it where it is the tightest so far."""
        if self.tokens is None or left.left < self.tokens.left:
            self.tokens = left

    @property
    def headers(self) -> dict[str, str]:
        """By OpenAI's names."""
        headers = {}
        for name, one in (("requests", self.requests), ("tokens", self.tokens)):
            if one is not None:
                headers[f"x-ratelimit-limit-{name}"] = str(one.limit)
                headers[f"x-ratelimit-remaining-{name}"] = str(max(0, one.left))
                headers[f"x-ratelimit-reset-{name}"] = duration(one.whole_in)
        return headers


def standing(claims: Iterable[tuple[Account, Limits]], now: int, clock: Clock) -> Standing:
    """Where a caller stands whose accounts these are."""
    found = Standing()
    for account, limits in claims:
        window = account.window
        whole_in = max(0, window.empty_at - now)
        if limits.requests_per_minute is not None:
            left = limits.requests_per_minute - window.requests
            found.count_requests(Left(limits.requests_per_minute, left, whole_in))
        if limits.tokens_per_minute is not None:
            left = limits.tokens_per_minute - window.tokens
            found.count_tokens(Left(limits.tokens_per_minute, left, whole_in))
        if limits.tokens_per_day is not None:
            left = limits.tokens_per_day - account.day_tokens
            whole_in = clock.day_left if account.day_tokens else 0
            found.count_tokens(Left(limits.tokens_per_day, left, whole_in))
    return found


def duration(nanoseconds: int) -> str:
    """As ``850ms``, ``1s``, ``6m0s``, ``2h0m7.5s``; rounded up."""
    milliseconds = -(-nanoseconds // 1_000_000)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{seconds}s"
