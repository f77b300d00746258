from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from persistence import conversation_messages
from persistence.content_policy import ContentPolicy
from persistence.conversation_messages import Message, messages_of
from persistence.database import Database
from persistence.message_row import WRITE, MessageRow, arrays, encoded
from tests.persistence.conftest import MakeDatabase
from tests.persistence.rows import closed, new_row
from tests.persistence.test_conversations import NOON, migrated, turn_row, write
from tests.persistence.users import new_user

SECONDS = 30.0
ALL = 10**9


async def read(
    database: Database,
    conversation_id: str = "c",
    *,
    owner: UUID | None = None,
    chat_types: list[str] | None = None,
    before: UUID | None = None,
    count: int = ALL,
) -> tuple[list[UUID], bool]:
    found = await messages_of(database, conversation_id, owner, chat_types, before, count, SECONDS)
    return [one.id for one in found.items], found.has_more


async def test_they_come_oldest_first_with_what_was_said(database: Database) -> None:
    user = await new_user(database)
    done = closed(new_row("q\0{{x}}", conversation_id="c", user_id=user), "a\ufdd0'\u2028")
    done.meta_data = {"stream": True, "metadata": {"k\0": "v"}}
    running = new_row("still", conversation_id="c")
    await write(database, [running, done, new_row(conversation_id="d"), new_row()])
    found = await messages_of(database, "c", None, None, None, ALL, SECONDS)
    assert found.items == [
        Message(
            done.id, "c", "llm_chat", done.query, done.response, done.meta_data, "completed", done.create_time
        ),
        Message(running.id, "c", "llm_chat", "still", "", {}, "running", running.create_time),
    ]
    assert not found.has_more
    assert await read(database, "unknown") == ([], False)


async def test_with_an_owner_only_his_whosever_the_conversation_is(database: Database) -> None:
    one, two = await new_user(database), await new_user(database)
    rows = [turn_row(number) for number in range(6)]
    for number, row in enumerate(rows):
        row.user_id = (one, two, None)[number % 3]
    await write(database, rows)
    assert await read(database, owner=one) == ([rows[0].id, rows[3].id], False)
    assert await read(database, owner=two) == ([rows[1].id, rows[4].id], False)
    assert await read(database, owner=uuid4()) == ([], False)
    assert await read(database) == ([row.id for row in rows], False)


async def test_only_of_the_types_that_are_asked_for(database: Database) -> None:
    rows = [turn_row(number) for number in range(4)]
    for number, row in enumerate(rows):
        row.chat_type = f"t{number}"
    await write(database, rows)
    assert await read(database, chat_types=["t1", "t3"]) == ([rows[1].id, rows[3].id], False)
    assert await read(database, chat_types=["' OR true --", "\0"]) == ([], False)


async def test_page_by_page_each_comes_once_over_many_days(fresh_database: MakeDatabase) -> None:
    async with migrated(await fresh_database()) as database:
        rows = [turn_row(number, NOON + timedelta(hours=number)) for number in range(250)]
        await write(database, rows)
        ids = [row.id for row in rows]
        assert await read(database) == (ids, False)
        seen: list[UUID] = []
        before, has_more = None, True
        while has_more:
            page, has_more = await read(database, before=before, count=120)
            seen = page + seen
            before = page[0]
        assert seen == ids
        assert await read(database, count=250) == (ids, False)
        assert await read(database, count=249) == (ids[1:], True)


async def test_no_more_text_comes_than_is_allowed_but_for_one_message(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation_messages, "MOST_BYTES", 1000)
    rows = [closed(turn_row(number), "字" * 100) for number in range(9)]
    rows[4].response = "x" * 5000
    await write(database, rows)
    ids = [row.id for row in rows]
    pages = []
    before, has_more = None, True
    while has_more:
        page, has_more = await read(database, before=before)
        pages.append(page)
        before = page[0]
    assert pages == [ids[6:], ids[5:6], ids[4:5], ids[1:4], ids[:1]]
    monkeypatch.setattr(conversation_messages, "MOST_MESSAGES", 2)
    assert await read(database, before=ids[3]) == (ids[1:3], True)


async def test_messages_without_text_are_empty_and_there(database: Database) -> None:
    row = closed(turn_row(1))
    connection = await database.connection()
    await write(database, [turn_row(2)])
    await connection.execute(WRITE, *arrays([encoded(row, 1, ContentPolicy("none"))]))
    await connection.close()
    found = await messages_of(database, "c", None, None, None, ALL, SECONDS)
    assert [(one.id, one.query) for one in found.items] == [(row.id, ""), (turn_row(2).id, "query 2")]
    assert found.items[0].response == ""


async def test_a_uuid_means_the_same_in_each_of_its_spellings(database: Database) -> None:
    id_ = uuid4()
    rows = [turn_row(n, conversation_id=name) for n, name in enumerate([id_.hex, str(id_), id_.hex])]
    await write(database, rows)
    for name in (id_.hex, str(id_), id_.hex.upper()):
        assert await read(database, name) == ([row.id for row in rows], False)
        assert await read(database, name, count=2) == ([row.id for row in rows[1:]], True)


async def test_what_is_not_asked_for_is_not_read(fresh_database: MakeDatabase) -> None:
    async with migrated(await fresh_database()) as database:
        rows = [turn_row(day, NOON + timedelta(days=day)) for day in range(60)]
        others: list[MessageRow] = [turn_row(500 + n, conversation_id=f"c{n}") for n in range(500)]
        await write(database, [*rows, *others])
        connection = await database.connection()
        await connection.execute("ANALYZE; SET plan_cache_mode = force_custom_plan")

        async def plan(statement: str, *values: object) -> str:
            return "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {statement}", *values))

        of_ids = await plan(conversation_messages.IDS, ["c"], None, None, UUID(int=2**128 - 1), 3)
        of_rows = await plan(conversation_messages.ROWS, [row.id for row in rows[1:3]], 1000, True)
        await connection.close()
    assert "Seq Scan" not in of_ids
    days = [f"message_content_{NOON + timedelta(days=day):%Y_%m_%d}" for day in range(60)]
    assert [day for day in days if day in of_rows] == [
        "message_content_2025_02_01",
        "message_content_2025_02_02",
    ]
