from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import insert, select
from uuid_utils.compat import uuid7

from persistence.conversation_of_chat import UNNAMED, UnknownUser, open_conversation
from persistence.database import Database, DatabaseUnavailable
from persistence.recorder import Recorder
from persistence.tables import conversation, user
from tests.persistence.rows import closed, new_row
from tests.strategies import texts

SECONDS = 30.0


async def new_user(database: Database) -> UUID:
    id_ = uuid7()
    async with database.engine.begin() as connection:
        values = {
            "id": id_,
            "username": id_.hex,
            "password_hash": "x",
            "create_time": new_row("").create_time,
        }
        await connection.execute(insert(user).values(values))
    return id_


async def opened(
    database: Database,
    conversation_id: str | None,
    user_id: UUID | None = None,
    name: str = "",
    query: str = "first",
    seconds: float = SECONDS,
) -> None:
    await open_conversation(database, conversation_id, user_id, name, "general_chat", query, seconds)


async def found(database: Database, conversation_id: str) -> list[tuple[Any, ...]]:
    """What there is of a conversation."""
    columns = (conversation.c.name, conversation.c.chat_type, conversation.c.user_id)
    async with database.engine.connect() as connection:
        rows = await connection.execute(select(*columns).where(conversation.c.id == conversation_id))
        return [tuple(row) for row in rows]


async def test_the_first_chat_makes_the_conversation(database: Database) -> None:
    owner = await new_user(database)
    await opened(database, "named", owner, "A name of its own")
    assert await found(database, "named") == [("A name of its own", "general_chat", owner)]
    await opened(database, "nobody's")
    assert await found(database, "nobody's") == [("first", "general_chat", None)]


@pytest.mark.parametrize("name", UNNAMED)
async def test_a_conversation_without_a_name_takes_its_first_query(database: Database, name: str) -> None:
    async with database.engine.begin() as connection:
        values = {"id": "c", "name": name, "chat_type": "t", "create_time": new_row("").create_time}
        await connection.execute(insert(conversation).values(values))
    await opened(database, "c", query="好" * 60)
    await opened(database, "c", query="second")
    await opened(database, "c", name="given later", query="third")
    assert await found(database, "c") == [("好" * 50, "t", None)]
    await opened(database, "new", name=name, query="q" * 51)
    assert await found(database, "new") == [("q" * 50, "general_chat", None)]


async def test_a_conversation_that_a_row_made_is_named_too(database: Database, recorder: Recorder) -> None:
    row = new_row("said before", conversation_id="c")
    recorder.begin(row)
    assert await recorder.close(closed(row, "answer"), SECONDS)
    await opened(database, "c", query="said now")
    assert [name for name, _, _ in await found(database, "c")] == ["said now"]


async def test_a_conversation_is_named_by_its_own_user_alone(database: Database) -> None:
    owner, another = await new_user(database), await new_user(database)
    await opened(database, "c", owner, query="")
    await opened(database, "c", another, query="another's")
    assert await found(database, "c") == [("", "general_chat", owner)]
    await opened(database, "c", owner, query="his")
    assert await found(database, "c") == [("his", "general_chat", owner)]


@pytest.mark.parametrize("conversation_id", [None, "c"])
async def test_a_user_who_is_not_there_is_told(database: Database, conversation_id: str | None) -> None:
    with pytest.raises(UnknownUser):
        await opened(database, conversation_id, uuid4())
    assert await found(database, "c") == []
    await opened(database, conversation_id, await new_user(database))
    await opened(database, None)


async def test_many_first_messages_at_once_make_one_conversation(database: Database) -> None:
    queries = [f"query {number}" for number in range(20)]
    await asyncio.gather(*(opened(database, "c", query=query) for query in queries))
    [(name, _, _)] = await found(database, "c")
    assert name in queries


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(texts, texts, texts)
async def test_any_text_is_kept_as_it_is(database: Database, id_: str, name: str, query: str) -> None:
    id_ += uuid4().hex
    await opened(database, id_, name=name, query=query)
    title = query[:50]
    assert await found(database, id_) == [(title if name in UNNAMED else name[:50], "general_chat", None)]


async def test_a_server_that_hangs_is_not_waited_for(database: Database) -> None:
    async with database.engine.begin() as connection:
        await connection.exec_driver_sql("LOCK TABLE conversation")
        with pytest.raises(DatabaseUnavailable):
            await opened(database, "c", seconds=0.1)
