from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persistence import conversations, partitions
from persistence.conversations import IDS, TEXTS, Turn, last_turns
from persistence.database import POOL_SIZE, Database, DatabaseUnavailable
from persistence.embedded import EmbeddedPostgres
from persistence.message_row import WRITE, MessageRow, arrays, encoded
from persistence.partitions import least_id
from persistence.recorder import Recorder
from tests.persistence.conftest import MakeDatabase
from tests.persistence.rows import closed, new_row
from tests.persistence.users import new_user
from tests.strategies import texts

ALL = 1000
SECONDS = 30.0
NOON = datetime(2025, 1, 31, 12, tzinfo=UTC)
"""The next day is of another month."""


def turn_row(number: int, moment: datetime = NOON, conversation_id: str = "c") -> MessageRow:
    """A complete turn; its id is the ``number``-th of the moment."""
    id_ = UUID(int=least_id(moment).int + number)
    return closed(new_row(f"query {number}", id=id_, conversation_id=conversation_id), f"response {number}")


def turns_of(rows: Iterable[MessageRow]) -> list[Turn]:
    return [Turn(row.query, row.response) for row in rows]


async def write(database: Database, rows: Iterable[MessageRow]) -> None:
    """Write rows of any time, all at once."""
    records = [encoded(row, 1) for row in rows]
    connection = await database.connection()
    await partitions.make_for(connection, [record.id for record in records])
    if records:
        await connection.execute(WRITE, *arrays(records))
    await connection.close()


async def read(
    database: Database,
    count: int = ALL,
    *,
    conversation_id: str = "c",
    owner: UUID | None = None,
    most_bytes: int = 10**9,
    timeout_seconds: float = SECONDS,
) -> list[Turn]:
    return await last_turns(
        database,
        conversation_id,
        "llm_chat",
        count,
        owner=owner,
        most_bytes=most_bytes,
        timeout_seconds=timeout_seconds,
    )


@asynccontextmanager
async def migrated(url: str) -> AsyncIterator[Database]:
    """A database of one's own, for partitions and servers of one's own."""
    database = Database(url, Path())
    await database.connect()
    await database.migrate()
    yield database
    await database.close()


async def test_the_last_turns_oldest_first(database: Database) -> None:
    rows = [turn_row(number) for number in range(20)]
    await write(database, rows)
    assert await read(database) == turns_of(rows)
    assert await read(database, 5) == turns_of(rows[-5:])
    assert await read(database, 0) == await read(database, conversation_id="unknown") == []


async def test_with_an_owner_only_his_turns(database: Database) -> None:
    rows = [turn_row(number) for number in range(9)]
    owners = [await new_user(database), await new_user(database), None]
    for number, row in enumerate(rows):
        row.user_id = owners[number % 3]
    await write(database, rows)
    assert await read(database, owner=owners[0]) == turns_of(rows[::3])
    assert await read(database, 2, owner=owners[1]) == turns_of([rows[4], rows[7]])
    assert await read(database, owner=uuid4()) == []
    assert await read(database) == turns_of(rows)


async def test_turns_of_one_millisecond_have_the_order_of_their_ids(database: Database) -> None:
    rows = [turn_row(number) for number in range(50)]
    await write(database, Random(0).sample(rows, len(rows)))
    assert await read(database, 30) == turns_of(rows[-30:])


async def test_requests_of_one_gateway_have_the_order_in_which_they_came(
    database: Database, recorder: Recorder
) -> None:
    rows = [closed(new_row(f"query {number}", conversation_id="c")) for number in range(500)]
    await asyncio.gather(*(recorder.close(row, SECONDS) for row in reversed(rows)))
    assert await recorder.caught_up(SECONDS)
    assert await read(database) == turns_of(rows)


@pytest.mark.parametrize(
    "fields",
    [
        *({"status": status} for status in ("running", "cancelled", "timeout", "shutdown", "error", "lost")),
        {"response": ""},
        {"finish_reason": "tool_calls"},
        {"chat_type": "completion"},
        {"conversation_id": "other"},
        {"conversation_id": None},
    ],
    ids=str,
)
async def test_what_is_no_complete_turn_of_the_conversation_is_left_out(
    database: Database, fields: dict[str, str]
) -> None:
    rows = [turn_row(number) for number in range(300)]
    for row in rows[10:]:
        for name, value in fields.items():
            setattr(row, name, value)
    await write(database, rows)
    assert await read(database, 5) == turns_of(rows[5:10])


