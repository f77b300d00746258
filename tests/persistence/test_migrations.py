"""Rows of an older schema are found again in the newer one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

import persistence.migrations
from persistence.database import Database
from persistence.exact_text import from_column, json_from_column, json_to_column, to_column
from persistence.liveness import close_lost
from tests.persistence.conftest import MakeDatabase
from tests.persistence.past import connected, id_at, moment, partition_names, row_at, write

CALL = {"name": "weather", "arguments": '{"city": "Bel\0grade"}'}
MESSAGES = [{"role": "user", "content": "a\0b"}, {"role": "user", "content": "\ufdd0"}]
CHOICES = [{"response": "one\0", "finish_reason": "stop"}, {"response": "two", "finish_reason": "length"}]

# What differs between them; the rest is in ``as_0001``.
ROWS: list[dict[str, Any]] = [
    {"at": moment(2025, 12, 31, 23), "conversation_id": "c\0one"},
    {"at": moment(2026, 1, 1, 0), "conversation_id": "c\0one", "meta_data": {"messages": MESSAGES}},
    {"at": moment(2026, 1, 1, 1), "meta_data": {"tool_calls": [CALL], "tools": [{}], "tool_choice": "auto"}},
    {"at": moment(2026, 1, 1, 2), "meta_data": {"choices": CHOICES, "queue_ms": 1.5, "sampling": {"n": 2}}},
    {"at": moment(2026, 2, 28), "response": "with \0 and \ufdd0 and 0", "query": "\0", "conversation_id": ""},
    {"at": moment(2026, 4, 1), "status": "running", "finish_reason": None, "duration_ms": None},
    {"at": moment(2026, 4, 2), "status": "error", "error": "broke\0", "feedback_score": 80},
]
Migrated = tuple[Database, list[dict[str, Any]]]
TEXTS = {"messages", "tool_calls", "tools", "tool_choice", "choices"}


def as_0001(different: dict[str, Any]) -> dict[str, Any]:
    """A row as revision 0001 has it, with the texts as they are outside."""
    when = different["at"]
    return {
        "id": id_at(when),
        "conversation_id": None,
        "chat_type": "llm_chat",
        "query": "question",
        "response": "answer",
        "meta_data": {"stream": True},
        "feedback_score": -1,
        "feedback_reason": "good\0",
        "create_time": when,
        "endpoint": "/v1/chat/completions",
        "model": "m",
        "status": "completed",
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "cached_tokens": 2,
        "ttft_ms": 1.25,
        "duration_ms": 2.5,
        "error": None,
        "request_id": "r",
    } | {name: value for name, value in different.items() if name != "at"}


def in_columns(row: dict[str, Any]) -> list[Any]:
    return [
        json_to_column(value)
        if name == "meta_data"
        else to_column(value)
        if isinstance(value, str)
        else value
        for name, value in row.items()
    ]


def outside(row: asyncpg.Record) -> dict[str, Any]:
    """The row with its texts as they are outside."""
    found = dict(row)
    for name, value in found.items():
        if name in ("meta_data", "messages", "details"):
            found[name] = None if value is None else json_from_column(value)
        elif isinstance(value, str):
            found[name] = from_column(value)
    return found


async def upgrade(database: Database, revision: str) -> None:
    def run(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(persistence.migrations.__file__).parent))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    async with database.engine.begin() as connection:
        await connection.run_sync(run)


@pytest.fixture
async def rows(fresh_database: MakeDatabase) -> AsyncIterator[Migrated]:
    """A database that was at 0001 with ROWS in it and is as it is now, and these rows."""
    database = Database(await fresh_database(), Path())
    await database.connect()
    await upgrade(database, "0001")
    rows = [as_0001(different) for different in ROWS]
    async with connected(database) as connection:
        places = ", ".join(f"${place}" for place in range(1, len(rows[0]) + 1))
        await connection.executemany(
            f"INSERT INTO message ({', '.join(rows[0])}) VALUES ({places})", [in_columns(row) for row in rows]
        )
    await upgrade(database, "head")
    yield database, rows
    await database.close()


async def test_every_row_of_0001_is_found_again_with_all_that_it_had(
    rows: Migrated,
) -> None:
    database, made = rows
    async with connected(database) as connection:
        found = {
            row["id"]: outside(row)
            for row in await connection.fetch("SELECT * FROM message_full ORDER BY id")
        }
        assert set(found) == {row["id"] for row in made}
    for row in made:
        new = found[row["id"]]
        details = new.pop("details") | ({"messages": new["messages"]} if new["messages"] else {})
        queue_ms = {} if new["queue_ms"] is None else {"queue_ms": new["queue_ms"]}
        assert new["meta_data"] | details | queue_ms == row["meta_data"]
        assert not new["meta_data"].keys() & (TEXTS | {"queue_ms"})
        assert details.keys() <= TEXTS
        for name in row.keys() - {"meta_data"}:
            assert new[name] == row[name], name


async def test_the_conversations_of_0001_have_rows_of_their_first_turn(
    rows: Migrated,
) -> None:
    database, made = rows
    async with connected(database) as connection:
        found = [
            outside(row) for row in await connection.fetch("SELECT * FROM conversation ORDER BY create_time")
        ]
    assert [(row["id"], row["create_time"], row["user_id"], row["chat_type"]) for row in found] == [
        ("c\0one", made[0]["create_time"], None, "llm_chat"),
        ("", made[4]["create_time"], None, "llm_chat"),
    ]


async def test_the_rows_of_0001_lie_in_the_partitions_that_the_gateway_would_make(
    rows: Migrated, own_database: Database
) -> None:
    database, made = rows
    await write(own_database, [row_at(row["create_time"]) for row in made])
    assert await partition_names(database) == await partition_names(own_database)
    made_as = """
        SELECT relname, pg_get_expr(relpartbound, oid), reloptions FROM pg_class
        WHERE relispartition AND relkind = 'r' ORDER BY relname
    """
    async with connected(database) as one, connected(own_database) as other:
        assert await one.fetch(made_as) == await other.fetch(made_as)
    await write(database, [row_at(row["create_time"]) for row in made])


async def test_a_row_that_ran_at_0001_is_lost(rows: Migrated) -> None:
    database, made = rows
    async with connected(database) as connection:
        assert await close_lost(connection) == 1
        lost = await connection.fetch("SELECT id FROM message WHERE status = 'lost'")
    assert [row["id"] for row in lost] == [row["id"] for row in made if row["status"] == "running"]


async def test_an_empty_table_of_0001_has_no_partitions_afterwards(fresh_database: MakeDatabase) -> None:
    database = Database(await fresh_database(), Path())
    await database.connect()
    await upgrade(database, "0001")
    await upgrade(database, "head")
    assert await partition_names(database) == set()
    async with database.engine.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM message_full"))).scalar_one() == 0
    await database.close()
