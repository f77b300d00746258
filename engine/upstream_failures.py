"""What it means that an upstream server did not begin to answer.

Source: OpenAI's error codes (platform.openai.com/docs/guides/error-codes); RFC 9110, 10.2.3 for Retry-After.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import httpx

from engine.base import EngineDead, EngineError, EngineOverloaded, GenerationFailed, RequestRefused
from engine.upstream_answer import error_text, parsed

if TYPE_CHECKING:
    from engine.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Failure:
    """``error`` is what to raise, ``log_line`` what the operator should know. ``is_upstreams``: the server is
    at fault; ``answered``: it is alive. Asking again may help where it ``may_pass``: after
    ``pause_seconds`` where the server named a time."""

    error: EngineError
    log_line: str
    is_upstreams: bool = True
    answered: bool = False
    may_pass: bool = False
    pause_seconds: float | None = None
    cause: BaseException | None = None


def connection_failure(error: httpx.HTTPError, upstream: Upstream) -> Failure:
    """No answer at all."""
    said = upstream.plain(f"{type(error).__name__}: {error}")
    if isinstance(error, httpx.PoolTimeout):
        overloaded = EngineOverloaded("All connections to the upstream are in use.")
        return Failure(overloaded, said, is_upstreams=False, cause=error)
    away = EngineDead(f"The upstream '{upstream.name}' can't be reached.")
    return Failure(away, said, may_pass=not isinstance(error, httpx.TimeoutException), cause=error)


def status_failure(response: httpx.Response, body: bytes, upstream: Upstream, path: str) -> Failure:
    """An answer that is a refusal or a failure."""
    status, said, param = response.status_code, *told(body)
    name = upstream.name
    log_line = upstream.plain(f"status {status}: {said}")
    pause = retry_after_seconds(response)
    match status:
        case 429:
            busy = EngineOverloaded(f"The upstream '{name}' takes no more requests now.")
            return Failure(
                busy, log_line, is_upstreams=False, answered=True, may_pass=True, pause_seconds=pause
            )
        case 503:
            busy = EngineOverloaded(f"The upstream '{name}' takes no requests now.")
            return Failure(busy, log_line, may_pass=True, pause_seconds=pause)
        case 502 | 504:
            away = EngineDead(f"The upstream '{name}' can't be reached.")
            return Failure(away, log_line, may_pass=True, pause_seconds=pause)
        case 404 | 405 if path.endswith("/completions") and not path.endswith("/chat/completions"):
            refused = RequestRefused("The server that answers here takes chats only.", "prompt")
            return Failure(refused, log_line, is_upstreams=False, answered=True)
        case 401 | 403 | 404 | 405 | 407:
            # What the operator has set is wrong: no request will do better.
            return Failure(EngineDead(f"The upstream '{name}' refuses the gateway."), log_line)
        case 408 | 409 | 425:
            return Failure(GenerationFailed(f"The upstream '{name}' failed."), log_line)
        case _ if 400 <= status < 500:
            refused = RequestRefused(upstream.for_clients(said), param)
            return Failure(refused, log_line, is_upstreams=False, answered=True)
        case _ if status >= 500:
            return Failure(GenerationFailed(f"The upstream '{name}' failed."), log_line)
        case _:
            return Failure(EngineDead(f"The upstream '{name}' does not answer."), log_line)


def told(body: bytes) -> tuple[str, str | None]:
    """What an error's body says, in one line, and the field at fault."""
    try:
        answer = parsed(body)
    except GenerationFailed:
        return "no reason given", None
    error = answer.get("error")
    param = error.get("param") if isinstance(error, dict) else None
    return error_text(answer), param if isinstance(param, str) and len(param) <= 200 else None


def retry_after_seconds(response: httpx.Response) -> float | None:
    """What ``retry-after-ms`` or ``retry-after`` says: seconds, or a date."""
    try:
        if (given := response.headers.get("retry-after-ms")) is not None:
            seconds = float(given) / 1000
        elif (given := response.headers.get("retry-after")) is None:
            return None
        else:
            seconds = _seconds(given)
    except ValueError:
        return None
    # NaN is not above 0.
    return seconds if seconds > 0 else 0.0


def _seconds(given: str) -> float:
    try:
        return float(given)
    except ValueError:
        date = parsedate_to_datetime(given)
        return ((date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
