"""Users and conversations, for fufan-chat-api's front end. Its build puts /api before each path once more."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from uuid_utils.compat import uuid7

from adapters.chatchat.fufan import (
    GENERAL_CHAT,
    NEW_CHAT,
    SUCCESS,
    TAKEN,
    WRONG,
    Login,
    NewConversation,
    NewName,
    Registration,
    found,
    uuid_of,
)
from gateway.access.address import client_address
from gateway.access.caller import Caller, Scope
from gateway.access.identification import caller_of
from gateway.access.ownership import no_such_conversation, owner_of
from gateway.access.pages import check_page
from gateway.access.sessions import COOKIE, cookie
from gateway.errors import InvalidRequest, NotFound, PermissionDenied
from gateway.lifecycle import Lifecycle, lifecycle_of
from gateway.prompting import THREAD_CHARACTERS
from gateway.routes.body import read
from gateway.rows_asked import asked, see_all
from persistence import conversation_list
from persistence.conversation_deletion import delete
from persistence.conversation_list import MOST_LISTED, Conversation
from persistence.conversation_messages import MOST_MESSAGES, Message, messages_of

MOST_BODY_BYTES = 64 * 1024

routes = APIRouter(tags=["fufan"])


@routes.post("/users/register", summary="Register")
async def register(request: Request) -> Response:
    """A new user, who is logged in at once; where the setting `registration` is open."""
    lifecycle = lifecycle_of(request)
    check_page(request, lifecycle.settings)
    if not lifecycle.settings.registers:
        raise PermissionDenied(
            "Nobody can register here: the operator makes users ('chatglm-gateway users create'), or opens "
            "this with the setting registration.",
            code="registration_closed",
        )
    body = await read(request, Registration, MOST_BODY_BYTES)
    with asked():
        user_id = await lifecycle.accounts.register(body.username, body.password, client_address(request))
        if user_id is None:
            raise InvalidRequest(TAKEN, "username", "username_taken")
        await start_session(request, lifecycle, user_id)
    return answer(SUCCESS | {"id": user_id.hex, "username": body.username}, 201)


@routes.post("/users/login", summary="Log in")
async def login(request: Request) -> Response:
    """Starts a session, whose token is in the cookie; also where it fails the HTTP status is 200."""
    lifecycle = lifecycle_of(request)
    check_page(request, lifecycle.settings)
    body = await read(request, Login, MOST_BODY_BYTES)
    with asked():
        user_id = await lifecycle.accounts.log_in(body.username, body.password, client_address(request))
        if user_id is None:
            return answer(WRONG)
        await start_session(request, lifecycle, user_id)
    return answer(SUCCESS | {"id": user_id.hex, "username": body.username, "message": "Login successful"})


@routes.post("/users/logout", summary="Log out")
async def logout(request: Request) -> Response:
    """Ends the session, if there is one."""
    lifecycle = lifecycle_of(request)
    check_page(request, lifecycle.settings)
    with asked():
        await end_session(request, lifecycle)
    request.state.set_cookie = cookie(request, "", 0)
    return answer(SUCCESS | {"message": "Logged out"})


@routes.post("/conversations", summary="New conversation")
async def create(request: Request) -> Response:
    """An empty one."""
    lifecycle, caller = lifecycle_of(request), await caller_of(request, Scope.INFERENCE)
    body = await read(request, NewConversation, MOST_BODY_BYTES)
    if body.user_id is None and caller.user_id is None:
        raise InvalidRequest(
            "Missing required parameter: 'user_id'.", "user_id", "missing_required_parameter"
        )
    user_id = caller.user_id if body.user_id is None else users_own(lifecycle, caller, body.user_id)
    id_ = uuid7().hex
    with asked():
        made = user_id is not None and await conversation_list.create(
            lifecycle.database,
            id_,
            user_id,
            NEW_CHAT if body.name is None else body.name,
            body.chat_type or GENERAL_CHAT,
            lifecycle.settings.database_timeout_seconds,
        )
    if not made:
        raise InvalidRequest("There is no such user.", "user_id", "user_not_found")
    return answer(SUCCESS | {"id": id_})


@routes.get("/users/{user_id}/conversations", summary="A user's conversations")
async def of_user(request: Request, user_id: str) -> Response:
    """Newest first, at most 1000: `before`, the id of the last one, asks for those that follow it where
    `has_more` is true. `limit` asks for fewer, `chat_types` for those of some types."""
    lifecycle, caller = lifecycle_of(request), await caller_of(request, Scope.READ)
    whose = users_own(lifecycle, caller, user_id)
    limit, before = limit_of(request, MOST_LISTED), request.query_params.get("before")
    if whose is None:
        return answer(found([], has_more=False))
    await see_all(lifecycle)
    with asked():
        listed = await conversation_list.of_user(
            lifecycle.database,
            whose,
            chat_types(request),
            before,
            limit,
            lifecycle.settings.database_timeout_seconds,
        )
    return answer(found([conversation_fields(one) for one in listed.items], has_more=listed.has_more))


@routes.get("/conversations/{conversation_id:path}/messages", summary="A conversation's messages")
async def messages(request: Request, conversation_id: str) -> Response:
    """The latest ones, oldest first, at most 1000 and about 4 MiB of text: `before`, the id of the first one,
    asks for older ones where `has_more` is true. `limit` asks for fewer, `chat_types` for those of some
    types."""
    lifecycle, caller = lifecycle_of(request), await caller_of(request, Scope.READ)
    owner, seconds = owner_of(lifecycle, caller), lifecycle.settings.database_timeout_seconds
    limit, before = limit_of(request, MOST_MESSAGES), request.query_params.get("before")
    before_id = None if before is None else uuid_of(before)
    if before is not None and before_id is None:
        raise InvalidRequest("'before' must be the id of a message.", "before", "invalid_value")
    await see_all(lifecycle)
    with asked():
        if owner is not None:
            whose = await conversation_list.owners(lifecycle.database, conversation_id, seconds)
            if owner not in whose:
                raise no_such_conversation()
        said = await messages_of(
            lifecycle.database, conversation_id, owner, chat_types(request), before_id, limit, seconds
        )
    content = found([message_fields(one) for one in said.items], has_more=said.has_more)
    if sum(len(one.query) + len(one.response) for one in said.items) > THREAD_CHARACTERS:
        return await asyncio.to_thread(answer, content)
    return answer(content)


@routes.put("/conversations/{conversation_id:path}/update_name", summary="Rename a conversation")
async def update_name(request: Request, conversation_id: str) -> Response:
    """A name of more than 50 characters is cut."""
    lifecycle, caller = lifecycle_of(request), await caller_of(request, Scope.INFERENCE)
    body = await read(request, NewName, MOST_BODY_BYTES)
    seconds = lifecycle.settings.database_timeout_seconds
    await see_all(lifecycle)
    with asked():
        renamed = await conversation_list.rename(
            lifecycle.database, conversation_id, owner_of(lifecycle, caller), body.name, seconds
        )
    if not renamed:
        raise no_such_conversation()
    return answer(SUCCESS | {"message": "Conversation name updated"})


@routes.delete("/conversations/{conversation_id:path}", summary="Delete a conversation")
async def remove(request: Request, conversation_id: str) -> Response:
    """With all that was said in it, and of it."""
    lifecycle, caller = lifecycle_of(request), await caller_of(request, Scope.INFERENCE)
    seconds = lifecycle.settings.database_timeout_seconds
    await see_all(lifecycle)
    with asked():
        deleted = await delete(lifecycle.database, conversation_id, owner_of(lifecycle, caller), seconds)
    if not deleted:
        raise no_such_conversation()
    return answer(SUCCESS | {"message": "Conversation deleted"})


router = APIRouter()
router.include_router(routes, prefix="/api")
router.include_router(routes, prefix="/api/api", include_in_schema=False)


async def start_session(request: Request, lifecycle: Lifecycle, user_id: UUID) -> None:
    """Log a user in; whoever was logged in there before is so no more. Raises DatabaseUnavailable."""
    sessions = lifecycle.sessions
    token = await sessions.start(user_id)
    await end_session(request, lifecycle)
    request.state.set_cookie = cookie(request, token, sessions.max_age_seconds)


async def end_session(request: Request, lifecycle: Lifecycle) -> None:
    """Of the cookie that has come. Raises DatabaseUnavailable."""
    if token := request.cookies.get(COOKIE):
        await lifecycle.sessions.end(token)


def users_own(lifecycle: Lifecycle, caller: Caller, user_id: str) -> UUID | None:
    """The user whom a client names; None where that is no id. Raises NotFound where it has to be the caller
    and is not."""
    named, owner = uuid_of(user_id), owner_of(lifecycle, caller)
    if owner is not None and named != owner:
        raise NotFound("There is no such user.", "user_id", "user_not_found")
    return named


def chat_types(request: Request) -> list[str] | None:
    """The types that are asked for, repeated or separated by commas; None: all."""
    given = request.query_params.getlist("chat_types")
    return [one for text in given for one in map(str.strip, text.split(",")) if one] or None


def limit_of(request: Request, most: int) -> int:
    """How many are asked for. Raises InvalidRequest."""
    text = request.query_params.get("limit", str(most))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise InvalidRequest(f"'limit' must be a number from 1 to {most}.", "limit", "invalid_value")
    return min(int(text), most)


def conversation_fields(conversation: Conversation) -> dict[str, Any]:
    """As a list has it."""
    return {
        "id": conversation.id,
        "name": conversation.name,
        "chat_type": conversation.chat_type,
        "create_time": conversation.create_time.isoformat(timespec="milliseconds"),
    }


def message_fields(message: Message) -> dict[str, Any]:
    """As a list has it; ``status`` is ours."""
    return {
        "id": message.id.hex,
        "conversation_id": message.conversation_id,
        "chat_type": message.chat_type,
        "query": message.query,
        "response": message.response,
        "meta_data": message.meta_data,
        "status": message.status,
        "create_time": message.create_time.isoformat(timespec="milliseconds"),
    }


def answer(content: dict[str, Any], status: int = 200) -> Response:
    """``content`` as JSON."""
    encoded = json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    return Response(encoded, status, media_type="application/json")
