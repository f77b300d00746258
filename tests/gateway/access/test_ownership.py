"""With authentication nobody sees, changes or rates what is not his, but an admin."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID, uuid4

import pytest

from gateway.access.caller import OWN
from tests.gateway.access.house import House, bearer

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def says(house: House, headers: dict[str, str], conversation: str) -> str:
    """The id of the answer."""
    body = {"messages": [{"role": "user", "content": "x"}], "conversation_id": conversation}
    answer = await house.ask("POST", "/v1/chat/completions", headers, body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def touching(user: UUID, conversation: str, message: str) -> list[tuple[str, str, Any]]:
    """Each way to name what belongs to somebody: method, path and body; what ends it comes last."""
    asks = {"messages": [{"role": "user", "content": "x"}], "conversation_id": conversation}
    return [
        ("GET", f"/api/conversations/{conversation}/messages", None),
        ("GET", f"/api/users/{user.hex}/conversations", None),
        ("POST", "/api/conversations", {"user_id": user.hex, "name": "n", "chat_type": "general_chat"}),
        ("POST", "/v1/chat/completions", asks),
        ("POST", "/chat/chat/completions", asks),
        ("POST", "/v1/completions", {"prompt": "x", "conversation_id": conversation}),
        ("POST", "/tokenize", asks | {"history": 3}),
        ("POST", "/chat/chat", {"query": "x", "conversation_id": conversation}),
        ("POST", "/api/chat", {"query": "x", "conversation_id": conversation, "stream": False}),
        ("POST", "/v1/feedback", {"completion_id": message, "thumbs": "up"}),
        ("POST", "/chat/feedback", {"message_id": message.split("-")[-1], "score": 1}),
        ("PUT", f"/api/conversations/{conversation}/update_name", {"name": "n"}),
        ("DELETE", f"/api/conversations/{conversation}", None),
    ]


@pytest.mark.parametrize("with_key", [True, False])
async def test_what_is_somebody_elses_is_not_there(house: House, with_key: bool) -> None:
    one, two = await house.new_user(), await house.new_user()
    admin = bearer(await house.new_key(await house.new_user(is_admin=True), "admin"))
    own = bearer(await house.new_key(one, *OWN)) if with_key else await house.new_session(one)
    other = bearer(await house.new_key(two, *OWN)) if with_key else await house.new_session(two)
    conversation, nothing = uuid4().hex, uuid4().hex
    message = await says(house, own, conversation)
    missing = touching(uuid4(), nothing, f"chatcmpl-{nothing}")
    for (method, path, body), (_, no_path, no_body) in zip(
        touching(one, conversation, message), missing, strict=True
    ):
        answer = await house.ask(method, path, other, body)
        if path == "/chat/feedback":
            assert (answer.status_code, answer.json()["code"]) == (200, 404)
        else:
            assert answer.status_code == 404, (method, path, answer.text)
        if "feedback" in path or path != no_path:
            # It is told as of what is not there, but for the id that was asked for.
            same = await house.ask(method, no_path, other, no_body)
            assert without_ids(same.text) == without_ids(answer.text)
    # The name of another user is no conversation's; it is refused openly.
    named = await house.ask("POST", "/api/chat", other, {"query": "x", "user_id": one.hex})
    assert named.status_code == 403
    said = await house.ask("GET", f"/api/conversations/{conversation}/messages", own)
    assert [found["query"] for found in said.json()["data"]] == ["x"]
    for method, path, body in touching(one, conversation, message):
        answer = await house.ask(method, path, admin, body)
        assert answer.status_code == 200, (method, path, answer.text)
        assert path != "/chat/feedback" or answer.json()["code"] == 200


def without_ids(text: str) -> str:
    return re.sub(r"[0-9a-f]{32}", "id", text)


async def test_the_latest_messages_are_ones_own_also_for_an_admin(house: House) -> None:
    admin = await house.new_user(is_admin=True)
    key = bearer(await house.new_key(admin, "admin"))
    other = bearer(await house.new_key(await house.new_user(), *OWN))
    await says(house, other, uuid4().hex)
    assert (await house.ask("GET", "/chat/get/messages/", key)).json()["messages"] == []
    await says(house, key, uuid4().hex)
    assert len((await house.ask("GET", "/chat/get/messages/", key)).json()["messages"]) == 1


async def test_an_admin_may_ask_in_another_users_name_who_is_there(house: House) -> None:
    user = await house.new_user()
    admin = bearer(await house.new_key(await house.new_user(is_admin=True), "admin"))
    body = {"query": "for him", "user_id": user.hex, "stream": False}
    assert (await house.ask("POST", "/api/chat", admin, body)).status_code == 200
    own = bearer(await house.new_key(user, "read"))
    (message,) = (await house.ask("GET", "/chat/get/messages/", own)).json()["messages"]
    assert message["query"] == "for him"
    nobody = await house.ask("POST", "/api/chat", admin, body | {"user_id": uuid4().hex})
    assert nobody.status_code == 404
