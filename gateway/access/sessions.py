"""Sessions, and the cookie that carries one.

What PostgreSQL says of a session holds for KEEP_SECONDS here without being asked again; one that is ended
here ends at once. While PostgreSQL is away those that were known go on until they expire.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from fastapi import Request

from persistence import sessions
from persistence.database import Database, DatabaseUnavailable
from persistence.sessions import Session

COOKIE = "gateway_session"
KEEP_SECONDS = 2.0
MOST_KEPT = 10_000

_TOKEN_BYTES = 32
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Known:
    """A session, and when PostgreSQL told of it, as ``clock`` has it."""

    session: Session
    since: float


class Sessions:
    """Of one gateway. ``away``: whether PostgreSQL is known to be away, so that nobody waits for it."""

    def __init__(
        self,
        database: Database,
        days: float,
        timeout_seconds: float,
        away: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._duration = timedelta(days=days)
        self._timeout_seconds = timeout_seconds
        self._away = away
        self._clock = clock
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        # Of sessions that were ended: what was asked before may be answered after.
        self._ended = 0

    @property
    def max_age_seconds(self) -> int:
        """How long a cookie holds."""
        return int(self._duration.total_seconds())

    async def start(self, user_id: UUID) -> str:
        """A new session's token. Raises DatabaseUnavailable."""
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        await sessions.create(self._database, token, user_id, self._duration, self._timeout_seconds)
        return token

    async def find(self, token: str) -> Session | None:
        """The session of a token, where it is valid. Raises DatabaseUnavailable where that is not known."""
        if not _TOKEN.fullmatch(token):
            return None
        key = sessions.hash_of(token)
        known = self._known.get(key)
        if known is not None and (self._away() or self._clock() < known.since + KEEP_SECONDS):
            return self._not_expired(key, known.session)
        asked, ended = self._clock(), self._ended
        try:
            found = await sessions.find(self._database, token, self._duration, self._timeout_seconds)
        except DatabaseUnavailable:
            if known is None or self._ended != ended:
                raise
            return self._not_expired(key, known.session)
        if found is None:
            self._known.pop(key, None)
        elif self._ended == ended:
            self._keep(key, Known(replace(found, slid=False), asked))
        return found

    async def end(self, token: str) -> None:
        """End the session of a token, if there is one. Raises DatabaseUnavailable; it goes on then."""
        if not _TOKEN.fullmatch(token):
            return
        await sessions.delete(self._database, token, self._timeout_seconds)
        self._ended += 1
        self._known.pop(sessions.hash_of(token), None)

    def forget_user(self, user_id: UUID) -> None:
        """He has been changed: PostgreSQL is asked before his sessions are used again."""
        self._ended += 1
        for key in [key for key, known in self._known.items() if known.session.user_id == user_id]:
            del self._known[key]

    def _not_expired(self, key: bytes, session: Session) -> Session | None:
        if session.expire_time > datetime.now(UTC):
            return session
        self._known.pop(key, None)
        return None

    def _keep(self, key: bytes, known: Known) -> None:
        self._known[key] = known
        self._known.move_to_end(key)
        if len(self._known) > MOST_KEPT:
            self._known.popitem(last=False)


def cookie(request: Request, token: str, max_age_seconds: int) -> str:
    """The header ``set-cookie`` that gives a browser its token; an empty one with 0 seconds takes it away.

    Scripts can't read it, pages of other sites can't have it sent but by a link, and where the browser came
    over TLS, perhaps to a proxy, it goes over nothing else.
    """
    secure = "; Secure" if is_secure(request) else ""
    return f"{COOKIE}={token}; HttpOnly; Max-Age={max_age_seconds}; Path=/; SameSite=Lax{secure}"


def is_secure(request: Request) -> bool:
    """Whether the client uses TLS, as far as it is told here."""
    forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    return request.scope.get("scheme") == "https" or forwarded == "https"