async def test_a_turn_without_its_text_is_left_out(database: Database) -> None:
    rows = [turn_row(number) for number in range(60)]
    await write(database, rows)
    async with database.engine.begin() as connection:
        await connection.exec_driver_sql(
            "DELETE FROM message_content WHERE query <> 'query 3' AND query < 'query 55'"
        )
    kept = turns_of(row for row in rows if row.query == "query 3" or row.query >= "query 55")
    assert await read(database) == kept
    assert await read(database, len(kept) - 1) == kept[1:]


async def test_nul_and_its_like_are_read_as_they_were(database: Database) -> None:
    row = turn_row(1, conversation_id="\0c\ufdd0")
    row.query, row.response = "a\0b\ufdd00", "\ufdd01\0"
    await write(database, [row])
    assert await read(database, conversation_id="\0c\ufdd0") == turns_of([row])
    assert await read(database, conversation_id="c") == []


async def test_only_so_many_turns_are_read(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "MOST_TURNS", 3)
    rows = [turn_row(number) for number in range(10)]
    await write(database, rows)
    assert await read(database, 2**63 - 1) == turns_of(rows[-3:])


async def test_only_so_much_text_is_read_in_whole_turns(database: Database) -> None:
    rows = [turn_row(number) for number in range(5)]
    for row in rows:
        row.query, row.response = "é" * 10, "é" * (10 if row is rows[2] else 40)
    await write(database, rows)
    assert await read(database, most_bytes=240) == turns_of(rows[2:])
    assert await read(database, most_bytes=239) == turns_of(rows[3:])
    assert await read(database, most_bytes=99) == []
    assert await read(database, most_bytes=100 + 100 + 40 + 100 + 100) == turns_of(rows)


kinds = st.sampled_from(["turn", "turn", "turn", "no text", "empty", "cancelled", "other type"])


@settings(max_examples=40)
@given(
    st.lists(st.tuples(kinds, st.integers(0, 2), texts, texts), max_size=12),
    st.integers(0, 12),
    st.integers(0, 80),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_any_history_gives_its_last_complete_turns(
    migrated_url: str,
    history: list[tuple[str, int, str, str]],
    count: int,
    most_bytes: int,
    page: int,
    random: Random,
) -> None:
    rows, turns, gone = [], [], []
    for number, (kind, day, query, response) in enumerate(sorted(history, key=lambda one: one[1])):
        row = turn_row(number, NOON + timedelta(days=day))
        row.query, row.response = query, "" if kind == "empty" else response
        row.status = "cancelled" if kind == "cancelled" else "completed"
        row.chat_type = "completion" if kind == "other type" else "llm_chat"
        rows.append(row)
        if kind == "no text":
            gone.append(row.id)
        elif kind == "turn" and response:
            turns.append(Turn(query, response))
    random.shuffle(rows)

    async def live() -> list[Turn]:
        database = Database(migrated_url, Path())
        await database.connect()
        connection = await database.connection()
        await connection.execute("TRUNCATE message, message_content, conversation CASCADE")
        await write(database, rows)
        await connection.execute("DELETE FROM message_content WHERE id = ANY($1)", gone)
        await connection.close()
        found = await read(database, count, most_bytes=most_bytes)
        await database.close()
        return found

    def fit(some: list[Turn]) -> bool:
        # U+0000 and U+FDD0 are stored as two characters, of four bytes in all.
        stored = "".join(text for turn in some for text in (turn.query, turn.response))
        escaped = stored.count("\0") + stored.count("\ufdd0")
        plain = stored.replace("\0", "").replace("\ufdd0", "")
        return len(plain.encode()) + 4 * escaped <= most_bytes

    wanted = turns[len(turns) - min(count, len(turns)) :]
    while not fit(wanted):
        wanted = wanted[1:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversations, "PAGE", page)
        assert asyncio.run(live()) == wanted


async def test_turns_over_months_and_days_touch_no_other_partition(fresh_database: MakeDatabase) -> None:
    async with migrated(await fresh_database()) as database:
        rows = [turn_row(day, NOON + timedelta(days=day)) for day in range(60)]
        await write(database, [*rows, *(turn_row(500 + n, conversation_id=f"c{n}") for n in range(500))])
        assert await read(database, 40) == turns_of(rows[-40:])
        connection = await database.connection()
        await connection.execute("ANALYZE; SET plan_cache_mode = force_custom_plan")

        async def plan(statement: str, *values: object) -> str:
            return "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {statement}", *values))

        of_ids = await plan(IDS, "c", "llm_chat", None, UUID(int=2**128 - 1), 3)
        # In order as they come: what is beyond the limit is not read.
        assert "Sort" not in of_ids
        assert "Seq Scan" not in of_ids
        assert of_ids.index("message_2025_03") < of_ids.index("message_2025_02")
        of_texts = await plan(TEXTS, [row.id for row in rows[1:3]], 1000, 2)
        await connection.close()
    days = {f"message_content_{NOON + timedelta(days=day):%Y_%m_%d}" for day in range(60)}
    assert {day for day in days if day in of_texts} == {
        "message_content_2025_02_01",
        "message_content_2025_02_02",
    }


