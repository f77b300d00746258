"""What a caller is told whose limits have not enough left. Nothing is said of anybody else."""

from __future__ import annotations

from collections.abc import Mapping

from gateway import metrics
from gateway.errors import NO_RETRY, InvalidRequest, RateLimitExceeded
from gateway.limits.account import Kind, Shortage
from gateway.limits.limit_headers import duration
from gateway.limits.window import SECOND

# OpenAI's SDKs wait at most as long; whoever has to wait longer need not ask again and again.
LONGEST_RETRY_SECONDS = 60.0

UNITS: Mapping[Kind, str] = {
    "requests_per_minute": "requests per minute",
    "tokens_per_minute": "tokens per minute",
    "tokens_per_day": "tokens per day",
    "concurrent_requests": "requests at once",
}


def limit_reached(
    shortage: Shortage, whose: str, tokens: int, headers: Mapping[str, str]
) -> RateLimitExceeded:
    """A 429 that tells which limit, and when this request fits; it is counted."""
    metrics.REFUSED.labels(shortage.kind).inc()
    asked = "" if "tokens" not in shortage.kind else f", {tokens} asked for, {shortage.left} left"
    seconds = shortage.wait / SECOND
    by_day = shortage.kind == "tokens_per_day"
    error = RateLimitExceeded(
        f"The limit of this {whose} is reached: {shortage.limit} {UNITS[shortage.kind]}{asked}. "
        f"Try again in {duration(shortage.wait)}.",
        seconds,
        code="tokens_per_day_exceeded" if by_day else None,
    )
    error.headers |= headers
    if by_day and seconds > LONGEST_RETRY_SECONDS:
        error.headers |= NO_RETRY
    return error


def larger_than_limit(kind: Kind, limit: int, whose: str, tokens: int) -> InvalidRequest:
    """A 400 for a request that fits at no time; it is counted."""
    metrics.REFUSED.labels("larger_than_limit").inc()
    return InvalidRequest(
        f"The request needs up to {tokens} tokens, its prompt and max_tokens of each answer; the limit of "
        f"this {whose} is {limit} {UNITS[kind]}. Ask for less: a smaller max_tokens, or a shorter prompt.",
        "max_tokens",
        "request_larger_than_limit",
    )
