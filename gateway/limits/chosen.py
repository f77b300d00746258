"""The limiter that the settings ask for."""

from __future__ import annotations

import secrets

from gateway.limits.accounts import Accounts
from gateway.limits.day_use import DayUse
from gateway.limits.memory import MemoryLimiter
from gateway.limits.shared import SharedLimiter
from gateway.settings import Settings
from persistence.caller_limits import UNLIMITED, Limits
from persistence.database import Database
from persistence.limit_windows import LimitWindows

# Of an address, where whoever reaches the gateway over a network need not say who he is.
UNKNOWN = Limits(requests_per_minute=300, concurrent_requests=32)


def new_limiter(settings: Settings, database: Database) -> MemoryLimiter:
    """Not started."""
    accounts = Accounts(
        Limits(**settings.key_limits), Limits(**settings.user_limits), anonymous_limits(settings)
    )
    if settings.limits_store == "postgresql":
        windows = LimitWindows(database, secrets.randbits(62), settings.limits_timeout_seconds)
        return SharedLimiter(accounts, settings.limited_answer_tokens, windows, settings.limits_gateways)
    day_use = DayUse(database, settings.database_timeout_seconds)
    return MemoryLimiter(accounts, settings.limited_answer_tokens, day_use=day_use)


def anonymous_limits(settings: Settings) -> Limits:
    """Of each address."""
    if settings.anonymous_limits is not None:
        return Limits(**settings.anonymous_limits)
    return UNLIMITED if settings.authenticates or settings.on_loopback else UNKNOWN
