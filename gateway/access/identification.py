"""Who asks: whoever the session cookie names.

``Authorization`` decides nothing: fufan's front end puts the user's id there, which is no secret.
"""

from __future__ import annotations

import logging

from fastapi import Request

from gateway.access.address import client_address
from gateway.access.caller import Caller, Scope
from gateway.access.pages import check_page
from gateway.access.sessions import COOKIE, cookie
from gateway.errors import InvalidApiKey, PermissionDenied, Unavailable
from gateway.lifecycle import Lifecycle, lifecycle_of
from persistence.database import DatabaseUnavailable
from persistence.sessions import Session

log = logging.getLogger("gateway.access")


async def caller_of(request: Request, scope: Scope) -> Caller:
    """Who asks, and may do what ``scope`` says. Raises InvalidApiKey where that has to be known and is not,
    Unavailable where it can't be known now, and PermissionDenied for whoever may not, and for a page of
    another origin."""
    caller = await _known_caller(request)
    if scope not in caller.scopes and not caller.is_admin:
        raise PermissionDenied(f"The key's scopes do not include '{scope}'.", code="insufficient_scope")
    return caller


async def _known_caller(request: Request) -> Caller:
    lifecycle = lifecycle_of(request)
    token = request.cookies.get(COOKIE) if "cookie" in request.headers else None
    session = None
    if token is not None:
        check_page(request, lifecycle.settings)
        session = await _session(lifecycle, token)
    if session is None:
        if lifecycle.settings.authenticates:
            raise InvalidApiKey(
                'Log in first: POST {"username": …, "password": …} to /api/users/login, and send the cookie '
                f"'{COOKIE}' that the answer sets."
            )
        return Caller(address=client_address(request))
    if session.slid:
        assert token is not None
        request.state.set_cookie = cookie(request, token, lifecycle.sessions.max_age_seconds)
    return Caller(session.user_id, address=client_address(request))


async def _session(lifecycle: Lifecycle, token: str) -> Session | None:
    try:
        return await lifecycle.sessions.find(token)
    except DatabaseUnavailable as error:
        if not lifecycle.settings.authenticates:
            return None
        log.warning("a session can't be looked up: %s", error)
        raise Unavailable(
            "Who is logged in can't be read now; try again soon.", code="database_unavailable"
        ) from error
