from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persistence import retention
from persistence.content_policy import FULL
from persistence.database import Database
from persistence.feedback import Feedback, give
from persistence.message_row import MessageRow
from persistence.retention import RETENTION_LOCK, drop_expired
from persistence.usage import Usage, usage_between
from tests.persistence.past import connected, id_at, moment, partition_names, row_at, write
from tests.persistence.rows import new_row, stored

NOW = moment(2026, 5, 20)
YEAR = date(2026, 1, 1), date(2026, 12, 31)


async def drop(database: Database, content_days: int | None, rows_days: int | None) -> list[str]:
    async with connected(database) as connection:
        return await drop_expired(connection, NOW, content_days, rows_days)


async def sums(database: Database) -> list[Usage]:
    return await usage_between(database, *YEAR)


def of_day(month: int, day: int, requests: int = 1, status: str = "completed") -> Usage:
    """What ``row_at`` counts."""
    return Usage(
        date(2026, month, day), "m", "/v1/chat/completions", status, requests, 8 * requests, 6 * requests, 0
    )


async def texts(database: Database) -> int:
    async with connected(database) as connection:
        return int(await connection.fetchval("SELECT count(*) FROM message_content"))


async def kept(database: Database) -> int:
    """Lines of sums that were kept of dropped rows."""
    async with connected(database) as connection:
        return int(await connection.fetchval("SELECT count(*) FROM usage_by_day"))


@contextlib.asynccontextmanager
async def holding(database: Database, statement: str) -> AsyncIterator[None]:
    """Another connection in whose transaction the statement has been; it is committed in the end."""
    async with connected(database) as other, other.transaction():
        await other.execute(statement)
        yield


@pytest.fixture
async def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "LOCK_TRIES", 2)
    monkeypatch.setattr(retention, "LOCK_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(retention, "LOCK_WAIT", "10ms")


async def test_days_of_content_go_when_they_have_ended_so_many_days_ago(own_database: Database) -> None:
    rows = [row_at(moment(2026, 5, day)) for day in (1, 8, 9, 10, 11, 20)]
    await write(own_database, rows)
    # Ten days before NOW is noon of the tenth.
    assert await drop(own_database, 10, None) == [
        f"message_content_2026_05_{day}" for day in ("01", "08", "09")
    ]
    assert await texts(own_database) == 3
    assert set(await stored(own_database)) == {row.id for row in rows}
    assert await drop(own_database, 10, None) == []


async def test_months_of_rows_go_with_their_content_and_leave_their_sums(own_database: Database) -> None:
    rows = [row_at(moment(2026, 2, 28)), row_at(moment(2026, 3, 1)), row_at(moment(2026, 3, 1))]
    late = [row_at(moment(2026, 4, 1, 0)), row_at(moment(2026, 5, 20))]
    await write(own_database, rows + late)
    before = await sums(own_database)
    dropped = await drop(own_database, None, 31)
    assert dropped == [
        "message_content_2026_02_28",
        "message_content_2026_03_01",
        "message_2026_02",
        "message_2026_03",
    ]
    assert set(await stored(own_database)) == {row.id for row in late}
    assert await texts(own_database) == 2
    assert await sums(own_database) == before
    assert before == [of_day(2, 28), of_day(3, 1, 2), of_day(4, 1), of_day(5, 20)]
    assert await kept(own_database) == 2
    assert not set(dropped) & await partition_names(own_database)


async def test_without_a_bound_all_is_kept(own_database: Database) -> None:
    await write(own_database, [row_at(moment(1999, 1, 1))])
    assert await drop(own_database, None, None) == []
    assert await texts(own_database) == 1


async def test_the_day_and_the_month_of_now_stay_however_short_the_bound(own_database: Database) -> None:
    await write(own_database, [row_at(NOW), row_at(NOW + timedelta(days=30))])
    assert await drop(own_database, 0, 0) == []


async def test_a_month_in_which_a_row_runs_stays_until_its_end_is_known(own_database: Database) -> None:
    row = new_row(id=id_at(moment(2026, 1, 31)), create_time=moment(2026, 1, 31))
    await write(own_database, [row, row_at(moment(2026, 1, 31)), row_at(moment(2026, 2, 1))])
    assert "message_2026_01" not in await drop(own_database, None, 30)
    row.status, row.prompt_tokens, row.completion_tokens = "completed", 8, 6
    await write(own_database, [row])
    assert "message_2026_01" in await drop(own_database, None, 30)
    assert await sums(own_database) == [of_day(1, 31, 2), of_day(2, 1)]


async def test_a_row_that_comes_after_its_month_was_dropped_is_added_to_the_sums(
    own_database: Database,
) -> None:
    await write(own_database, [row_at(moment(2026, 1, 5)), row_at(moment(2026, 1, 6))])
    await drop(own_database, None, 60)
    late = [row_at(moment(2026, 1, 5)), row_at(moment(2026, 1, 7))]
    await write(own_database, late)
    together = [of_day(1, 5, 2), of_day(1, 6), of_day(1, 7)]
    assert await sums(own_database) == together
    assert await drop(own_database, None, 60) == [
        "message_content_2026_01_05",
        "message_content_2026_01_07",
        "message_2026_01",
    ]
    assert await sums(own_database) == together
    assert await stored(own_database) == {}


async def test_one_gateway_drops_at_a_time(own_database: Database) -> None:
    await write(own_database, [row_at(moment(2026, 1, day)) for day in range(1, 29)])
    before = await sums(own_database)
    async with holding(own_database, f"SELECT pg_advisory_xact_lock({RETENTION_LOCK})"):
        assert await drop(own_database, 30, 30) == []
    done = await asyncio.gather(*(drop(own_database, 30, 30) for _ in range(5)))
    while rest := await drop(own_database, 30, 30):
        done.append(rest)
    names = [name for names in done for name in names]
    assert len(names) == len(set(names)) == 28 + 1
    assert await sums(own_database) == before


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "statement",
    ["SELECT FROM message_full", "UPDATE message SET feedback_score = 1 WHERE create_time > '2026-05-01'"],
    ids=["reader", "writer"],
)
async def test_a_table_in_use_is_left_for_later_and_nothing_is_counted_twice(
    own_database: Database, statement: str
) -> None:
    await write(own_database, [row_at(moment(2026, 1, 5)), row_at(NOW)])
    before = await sums(own_database)
    statement = statement.format(
        write="UPDATE message SET feedback_score = 1 WHERE create_time > '2026-05-01'"
    )
    async with holding(own_database, statement):
        with pytest.raises(asyncpg.LockNotAvailableError):
            await drop(own_database, None, 30)
        assert await sums(own_database) == before
        assert await kept(own_database) == 0
    assert await drop(own_database, None, 30)
    assert await sums(own_database) == before


