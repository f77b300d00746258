from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from persistence import conversation_deletion, partitions
from persistence.content_policy import ContentPolicy
from persistence.conversation_deletion import delete
from persistence.conversations import PAGE
from persistence.database import Database, DatabaseUnavailable
from persistence.feedback import Feedback, UnknownMessage, give
from persistence.latest_messages import latest_messages
from persistence.message_row import SESSION, WRITE, MessageRow, arrays, encoded
from persistence.partitions import FEEDBACK
from persistence.usage import Usage, usage_between
from tests.persistence.conftest import MakeDatabase
from tests.persistence.rows import closed, new_row, stored
from tests.persistence.test_conversations import NOON, migrated, turn_row, write
from tests.persistence.users import new_user

SECONDS = 30.0


async def all_sums(database: Database) -> list[Usage]:
    return await usage_between(database, date(2025, 1, 1), datetime.now(UTC).date() + timedelta(days=1))


async def give_feedback(database: Database, ids: Iterable[UUID]) -> None:
    connection = await database.connection()
    await partitions.make_for(connection, ids, (FEEDBACK,))
    for id_ in ids:
        await connection.execute(
            "INSERT INTO feedback (message_id, id, score, reason, create_time)"
            " VALUES ($1, 'f', 90, 'r', now())",
            id_,
        )
        await connection.execute(
            "UPDATE message SET feedback_score = 90, feedback_reason = 'r' WHERE id = $1", id_
        )
    await connection.close()


async def count(database: Database, table: str) -> int:
    async with database.engine.connect() as connection:
        return int((await connection.exec_driver_sql(f"SELECT count(*) FROM {table}")).scalar_one())


def is_wiped(row: dict[str, Any]) -> bool:
    return (row["query"], row["response"], row["conversation_id"], row["user_id"], row["error"]) == (
        (None,) * 5
    ) and (row["meta_data"], row["feedback_score"], row["feedback_reason"]) == ({"deleted": True}, -1, "")


async def test_what_was_said_goes_and_what_it_cost_stays(fresh_database: MakeDatabase) -> None:
    """Over pages, days and months."""
    async with migrated(await fresh_database()) as database:
        user = await new_user(database)
        rows = [turn_row(number, NOON + timedelta(hours=number)) for number in range(2 * PAGE + 50)]
        for row in rows:
            row.user_id, row.error = user, "broken"
        rest = turn_row(1000, conversation_id="d")
        await write(database, [*rows, rest])
        await give_feedback(database, [rows[0].id, rows[-1].id, rest.id])
        sums = await all_sums(database)
        assert await delete(database, "c", user, SECONDS)
        found = await stored(database)
        other = found.pop(rest.id)
        assert (other["query"], other["feedback_score"], other["conversation_id"]) == (rest.query, 90, "d")
        assert len(found) == len(rows)
        assert all(map(is_wiped, found.values()))
        assert [
            await count(database, table) for table in ("message_content", "feedback", "conversation")
        ] == [1] * 3
        assert await all_sums(database) == sums
        assert not await delete(database, "c", user, SECONDS)


@pytest.mark.parametrize("given", [lambda id_: id_.hex, str, lambda id_: id_.hex.upper()])
async def test_each_spelling_of_a_uuid_is_deleted(database: Database, given: Any) -> None:
    id_ = uuid4()
    rows = [turn_row(1, conversation_id=id_.hex), turn_row(2, conversation_id=str(id_))]
    await write(database, rows)
    assert await delete(database, given(id_), None, SECONDS)
    assert all(map(is_wiped, (await stored(database)).values()))
    assert await count(database, "conversation") == 0


async def test_what_is_somebody_elses_is_not_there_and_stays(database: Database) -> None:
    one, two = await new_user(database), await new_user(database)
    rows = [turn_row(number) for number in range(6)]
    for number, row in enumerate(rows):
        row.user_id = (one, two, None)[number % 3]
    await write(database, rows)
    before = await stored(database)
    for owner, name in ((two, "c"), (uuid4(), "c"), (one, "unknown"), (one, "c\0"), (one, "' OR true --")):
        assert not await delete(database, name, owner, SECONDS)
    assert await stored(database) == before
    assert await delete(database, "c", one, SECONDS)
    found = await stored(database)
    assert [is_wiped(found[row.id]) for row in rows] == [True, False, False] * 2
    left = {row.id: before[row.id] | {"conversation_id": None} for row in rows if row.user_id != one}
    assert {id_: row for id_, row in found.items() if not is_wiped(row)} == left
    assert await count(database, "conversation") == 0


