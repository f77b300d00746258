"""POST /api/chat, as fufan's front end and older clients of it send it."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from persistence.exact_text import from_column
from tests.end_to_end.raw_http import post
from tests.end_to_end.served import Gateway, running
from tests.sse_clients import fetch_event_source

PATH = "/api/chat"
AS_FETCH_EVENT_SOURCE = {"accept": "text/event-stream"}


@pytest.fixture
def conversation() -> str:
    """The id of one that is not known."""
    return uuid4().hex


def sql(gateway: Gateway, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """What a statement gives, of the gateway's own database."""
    socket_dir = (gateway.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[4]

    async def fetch() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(f"postgresql://postgres@/postgres?host={socket_dir}")
        try:
            return [tuple(record) for record in await connection.fetch(statement, *values)]
        finally:
            await connection.close()

    return asyncio.run(fetch())


def new_user(gateway: Gateway) -> UUID:
    id_ = uuid4()
    sql(gateway, 'INSERT INTO "user" VALUES ($1, $2, $3, now())', id_, id_.hex, "no password")
    return id_


def conversations(gateway: Gateway, id_: str) -> list[tuple[Any, ...]]:
    """What there is of a conversation: name, type and user."""
    found = sql(gateway, "SELECT name, chat_type, user_id FROM conversation WHERE id = $1", id_)
    return [(from_column(name), *rest) for name, *rest in found]


def ask(client: httpx.Client, query: str, **fields: Any) -> str:
    """The id of an answer."""
    answer = client.post(PATH, json={"query": query, "stream": False} | fields)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), answer.text
    body: dict[str, str] = answer.json()
    assert list(body) == ["text", "message_id"]
    assert body["text"] == query
    return body["message_id"]


@pytest.mark.parametrize("path", [PATH, "/api/api/chat"])
@pytest.mark.parametrize("fields", [{}, {"stream": None}, {"stream": True}])
def test_it_streams_unless_it_is_told_not_to(simulated: Gateway, path: str, fields: dict[str, Any]) -> None:
    # What the front end sends.
    body = {"query": "你好", "conversation_id": uuid4().hex, "model_name": "simulated"} | fields
    answer = post(simulated, path, body)
    assert (answer.status, answer.ended) == (200, True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = [json.loads(data) for data in fetch_event_source(b"".join(answer.chunks).decode())]
    assert [one["text"] for one in told] == ["你", "好"]
    row = simulated.row(told[0]["message_id"])
    assert (row["chat_type"], row["conversation_id"]) == ("general_chat", body["conversation_id"])
    assert conversations(simulated, row["conversation_id"]) == [("你好", "general_chat", None)]


def test_a_conversations_last_10_turns_come_before(
    simulated: Gateway, client: httpx.Client, conversation: str
) -> None:
    for number in range(11):
        row = simulated.row(ask(client, chr(ord("a") + number), conversation_id=conversation))
        assert row["prompt_tokens"] == 2 * number + 1
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, 10),
        ({"history": [], "history_len": None}, 10),
        ({"history_len": 2}, 2),
        ({"history": 3}, 3),
        ({"history_len": 0}, 0),
        ({"history_len": -1}, 0),
        ({"history": 0}, 0),
        ({"prompt_name": "py"}, 0),
    ]
    for fields, turns in cases:
        asked = {"query": "Q", "stream": False, "conversation_id": conversation} | fields
        row = simulated.row(client.post(PATH, json=asked).json()["message_id"])
        assert row["meta_data"].get("turns", 0) == turns
        assert row["chat_type"] == fields.get("prompt_name", "general_chat")
    row = simulated.row(ask(client, "Q", conversation_id=conversation, history=[["user", "12"]]))
    assert row["prompt_tokens"] == 3


def test_a_conversation_is_made_with_its_user_and_name(simulated: Gateway, client: httpx.Client) -> None:
    user_id = new_user(simulated)
    for written, given, name in [
        (user_id.hex, None, "q" * 50),
        (str(user_id), "新对话", "q" * 50),
        (str(user_id).upper(), "new_chat", "q" * 50),
        (user_id.hex, "我的 {{ name }}", "我的 {{ name }}"),
    ]:
        id_ = str(uuid4())
        fields = {"user_id": written, "conversation_id": id_, "conversation_name": given}
        row = simulated.row(ask(client, "q" * 60, **fields))
        assert (row["user_id"], row["conversation_id"]) == (user_id, id_)
        ask(client, "second", **fields)
        assert conversations(simulated, id_) == [(name, "general_chat", user_id)]
    assert simulated.row(ask(client, "without", user_id=user_id.hex))["user_id"] == user_id
    assert simulated.row(ask(client, "nobody", user_id=""))["user_id"] is None


@pytest.mark.parametrize("user_id", [uuid4().hex, str(uuid4()), "somebody", "' OR 1=1; --"])
@pytest.mark.parametrize("named", [True, False])
def test_a_user_who_is_not_there_is_refused(
    simulated: Gateway, client: httpx.Client, conversation: str, user_id: str, named: bool
) -> None:
    fields = {"conversation_id": conversation} if named else {}
    answer = client.post(PATH, json={"query": conversation, "user_id": user_id} | fields)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
    body = answer.json()
    assert (body["code"], body["status"], body["data"]) == (404, 404, None)
    assert body["msg"] == body["message"] == "'user_id': there is no such user."
    assert conversations(simulated, conversation) == []
    assert simulated.rows("query = $1", conversation) == []


