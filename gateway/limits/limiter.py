"""What a request takes from its caller's limits, and gives back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from gateway.access.caller import Caller


class Reservation(Protocol):
    """What one request may use, until it is settled."""

    @property
    def headers(self) -> Mapping[str, str]:
        """``x-ratelimit-*``: what the caller has left, for the answer."""

    def settle(self, tokens: int) -> None:
        """The request has ended and used so many ``tokens``, of its prompts and its answers; the rest is
        given back, and so is its place among the caller's requests. To be called once, whatever happens."""


class Limiter(Protocol):
    """Counts what callers use."""

    async def reserve(self, caller: Caller, tokens: int) -> Reservation:
        """Take a request that uses at most so many ``tokens``. Raises RateLimitExceeded, InsufficientQuota,
        and InvalidRequest for more than the caller can ever have."""

    def answer_tokens(self, caller: Caller, prompt_tokens: int, answers: int) -> int | None:
        """The most tokens of each of so many answers where the client names no number; None: as many as the
        model's context has room for."""


class Unlimited:
    """Where nobody has limits; the Reservation, too."""

    headers: Mapping[str, str] = {}

    async def reserve(self, caller: Caller, tokens: int) -> Reservation:
        return self

    def answer_tokens(self, caller: Caller, prompt_tokens: int, answers: int) -> int | None:
        return None

    def settle(self, tokens: int) -> None:
        pass


UNLIMITED = Unlimited()