async def test_writers_go_on_while_retention_waits_for_a_reader(
    own_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOCK_TRIES", 100_000)
    monkeypatch.setattr(retention, "LOCK_PAUSE_SECONDS", 0.05)
    await write(own_database, [row_at(moment(2026, 1, 5)), row_at(NOW)])
    async with holding(own_database, "SELECT FROM message, message_content"):
        dropping = asyncio.create_task(drop(own_database, None, 30))
        rows = [row_at(NOW) for _ in range(20)]
        for row in rows:
            async with asyncio.timeout(30):
                await write(own_database, [row])
        assert not dropping.done()
    assert "message_2026_01" in await dropping
    assert set(await stored(own_database)) >= {row.id for row in rows}


isolations = pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])


async def isolate(database: Database, isolation: str) -> None:
    """Make it the server's default for new connections."""
    async with connected(database) as connection:
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'")
    await database.engine.dispose()


async def waits_for_a_lock(database: Database) -> None:
    async with connected(database) as connection, asyncio.timeout(30):
        while not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            await asyncio.sleep(0.01)


@isolations
async def test_what_is_committed_while_retention_waits_for_it_is_counted(
    own_database: Database, isolation: str
) -> None:
    await isolate(own_database, isolation)
    await write(own_database, [row_at(moment(2026, 1, 5))])
    async with holding(own_database, "UPDATE message SET status = 'error'"):
        dropping = asyncio.create_task(drop(own_database, None, 30))
        await waits_for_a_lock(own_database)
    assert "message_2026_01" in await dropping
    assert await sums(own_database) == [of_day(1, 5, status="error")]


@isolations
async def test_sums_that_wait_for_a_drop_have_what_was_dropped(
    own_database: Database, isolation: str
) -> None:
    await isolate(own_database, isolation)
    await write(own_database, [row_at(moment(2026, 1, 5))])
    before = await sums(own_database)
    async with connected(own_database) as dropping:
        async with dropping.transaction(isolation="read_committed"):
            await drop_expired(dropping, NOW, None, 30)
            looking = asyncio.create_task(sums(own_database))
            await waits_for_a_lock(own_database)
        assert await looking == before