def test_what_is_refused_makes_no_conversation(
    simulated: Gateway, client: httpx.Client, conversation: str
) -> None:
    for fields in ({"model_name": "gpt"}, {"prompt_name": "gpt"}, {"temperature": 3}):
        answer = client.post(PATH, json={"query": "x", "conversation_id": conversation} | fields)
        assert answer.status_code in (400, 404, 422)
    assert conversations(simulated, conversation) == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (PATH, 404),
        ("/api/chat/chat_with_retrieval", 404),
        ("/api/chat/knowledge_base_chat", 404),
        ("/api/api/chat/chat_with_search", 404),
    ],
)
def test_the_front_end_is_told_of_a_refusal_by_an_event_that_it_shows(
    simulated: Gateway, path: str, status: int
) -> None:
    answer = post(simulated, path, {"query": "x", "model_name": "gpt"}, **AS_FETCH_EVENT_SOURCE)
    assert (answer.status, answer.ended) == (status, True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    [event] = [json.loads(data) for data in fetch_event_source(b"".join(answer.chunks).decode())]
    assert (event["code"], event["status"], event["message_id"]) == (status, status, "")
    assert event["text"] == event["msg"] == event["message"] != ""


def test_with_authentication_the_session_says_whose_it_is(data_dir: Path, conversation: str) -> None:
    with (
        running(
            data_dir, "--engine", "simulated", GATEWAY_AUTHENTICATION="true", GATEWAY_REGISTRATION="open"
        ) as gateway,
        httpx.Client(base_url=gateway.base_url, timeout=60) as his,
        httpx.Client(base_url=gateway.base_url, timeout=60) as hers,
    ):
        ids: list[UUID] = []
        for client in (his, hers):
            named = {"username": f"user {len(ids)}", "password": "12345678"}
            ids.append(UUID(client.post("/api/users/register", json=named).json()["id"]))
        for fields in ({}, {"user_id": str(ids[0])}):
            row = gateway.row(ask(his, "x", conversation_id=conversation, **fields))
            assert row["user_id"] == ids[0]
        assert row["meta_data"]["turns"] == 1
        assert conversations(gateway, conversation) == [("x", "general_chat", ids[0])]
        body = {"query": "x", "conversation_id": conversation}
        for client, fields, status in [
            (his, {"user_id": ids[1].hex}, 403),
            (hers, {"user_id": ids[0].hex}, 403),
            (hers, {}, 404),
        ]:
            assert client.post(PATH, json=body | fields).status_code == status
        stranger = httpx.post(gateway.base_url + PATH, json=body, headers=AS_FETCH_EVENT_SOURCE)
        assert stranger.status_code == 401
        [event] = [json.loads(data) for data in fetch_event_source(stranger.text)]
        assert (event["code"], event["text"]) == (401, event["msg"])
        assert len(gateway.rows()) == 2


def test_without_stored_text_and_with_another_style(data_dir: Path, conversation: str) -> None:
    settings = {"GATEWAY_STORE_CONTENT": "none", "GATEWAY_STREAM_STYLE": "cumulative"}
    with running(data_dir, "--engine", "simulated", **settings) as gateway:
        for fields, texts in [({}, ["a", "ab"]), ({"stream_style": "delta"}, ["a", "b"])]:
            # Nobody asks for turns, so there are none.
            body = {"query": "ab", "conversation_id": conversation} | fields
            for path in (PATH, "/chat/chat"):
                answer = post(gateway, path, body | {"stream": True})
                events = fetch_event_source(b"".join(answer.chunks).decode())
                assert [json.loads(data)["text"] for data in events] == texts
        refused = post(gateway, PATH, body | {"history_len": 3})
        assert refused.status == 400
        assert "'history_len' asks for stored turns" in json.loads(refused.chunks[0])["msg"]


@pytest.fixture(scope="module")
def impatient() -> Iterator[Gateway]:
    """A gateway that does not wait long for PostgreSQL."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    with running(folder, "--engine", "simulated", GATEWAY_DATABASE_TIMEOUT_SECONDS="0.3") as gateway:
        yield gateway
    shutil.rmtree(folder, ignore_errors=True)


def test_while_postgresql_hangs_a_chat_goes_on_without_its_user_and_conversation(
    impatient: Gateway, conversation: str
) -> None:
    user_id = new_user(impatient)
    with httpx.Client(base_url=impatient.base_url, timeout=60) as client:
        with impatient.hanging_postgresql():
            fields = {"user_id": user_id.hex, "conversation_id": conversation}
            message_id = ask(client, "x", history_len=0, **fields)
            refused = client.post(PATH, json={"query": "y"} | fields)
        # Turns are needed for the answer, though nobody has named history_len.
        assert refused.status_code == 503
        assert "'conversation_id' asks for stored turns" in refused.json()["msg"]
        impatient.wait_for(lambda: impatient.rows("id = $1", UUID(message_id)))
        # Whether he is there was not known.
        assert impatient.row(message_id)["user_id"] is None
        assert "a chat goes on without its user and conversation" in impatient.output