@pytest.mark.parametrize("status", ["completed", "error", "cancelled"])
@pytest.mark.parametrize("swept", [False, True])
async def test_what_was_running_tells_its_end_without_its_text(
    database: Database, status: str, swept: bool
) -> None:
    row = new_row("question", conversation_id="c")
    await write(database, [row])
    assert await delete(database, "c", None, SECONDS)
    assert is_wiped((await stored(database))[row.id])
    if swept:
        async with database.engine.begin() as connection:
            await connection.exec_driver_sql("UPDATE message SET status = 'lost', finish_reason = 'lost'")
    row = closed(row, "a secret")
    row.status, row.error, row.meta_data = status, "secret", {"metadata": {"a": "secret"}}
    for _ in range(2):
        await write(database, [row])
        found = (await stored(database))[row.id]
        assert is_wiped(found)
        assert (found["status"], found["prompt_tokens"], found["completion_tokens"]) == (status, 8, 8)
    assert await count(database, "message_content") == await count(database, "conversation") == 0


async def test_what_comes_again_from_a_journal_stays_deleted(database: Database) -> None:
    row = closed(new_row("question", conversation_id="c"))
    await write(database, [row])
    assert await delete(database, "c", None, SECONDS)
    sums = await all_sums(database)
    await write(database, [row])
    assert is_wiped((await stored(database))[row.id])
    assert await count(database, "message_content") == await count(database, "conversation") == 0
    assert await all_sums(database) == sums
    # Who speaks in it again begins anew.
    again = closed(new_row("again", conversation_id="c"))
    await write(database, [row, again])
    assert (await stored(database))[again.id]["query"] == "again"
    assert await count(database, "message_content") == await count(database, "conversation") == 1


async def test_of_what_was_deleted_nothing_is_listed_and_nothing_can_be_said(database: Database) -> None:
    rows = [turn_row(1), turn_row(2, conversation_id="d")]
    await write(database, rows)
    assert await delete(database, "c", None, SECONDS)
    assert [one.id for one in await latest_messages(database, None, 9, SECONDS)] == [rows[1].id]
    with pytest.raises(UnknownMessage):
        await give(database, Feedback(rows[0].id, "f", 90, "a secret"), None, ContentPolicy(), SECONDS)
    assert is_wiped((await stored(database))[rows[0].id])
    assert await count(database, "feedback") == 0


async def test_feedback_that_waits_for_a_deletion_is_refused(database: Database) -> None:
    row = turn_row(1)
    await write(database, [row])
    async with database.engine.begin() as blocking:
        await blocking.exec_driver_sql("LOCK TABLE message_content IN ACCESS EXCLUSIVE MODE")
        deleting = asyncio.create_task(delete(database, "c", None, SECONDS))
        await waits_for_lock(database, "DELETE FROM message_content")
        said = Feedback(row.id, "f", 90, "a secret")
        giving = asyncio.create_task(give(database, said, None, ContentPolicy(), SECONDS))
        await waits_for_lock(database, "WITH target")
    assert await deleting
    with pytest.raises(UnknownMessage):
        await giving
    assert is_wiped((await stored(database))[row.id])


async def test_an_end_that_waits_for_a_deletion_brings_nothing_back(database: Database) -> None:
    """It has begun before the deletion is committed, and sees the text that is gone."""
    row = new_row("question", conversation_id="c")
    await write(database, [row])
    writing = await database.connection()
    await writing.execute(SESSION)
    async with database.engine.begin() as blocking:
        await blocking.exec_driver_sql("LOCK TABLE message_content IN ACCESS EXCLUSIVE MODE")
        deleting = asyncio.create_task(delete(database, "c", None, SECONDS))
        await waits_for_lock(database, "DELETE FROM message_content")
        end = asyncio.create_task(writing.execute(WRITE, *arrays([encoded(closed(row), 1)])))
        await waits_for_lock(database, "WITH record")
    assert await deleting
    await end
    found = (await stored(database))[row.id]
    assert (is_wiped(found), found["status"]) == (True, "completed")
    assert await count(database, "message_content") == await count(database, "conversation") == 0
    await writing.close()


