"""For admins: users and their keys. What is changed here counts here at once, and in other gateways on the
same database within two seconds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response

from adapters.chatchat.fufan import uuid_of
from adapters.openai.admin import ChangedKey, ChangedUser, LimitFields, NewKey, NewUser, list_object, unix
from gateway.access.api_keys import new_key, prefix_of
from gateway.access.caller import Scope
from gateway.access.identification import caller_of
from gateway.errors import Conflict, InvalidRequest, NotFound
from gateway.lifecycle import Lifecycle, lifecycle_of
from gateway.routes.body import read
from gateway.rows_asked import asked
from persistence import api_keys, users
from persistence.api_keys import ApiKey
from persistence.caller_limits import UNLIMITED, Limits
from persistence.users import User

MOST_BODY_BYTES = 64 * 1024
USUALLY_LISTED = 20

router = APIRouter(prefix="/admin", tags=["Admin"])


@router.get("/keys", summary="API keys")
async def list_keys(request: Request, response: Response) -> dict[str, Any]:
    """Newest first: `limit` of them (20; at most 100), those `after` a key, those of a `user_id`."""
    lifecycle, seconds = await admin(request, response)
    count, after = page_of(request, api_keys.MOST_LISTED)
    user_id = id_of(request.query_params.get("user_id"), "user_id")
    with asked():
        found, has_more = await api_keys.listed(lifecycle.database, user_id, after, count, seconds)
    return list_object([key_object(key) for key in found], has_more=has_more)


@router.post("/keys", status_code=201, summary="New API key")
async def create_key(request: Request, response: Response) -> dict[str, Any]:
    """The only answer that has the key itself."""
    lifecycle, seconds = await admin(request, response)
    body = await read(request, NewKey, MOST_BODY_BYTES)
    user_id = id_of(body.user_id, "user_id")
    assert user_id is not None
    key = new_key()
    with asked():
        user = await users.get(lifecycle.database, user_id, seconds)
        if user is None:
            raise no_such("user")
        check_admin_scope(body.scopes, user.is_admin)
        id_ = await api_keys.create(
            lifecycle.database,
            key,
            prefix_of(key),
            user_id,
            seconds,
            name=body.name,
            scopes=body.scopes,
            limits=changed(UNLIMITED, body.limits),
            weight=body.weight,
            expire_time=moment(body.expires_at),
        )
        if id_ is None:
            raise no_such("user")
        made = await api_keys.named(lifecycle.database, id_, None, seconds)
    return key_object(made[0]) | {"key": key}


@router.post("/keys/{key_id}", summary="Change an API key")
async def change_key(request: Request, response: Response, key_id: str) -> dict[str, Any]:
    """What is left out stays as it is. A key that was revoked stays so."""
    lifecycle, seconds = await admin(request, response)
    body = await read(request, ChangedKey, MOST_BODY_BYTES)

    def edit(key: ApiKey) -> ApiKey:
        scopes = key.scopes if body.scopes is None else body.scopes
        sent = "expires_at" in body.model_fields_set
        return replace(
            key,
            name=key.name if body.name is None else body.name,
            scopes=sorted(set(scopes)),
            limits=changed(key.limits, body.limits),
            weight=key.weight if body.weight is None else body.weight,
            expire_time=moment(body.expires_at) if sent else key.expire_time,
        )

    meant = id_of(key_id, "key_id", missing="key")
    assert meant is not None
    with asked():
        if body.scopes is not None:
            for key in await api_keys.named(lifecycle.database, meant, None, seconds):
                check_admin_scope(body.scopes, key.user_is_admin)
        found = await api_keys.change(lifecycle.database, meant, edit, seconds)
    if found is None:
        raise no_such("key")
    lifecycle.api_keys.forget(lambda one: one.id == meant)
    return key_object(found)


@router.delete("/keys/{key_id}", summary="Revoke an API key")
async def revoke_key(request: Request, response: Response, key_id: str) -> dict[str, Any]:
    """For good; it is still listed, as `revoked`."""
    lifecycle, seconds = await admin(request, response)
    meant = id_of(key_id, "key_id", missing="key")
    assert meant is not None
    with asked():
        await api_keys.revoke(lifecycle.database, seconds, ids=[meant])
        lifecycle.api_keys.forget(lambda one: one.id == meant)
        found = await api_keys.named(lifecycle.database, meant, None, seconds)
    if not found:
        raise no_such("key")
    return key_object(found[0])


@router.get("/users", summary="Users")
async def list_users(request: Request, response: Response) -> dict[str, Any]:
    """Newest first: `limit` of them (20; at most 100), those `after` a user."""
    lifecycle, seconds = await admin(request, response)
    count, after = page_of(request, users.MOST_LISTED)
    with asked():
        found, has_more = await users.listed(lifecycle.database, after, count, seconds)
    return list_object([user_object(user) for user in found], has_more=has_more)


@router.post("/users", status_code=201, summary="New user")
async def create_user(request: Request, response: Response) -> dict[str, Any]:
    """Without a password he can't log in, and has keys only."""
    lifecycle, seconds = await admin(request, response)
    body = await read(request, NewUser, MOST_BODY_BYTES)
    hashed = users.NO_PASSWORD
    if body.password is not None:
        hashed = await lifecycle.accounts.hash(body.password)
    limits = changed(UNLIMITED, body.limits)
    with asked():
        id_ = await users.register(
            lifecycle.database, body.username, hashed, seconds, is_admin=body.is_admin, limits=limits
        )
        if id_ is None:
            raise Conflict("There is a user of this name.", "username", "username_taken")
        user = await users.get(lifecycle.database, id_, seconds)
    if user is None:
        raise no_such("user")
    return user_object(user)