@pytest.mark.usefixtures("impatient")
async def test_a_drop_that_fails_has_kept_no_sums(own_database: Database) -> None:
    await write(own_database, [row_at(moment(2026, 1, 5))])
    async with connected(own_database) as connection:
        await connection.execute("CREATE VIEW of_someone AS SELECT * FROM message_2026_01")
    with pytest.raises(asyncpg.DependentObjectsStillExistError):
        await drop(own_database, None, 30)
    assert await kept(own_database) == 0
    assert await sums(own_database) == [of_day(1, 5)]


async def test_partitions_that_an_operator_made_are_left_alone(own_database: Database) -> None:
    async with connected(own_database) as connection:
        await connection.execute("CREATE TABLE message_rest PARTITION OF message DEFAULT")
        await connection.execute("""
            CREATE TABLE "Old" PARTITION OF message_content FOR VALUES FROM (MINVALUE)
                TO ('00000000-0000-0000-0000-000000000001')
        """)
    assert await drop(own_database, 1, 1) == []


async def test_the_sums_are_the_same_at_every_moment_of_a_run(own_database: Database) -> None:
    rows: list[MessageRow] = [
        row_at(moment(2026, month, day)) for month in (1, 2, 3) for day in range(1, 29) for _ in range(3)
    ]
    await write(own_database, rows)
    before = await sums(own_database)
    ended = asyncio.Event()

    async def look() -> int:
        looks = 0
        while not ended.is_set():
            assert await sums(own_database) == before
            looks += 1
        return looks

    looking = [asyncio.create_task(look()) for _ in range(2)]
    dropped: list[str] = []
    while len(dropped) < 3 * 28 + 3:
        dropped += await drop(own_database, None, 30)
    ended.set()
    assert min(await asyncio.gather(*looking)) > 3
    assert await sums(own_database) == before


times = st.datetimes(datetime(2026, 1, 1), datetime(2026, 5, 19), timezones=st.just(UTC))
statuses = st.sampled_from(["completed", "cancelled", "error", "lost"])


@given(
    st.lists(st.lists(st.tuples(times, statuses), max_size=6), min_size=1, max_size=4), st.integers(0, 150)
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_however_rows_and_runs_follow_each_other_the_sums_are_those_of_all_rows(
    own_database: Database, runs: list[list[tuple[datetime, str]]], days: int
) -> None:
    async with connected(own_database) as connection:
        await connection.execute("TRUNCATE message, message_content, usage_by_day")
    expected: dict[tuple[date, str], int] = {}
    for run in runs:
        rows = []
        for when, status in run:
            rows.append(row_at(when))
            rows[-1].status = status
            key = when.date(), status
            expected[key] = expected.get(key, 0) + 1
        if rows:
            await write(own_database, rows)
        await drop(own_database, None, days)
        found = await sums(own_database)
        assert {(usage.day, usage.status): usage.requests for usage in found} == expected
        assert sum(usage.prompt_tokens for usage in found) == 8 * sum(expected.values())
    bound = (NOW - timedelta(days=days)).replace(day=1, hour=0)
    assert all(row["create_time"] >= bound for row in (await stored(own_database)).values())


async def test_feedback_goes_with_the_content_and_its_score_stays(own_database: Database) -> None:
    old, recent = row_at(moment(2026, 5, 1)), row_at(moment(2026, 5, 19))
    await write(own_database, [old, recent])
    for row in (old, recent):
        said = Feedback(row.id, "f", 80, "a reason", "a correction")
        await give(own_database, said, None, FULL, timeout_seconds=30)
    dropped = await drop(own_database, 7, None)
    assert {"message_content_2026_05_01", "feedback_2026_05_01"} <= set(dropped)
    async with connected(own_database) as connection:
        found = await connection.fetch("SELECT id, feedback_score, feedback_reason FROM message ORDER BY id")
        left = await connection.fetch("SELECT message_id, correction FROM feedback")
    assert [tuple(row) for row in found] == [(old.id, 80, ""), (recent.id, 80, "a reason")]
    assert [tuple(row) for row in left] == [(recent.id, "a correction")]