async def test_every_reading_is_planned_for_its_ids(database: Database) -> None:
    await write(database, [turn_row(1)])
    for _ in range(12):
        assert len(await read(database)) == 1
    async with database.engine.connect() as connection:
        found = await connection.exec_driver_sql(
            "SELECT custom_plans, generic_plans FROM pg_prepared_statements WHERE statement IN ($1, $2)",
            (IDS, TEXTS),
        )
        assert [tuple(row) for row in found] == [(12, 0), (12, 0)]


async def test_more_readers_than_connections_wait_for_each_other(database: Database) -> None:
    rows = [turn_row(number) for number in range(3)]
    await write(database, rows)
    found = await asyncio.gather(*(read(database) for _ in range(POOL_SIZE * 8)))
    assert found == [turns_of(rows)] * (POOL_SIZE * 8)


async def test_without_a_free_connection_the_database_is_unavailable_in_time(database: Database) -> None:
    await write(database, [turn_row(1)])
    held = [await database.engine.connect() for _ in range(POOL_SIZE)]
    begun = time.monotonic()
    with pytest.raises(DatabaseUnavailable, match=r"no answer within 0\.1 s"):
        await read(database, timeout_seconds=0.1)
    assert time.monotonic() - begun < SECONDS
    for connection in held:
        await connection.close()
    assert len(await read(database)) == 1


async def test_a_statement_that_hangs_makes_the_database_unavailable_and_takes_no_connection(
    database: Database,
) -> None:
    await write(database, [turn_row(1)])
    async with database.engine.begin() as blocking:
        await blocking.exec_driver_sql("LOCK TABLE message_content IN ACCESS EXCLUSIVE MODE")
        for _ in range(POOL_SIZE + 1):
            with pytest.raises(DatabaseUnavailable):
                await read(database, timeout_seconds=0.1)
    assert len(await read(database)) == 1


async def test_a_server_that_is_away_or_frozen_is_unavailable_until_it_is_back(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    async with migrated(server.start()) as database:
        await write(database, [turn_row(1)])
        assert len(await read(database)) == 1
        pids = [pid async for pid in backends(database)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        begun = time.monotonic()
        try:
            with pytest.raises(DatabaseUnavailable):
                await read(database, timeout_seconds=0.2)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        assert time.monotonic() - begun < SECONDS
        assert len(await read(database)) == 1
        server.stop()
        with pytest.raises(DatabaseUnavailable):
            await read(database, timeout_seconds=5)
        server.start()
        assert len(await read(database)) == 1
    server.stop()


async def backends(database: Database) -> AsyncIterator[int]:
    """The processes of the server: the one behind the pool, and their parent."""
    connection = await database.connection()
    for row in await connection.fetch(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    ):
        yield row["pid"]
    folder = await connection.fetchval("SHOW data_directory")
    await connection.close()
    yield int((Path(folder) / "postmaster.pid").read_text().split()[0])
