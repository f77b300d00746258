"""Who asks: whoever the session cookie names.

``Authorization`` decides nothing: fufan's front end puts the user's id there, which is no secret.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from uuid import UUID

from fastapi import Request

from gateway.access.pages import check_page
from gateway.access.sessions import COOKIE, cookie
from gateway.errors import InvalidApiKey, Unavailable
from gateway.lifecycle import Lifecycle, lifecycle_of
from persistence.database import DatabaseUnavailable
from persistence.sessions import Session

log = logging.getLogger("gateway.access")


@dataclass(frozen=True, slots=True)
class Caller:
    """``user_id`` is None for whoever has not said who he is; with the setting ``authentication`` nobody
    like that comes in."""

    user_id: UUID | None = None


ANONYMOUS = Caller()


async def caller_of(request: Request) -> Caller:
    """Who asks. Raises InvalidApiKey where that has to be known and is not, Unavailable where it can't be
    known now, and PermissionDenied for a page of another origin."""
    lifecycle = lifecycle_of(request)
    needed = lifecycle.settings.authentication
    token = request.cookies.get(COOKIE) if "cookie" in request.headers else None
    session = None
    if token is not None:
        check_page(request, lifecycle.settings)
        session = await _session(lifecycle, token)
    if session is None:
        if needed:
            raise InvalidApiKey(
                'Log in first: POST {"username": …, "password": …} to /api/users/login, and send the cookie '
                f"'{COOKIE}' that the answer sets."
            )
        return ANONYMOUS
    if session.slid:
        assert token is not None
        request.state.set_cookie = cookie(request, token, lifecycle.sessions.max_age_seconds)
    return Caller(session.user_id)


async def _session(lifecycle: Lifecycle, token: str) -> Session | None:
    try:
        return await lifecycle.sessions.find(token)
    except DatabaseUnavailable as error:
        if not lifecycle.settings.authentication:
            return None
        log.warning("a session can't be looked up: %s", error)
        raise Unavailable(
            "Who is logged in can't be read now; try again soon.", code="database_unavailable"
        ) from error
