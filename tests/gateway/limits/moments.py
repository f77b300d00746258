"""Clocks that stand still until they are told otherwise, and callers."""

from __future__ import annotations

from uuid import UUID

from gateway.access.caller import Caller
from gateway.limits.accounts import Accounts
from gateway.limits.clock import DAY_SECONDS, Clock
from gateway.limits.memory import MemoryLimiter
from gateway.limits.window import SECOND
from persistence.caller_limits import UNLIMITED, Limits

KEY, OTHER_KEY, USER = UUID(int=1), UUID(int=2), UUID(int=3)
NOON = 20_000 * DAY_SECONDS + DAY_SECONDS / 2


class Moments:
    """``clock`` shows the moment that ``wait`` has come to: first some noon."""

    def __init__(self) -> None:
        self.now = 10**15
        self.clock = Clock(lambda: self.now, lambda: NOON + (self.now - 10**15) / SECOND)

    def wait(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)


def caller(key: Limits = UNLIMITED, user: Limits = UNLIMITED, key_id: UUID | None = KEY) -> Caller:
    """Who came with a key."""
    return Caller(USER, key_id, key_limits=key, user_limits=user)


def limiter_of(moments: Moments, anonymous: Limits = UNLIMITED, answer_tokens: int = 1024) -> MemoryLimiter:
    """Without limits but for callers' own, and those of the anonymous."""
    return MemoryLimiter(Accounts(UNLIMITED, UNLIMITED, anonymous), answer_tokens, moments.clock)