async def waits_for_lock(database: Database, query: str) -> None:
    """Until a statement that begins with ``query`` does."""
    connection = await database.connection()
    async with asyncio.timeout(SECONDS):
        while not await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock' AND starts_with(ltrim(query, E'\\n '), $1))",
            query,
        ):
            await asyncio.sleep(0.01)
    await connection.close()


@pytest.mark.parametrize("seed", range(4))
async def test_beside_those_who_write_every_token_counts_once_and_no_deleted_text_is_left(
    database: Database, seed: int
) -> None:
    random = Random(seed)
    user = await new_user(database)
    names = ["a", "b", "c"]
    rows = [new_row(f"q{n}", conversation_id=random.choice(names), user_id=user) for n in range(300)]
    ended = [closed(copy.copy(row), "x" * (n % 7)) for n, row in enumerate(rows)]
    connections = [await database.connection() for _ in range(3)]
    for connection in connections:
        await connection.execute(SESSION)
        await partitions.make_ahead(connection)

    async def write_some(connection: asyncpg.Connection, part: int) -> None:
        """Batches of several conversations, as a gateway's: begun, closed, some of them twice."""
        running, done = rows[part::3], ended[part::3]
        for start in range(0, len(running), 10):
            for some in (running, done, done)[: random.randint(2, 3)]:
                batch = some[start : start + 10] + (
                    done[max(0, start - 5) : start] if some is running else []
                )
                await put(connection, batch)

    async def put(connection: asyncpg.Connection, batch: list[MessageRow]) -> None:
        for _ in range(3):
            try:
                await connection.execute(WRITE, *arrays([encoded(row, 1) for row in batch]))
            except asyncpg.ForeignKeyViolationError:
                # As the row writer does.
                continue
            return
        raise AssertionError

    async def delete_some() -> None:
        while not writing.done():
            await delete(database, random.choice(names), random.choice([user, None]), SECONDS)

    writing = asyncio.gather(*(write_some(connection, part) for part, connection in enumerate(connections)))
    await asyncio.gather(delete_some(), delete_some(), writing)
    found = await stored(database)
    assert found.keys() == {row.id for row in rows}
    assert {id_: row["status"] for id_, row in found.items()} == dict.fromkeys(found, "completed")
    (sums,) = await all_sums(database)
    assert (sums.requests, sums.prompt_tokens, sums.completion_tokens) == (
        300,
        sum(row.prompt_tokens for row in ended),
        sum(row.completion_tokens for row in ended),
    )
    for row in found.values():
        assert is_wiped(row) == (row["meta_data"] == {"deleted": True}) == (row["conversation_id"] is None)
    kept = sum(not is_wiped(row) for row in found.values())
    assert await count(database, "message_content") == kept
    assert 0 <= kept < 300
    for name in names:
        await delete(database, name, user, SECONDS)
    assert await count(database, "message_content") == await count(database, "conversation") == 0
    assert await all_sums(database) == [sums]
    for connection in connections:
        await connection.close()


async def test_a_deletion_that_is_cut_off_has_done_all_of_a_step_or_nothing(database: Database) -> None:
    await write(database, [turn_row(number) for number in range(5)])
    before = await stored(database)
    async with database.engine.begin() as blocking:
        await blocking.exec_driver_sql("LOCK TABLE feedback IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DatabaseUnavailable, match=r"0\.1 s|statement timeout"):
            await delete(database, "c", None, 0.1)
    assert await stored(database) == before
    assert await delete(database, "c", None, SECONDS)


async def test_one_that_takes_too_long_goes_on_where_it_was(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation_deletion, "MOST_SECONDS", -1.0)
    monkeypatch.setattr(conversation_deletion, "PAGE", 2)
    await write(database, [turn_row(number) for number in range(5)])
    for left in (3, 1):
        with pytest.raises(DatabaseUnavailable, match="not yet deleted"):
            await delete(database, "c", None, SECONDS)
        assert await count(database, "message_content") == left
    assert await delete(database, "c", None, SECONDS)
    assert await count(database, "message_content") == await count(database, "conversation") == 0
