from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from persistence import latest_messages
from persistence.database import Database, DatabaseUnavailable
from persistence.latest_messages import MOST_LOOKED_AT, OF_NOBODY, OF_USER, TEXTS, LatestMessage
from persistence.message_row import MessageRow
from persistence.partitions import least_id
from tests.persistence.past import connected, write
from tests.persistence.rows import closed, new_row

SECONDS = 30.0
NOON = datetime(2025, 1, 31, 12, tzinfo=UTC)
"""The next day is of another month."""
MINE, THEIRS = uuid4(), uuid4()


def row_of(
    user_id: UUID | None, number: int, day: int = 0, query: str = "query", **fields: Any
) -> MessageRow:
    """A completed row; its id is the ``number``-th of its day."""
    when = NOON + timedelta(days=day)
    id_ = UUID(int=least_id(when).int + number)
    return closed(new_row(query, id=id_, create_time=when, user_id=user_id, **fields), f"response {number}")


async def latest(database: Database, user_id: UUID | None, count: int = 100) -> list[LatestMessage]:
    return await latest_messages.latest_messages(database, user_id, count, SECONDS)


def told(rows: Iterable[MessageRow]) -> list[LatestMessage]:
    """``rows``, newest first."""
    return [
        LatestMessage(row.id, row.create_time, row.conversation_id, row.status, -1, row.query, row.response)
        for row in reversed(list(rows))
    ]


async def test_each_has_his_own_newest_first_over_days_and_months(own_database: Database) -> None:
    rows = [row_of((MINE, THEIRS, None)[n % 3], n, day=n // 6) for n in range(60)]
    await write(own_database, reversed(rows))
    for place, user_id in enumerate((MINE, THEIRS, None)):
        assert await latest(own_database, user_id) == told(rows[place::3])
        assert await latest(own_database, user_id, 4) == told(rows[place::3][-4:])
    assert await latest(own_database, uuid4()) == []


async def test_requests_that_run_or_failed_are_there_with_their_status(database: Database) -> None:
    rows = [row_of(None, number) for number in range(3)]
    rows[0].status, rows[0].response = "running", ""
    rows[1].status = "cancelled"
    rows[2].conversation_id, rows[2].query = "\0c\ufdd0", "a\0b"
    await write(database, rows)
    assert await latest(database, None) == told(rows)


async def test_the_latest_score_is_there(database: Database) -> None:
    row = row_of(None, 1)
    await write(database, [row])
    async with connected(database) as connection:
        await connection.execute("UPDATE message SET feedback_score = 70")
    (one,) = await latest(database, None)
    assert one.feedback_score == 70


async def test_where_no_text_is_kept_none_is_told(database: Database) -> None:
    rows = [row_of(MINE, number) for number in range(2)]
    await write(database, rows)
    async with connected(database) as connection:
        await connection.execute("DELETE FROM message_content WHERE id = $1", rows[0].id)
    newest, oldest = await latest(database, MINE)
    assert [newest] == told(rows[1:])
    assert (oldest.id, oldest.query, oldest.response) == (rows[0].id, None, None)


async def test_so_much_text_is_read_and_no_more(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row_of(MINE, number, query="é" * 50) for number in range(4)]
    await write(database, rows)
    of_one = 100 + len("response 0")
    for most, texts in ((of_one * 4, 4), (of_one * 4 - 1, 3), (of_one, 1), (of_one - 1, 0)):
        monkeypatch.setattr(latest_messages, "MOST_BYTES", most)
        found = await latest(database, MINE)
        assert [one.id for one in found] == [row.id for row in reversed(rows)]
        assert [one.query is not None for one in found] == [True] * texts + [False] * (4 - texts)
        assert found[:texts] == told(rows[len(rows) - texts :])


async def test_it_takes_an_index_backwards_and_reads_no_more_than_is_asked_for(
    own_database: Database,
) -> None:
    rows = [row_of(None if n % 40 else MINE, n, day=n // 40) for n in range(2400)]
    await write(own_database, rows)
    async with connected(own_database) as connection:
        await connection.execute("ANALYZE; SET plan_cache_mode = force_custom_plan")

        async def plan(statement: str, *values: object) -> str:
            found = await connection.fetch(f"EXPLAIN (ANALYZE, COSTS off) {statement}", *values)
            return "\n".join(line for (line,) in found)

        for statement, values, index in (
            (OF_USER, (MINE, 5), "_user_id_id_idx"),
            (OF_NOBODY, (5,), "_pkey"),
        ):
            text = await plan(statement, *values)
            first, *others = [line for line in text.splitlines() if "Scan Backward" in line]
            # Partition by partition, the newest first; where that is enough no other is looked at.
            assert "message_2025_03" in first, text
            assert f"{index} on" in first, text
            assert others
            assert all("never executed" in line for line in others), text
            assert "Sort" not in text, text
            assert "Seq Scan" not in text, text
        text = await plan(TEXTS, [row.id for row in rows[-2:]], 1000)
        assert {line for line in text.splitlines() if "message_content_20" in line} == {
            line for line in text.splitlines() if "message_content_2025_03_31" in line
        }
        assert "message_content_2025_03_31" in text


async def test_nobodys_are_looked_for_among_the_last_ones(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row_of(None, 0), row_of(MINE, 1), row_of(None, 2), row_of(MINE, 3)]
    await write(database, rows)
    few = OF_NOBODY.replace(str(MOST_LOOKED_AT), "3")
    assert few != OF_NOBODY
    monkeypatch.setattr(latest_messages, "OF_NOBODY", few)
    assert await latest(database, None) == told([rows[2]])


async def test_a_server_that_is_away_is_unavailable(migrated_url: str) -> None:
    database = Database(migrated_url, Path())
    await database.connect()
    await database.close()
    with pytest.raises(DatabaseUnavailable):
        await latest(database, None)


async def test_a_server_that_hangs_is_unavailable_in_time(database: Database) -> None:
    async with database.engine.begin() as blocking:
        await blocking.exec_driver_sql("LOCK TABLE message IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DatabaseUnavailable):
            await latest_messages.latest_messages(database, None, 5, 0.1)
    assert await latest(database, None) == []
