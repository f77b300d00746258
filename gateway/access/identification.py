"""Who asks: whoever the API key belongs to, else whoever the session cookie names.

A key is in ``Authorization: Bearer …`` or in ``x-api-key``. What is there and could not be a key of ours
decides nothing: fufan's front end sends the user's id, which is no secret, and OpenAI's SDKs send some key
also where none is needed. Of a key nothing is ever told, not even a part.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from fastapi import Request

from gateway.access.address import client_address
from gateway.access.api_keys import is_key
from gateway.access.caller import OWN, Caller, Scope
from gateway.access.pages import check_page
from gateway.access.sessions import COOKIE, cookie
from gateway.errors import GatewayError, InvalidApiKey, PermissionDenied, Unavailable
from gateway.lifecycle import Lifecycle, lifecycle_of
from gateway.tracing import trace_of
from persistence.api_keys import ApiKey
from persistence.database import DatabaseUnavailable
from persistence.sessions import Session

log = logging.getLogger("gateway.access")

_SCOPES = {scope.value: scope for scope in Scope}

HOW = (
    "Send one as 'Authorization: Bearer <key>' ('chatglm-gateway keys create' makes it), or log in: POST "
    f'{{"username": …, "password": …}} to /api/users/login, and send the cookie \'{COOKIE}\' that the answer '
    "sets."
)


async def caller_of(request: Request, scope: Scope | None) -> Caller:
    """Who asks, and may do what ``scope`` says; None: what everybody may. Raises InvalidApiKey where that has
    to be known and is not, Unavailable where it can't be known now, RateLimitExceeded where too many unknown
    keys came from there, and PermissionDenied for whoever may not, and for a page of another origin."""
    try:
        request.state.caller = caller = await _known_caller(request)
    finally:
        if (trace := trace_of(request)) is not None:
            trace.begin()
    if scope is None or scope in caller.scopes or caller.is_admin:
        return caller
    if caller.user_id is None:
        raise InvalidApiKey(f"You didn't provide an API key. {HOW}")
    raise PermissionDenied(f"The caller's scopes do not include '{scope}'.", code="insufficient_scope")


async def _known_caller(request: Request) -> Caller:
    lifecycle, address = lifecycle_of(request), client_address(request)
    refusal: GatewayError | None = None
    try:
        key = await _key(request, lifecycle, address)
        if key is not None:
            return _with_key(key, address)
    except GatewayError as error:
        refusal = error
    token = request.cookies.get(COOKIE) if "cookie" in request.headers else None
    session = None
    if token is not None:
        check_page(request, lifecycle.settings)
        session = await _session(lifecycle, token)
    if session is not None:
        if session.slid:
            assert token is not None
            request.state.set_cookie = cookie(request, token, lifecycle.sessions.max_age_seconds)
        scopes = OWN | {Scope.ADMIN} if session.is_admin else OWN
        return Caller(session.user_id, scopes=scopes, address=address, user_limits=session.limits)
    if lifecycle.settings.authenticates:
        raise refusal or InvalidApiKey(f"You didn't provide an API key. {HOW}")
    return Caller(address=address)


def credentials(request: Request) -> set[str]:
    """What was sent as a key."""
    found = set(request.headers.getlist("x-api-key"))
    for value in request.headers.getlist("authorization"):
        scheme, _, rest = value.partition(" ")
        if scheme.lower() == "bearer":
            found.add(rest.strip())
    return found - {""}


async def _key(request: Request, lifecycle: Lifecycle, address: str) -> ApiKey | None:
    """The key that the request came with, which is valid; None where it came with none. Raises InvalidApiKey,
    RateLimitExceeded and Unavailable."""
    given = credentials(request)
    ours = list(filter(is_key, given))
    if not ours:
        if given:
            raise InvalidApiKey(f"Incorrect API key provided. {HOW}")
        return None
    if len(given) > 1:
        raise InvalidApiKey(
            "'Authorization' and 'x-api-key' have different API keys: send one of them, or the same in both."
        )
    try:
        key = await lifecycle.api_keys.find(ours[0], address)
    except DatabaseUnavailable as error:
        if lifecycle.settings.authenticates:
            log.warning("an API key can't be looked up: %s", error)
        raise Unavailable(
            "Whose API key that is can't be read now; try again soon.", code="database_unavailable"
        ) from error
    if key is None:
        raise InvalidApiKey(f"Incorrect API key provided. {HOW}")
    if (status := key.status(datetime.now(UTC))) != "active":
        raise InvalidApiKey(f"The API key {'has expired' if status == 'expired' else 'was revoked'}. {HOW}")
    return key


def _with_key(key: ApiKey, address: str) -> Caller:
    """Whoever comes with ``key``. Only an admin's key makes an admin."""
    scopes = frozenset(_SCOPES[name] for name in key.scopes if name in _SCOPES)
    if not key.user_is_admin:
        scopes -= {Scope.ADMIN}
    return Caller(key.user_id, key.id, scopes, address, key.limits, key.user_limits, key.weight)


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