@router.post("/users/{user_id}", summary="Change a user")
async def change_user(request: Request, response: Response, user_id: str) -> dict[str, Any]:
    """What is left out stays as it is. With another password whoever is logged in is so no more."""
    lifecycle, seconds = await admin(request, response)
    body = await read(request, ChangedUser, MOST_BODY_BYTES)
    meant = id_of(user_id, "user_id", missing="user")
    assert meant is not None
    hashed = None if body.password is None else await lifecycle.accounts.hash(body.password)

    def edit(user: User) -> User:
        return replace(
            user,
            password_hash=user.password_hash if hashed is None else hashed,
            is_admin=user.is_admin if body.is_admin is None else body.is_admin,
            limits=changed(user.limits, body.limits),
        )

    with asked():
        user = await users.change(lifecycle.database, meant, edit, seconds)
    return told(lifecycle, user)


@router.delete("/users/{user_id}/access", summary="Shut a user out")
async def shut_out(request: Request, response: Response, user_id: str) -> dict[str, Any]:
    """His password and sessions go, his keys are revoked, he is no admin; what is his stays."""
    lifecycle, seconds = await admin(request, response)
    meant = id_of(user_id, "user_id", missing="user")
    assert meant is not None
    with asked():
        user = await users.shut_out(lifecycle.database, meant, seconds)
    return told(lifecycle, user)


async def admin(request: Request, response: Response) -> tuple[Lifecycle, float]:
    """An admin asks; what he is told is for nobody's cache. With how long PostgreSQL may take."""
    lifecycle = lifecycle_of(request)
    await caller_of(request, Scope.ADMIN)
    response.headers["cache-control"] = "no-store"
    return lifecycle, lifecycle.settings.database_timeout_seconds


def told(lifecycle: Lifecycle, user: User | None) -> dict[str, Any]:
    """A user who has been changed. Raises NotFound."""
    if user is None:
        raise no_such("user")
    lifecycle.api_keys.forget_user(user.id)
    lifecycle.sessions.forget_user(user.id)
    return user_object(user)


def page_of(request: Request, most: int) -> tuple[int, UUID | None]:
    """How many are asked for, and after which. Raises InvalidRequest."""
    text = request.query_params.get("limit", str(USUALLY_LISTED))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise InvalidRequest(f"'limit' must be a number from 1 to {most}.", "limit", "invalid_value")
    return int(text), id_of(request.query_params.get("after"), "after")


def id_of(text: str | None, param: str, missing: str | None = None) -> UUID | None:
    """The id that ``text`` is. Raises InvalidRequest where it is none, and NotFound for that of what is then
    ``missing``."""
    id_ = None if text is None else uuid_of(text)
    if text is not None and id_ is None:
        if missing is not None:
            raise no_such(missing)
        raise InvalidRequest(f"'{param}' must be an id: 32 hex digits.", param, "invalid_value")
    return id_


def no_such(what: str) -> NotFound:
    """There is none with this id."""
    return NotFound(f"There is no such {what}.", f"{what}_id", f"{what}_not_found")


def check_admin_scope(scopes: Collection[str], is_admin: bool) -> None:
    """Raises InvalidRequest for a key that would say more than its user may."""
    if Scope.ADMIN in scopes and not is_admin:
        raise InvalidRequest("Only an admin's key has the scope 'admin'.", "scopes", "invalid_value")


def changed(limits: Limits, given: LimitFields | None) -> Limits:
    """``limits`` with those that are given."""
    return limits if given is None else replace(limits, **given.given)


def moment(seconds: int | None) -> datetime | None:
    """Of Unix time."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def key_object(key: ApiKey) -> dict[str, Any]:
    """As an answer has it."""
    return {
        "object": "api_key",
        "id": key.id.hex,
        "name": key.name,
        "prefix": key.prefix,
        "user_id": key.user_id.hex,
        "username": key.username,
        "scopes": list(key.scopes),
        "limits": asdict(key.limits),
        "weight": key.weight,
        "status": key.status(datetime.now(UTC)),
        "created_at": unix(key.create_time),
        "expires_at": unix(key.expire_time),
        "revoked_at": unix(key.revoke_time),
    }


def user_object(user: User) -> dict[str, Any]:
    """As an answer has it."""
    return {
        "object": "user",
        "id": user.id.hex,
        "username": user.username,
        "is_admin": user.is_admin,
        "has_password": bool(user.password_hash),
        "limits": asdict(user.limits),
        "created_at": unix(user.create_time),
    }
