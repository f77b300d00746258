from __future__ import annotations

import asyncio
from calendar import monthrange
from datetime import UTC, datetime, timedelta, timezone
from itertools import islice
from uuid import UUID

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from persistence import partitions
from persistence.database import Database
from persistence.partitions import CONTENT, MESSAGE, Partitioned, least_id, make_ahead, make_for, moment_of
from tests.persistence.past import connected, id_at, moment, partition_names, row_at, write
from tests.persistence.rows import stored

moments = st.datetimes(datetime(1970, 1, 1), datetime(2400, 1, 1), timezones=st.just(UTC))
both = st.sampled_from([MESSAGE, CONTENT])


@given(both, moments)
def test_a_moment_lies_in_the_partition_that_starts_before_it_and_not_in_the_next(
    partitioned: Partitioned, when: datetime
) -> None:
    start = partitioned.start(when)
    assert start <= when < partitioned.after(start)
    assert partitioned.start(start) == start
    assert partitioned.start(partitioned.after(start)) == partitioned.after(start)
    assert partitioned.start(partitioned.after(start) - timedelta(microseconds=1)) == start


@given(moments)
def test_a_months_partition_has_the_days_of_its_month(when: datetime) -> None:
    start = MESSAGE.start(when)
    assert (start.year, start.month, start.day) == (when.year, when.month, 1)
    assert MESSAGE.after(start) - start == timedelta(days=monthrange(when.year, when.month)[1])
    assert CONTENT.after(CONTENT.start(when)) - CONTENT.start(when) == timedelta(days=1)


@pytest.mark.parametrize(
    ("when", "month", "day", "next_month"),
    [
        (datetime(2026, 12, 31, 23, 59, 59, 999_999), "2026_12", "2026_12_31", "2027_01"),
        (datetime(2027, 1, 1), "2027_01", "2027_01_01", "2027_02"),
        (datetime(2028, 2, 29, 12), "2028_02", "2028_02_29", "2028_03"),
        (datetime(2100, 2, 28, 23), "2100_02", "2100_02_28", "2100_03"),
    ],
)
def test_the_names_tell_the_time(when: datetime, month: str, day: str, next_month: str) -> None:
    when = when.replace(tzinfo=UTC)
    start = MESSAGE.start(when)
    assert MESSAGE.name(start) == f"message_{month}"
    assert CONTENT.name(CONTENT.start(when)) == f"message_content_{day}"
    assert MESSAGE.name(MESSAGE.after(start)) == f"message_{next_month}"


@given(both, moments, moments)
def test_different_partitions_have_different_names(
    partitioned: Partitioned, one: datetime, other: datetime
) -> None:
    starts = partitioned.start(one), partitioned.start(other)
    assert (partitioned.name(starts[0]) == partitioned.name(starts[1])) == (starts[0] == starts[1])


@given(moments, st.integers(-14, 14))
def test_the_calendar_is_that_of_utc_wherever_the_clock_is(when: datetime, hours: int) -> None:
    elsewhere = when.astimezone(timezone(timedelta(hours=hours)))
    for partitioned in (MESSAGE, CONTENT):
        assert partitioned.start(elsewhere) == partitioned.start(when)


@given(both, moments)
def test_the_partitions_ahead_follow_each_other_from_now_on(partitioned: Partitioned, now: datetime) -> None:
    starts = list(partitioned.ahead(now))
    assert starts[0] == partitioned.start(now)
    assert starts[1:] == [partitioned.after(start) for start in starts[:-1]]
    assert starts[-1] - now >= timedelta(days=6)


@given(moments, st.integers(0, 10**9))
def test_the_least_id_of_a_moment_parts_the_ids_before_from_those_after(
    when: datetime, microseconds: int
) -> None:
    when = when.replace(microsecond=when.microsecond // 1000 * 1000)
    bound = least_id(when)
    assert bound <= id_at(when)
    assert bound <= id_at(when + timedelta(microseconds=microseconds))
    before = when - timedelta(microseconds=microseconds + 1)
    if before >= datetime(1970, 1, 1, tzinfo=UTC):
        assert id_at(before) < bound
    assert moment_of(bound) == moment_of(id_at(when)) == when


def test_the_ids_of_now_lie_between_the_least_ids_around_them() -> None:
    before = datetime.now(UTC)
    ids = list(islice(iter(uuid7, None), 10_000))
    after = datetime.now(UTC) + timedelta(milliseconds=1)
    assert all(least_id(before) <= id_ < least_id(after) for id_ in ids)


async def test_what_is_ahead_is_made_once(own_database: Database) -> None:
    async with connected(own_database) as connection:
        made = await make_ahead(connection)
        assert len(made) == 3 + 8
        assert set(made) == await partition_names(own_database)
        assert await make_ahead(connection) == []
    now = datetime.now(UTC)
    row = row_at(now)
    async with connected(own_database) as connection:
        assert await make_for(connection, [row.id, id_at(now + timedelta(days=6))]) == []
    await write(own_database, [row])


@pytest.mark.parametrize("gateways", [2, 6])
async def test_several_gateways_make_them_at_the_same_time(own_database: Database, gateways: int) -> None:
    ids = [id_at(moment(2020, month, 28)) for month in range(1, 13)]

    async def make(place: int) -> list[str]:
        async with connected(own_database) as connection:
            made = await make_ahead(connection)
            return made + await make_for(connection, ids[place:] + ids[:place])

    made = await asyncio.gather(*(make(place) for place in range(gateways)))
    names = [name for names in made for name in names]
    assert len(names) == len(set(names)) == 3 + 8 + 2 * 12
    assert set(names) == await partition_names(own_database)


async def test_rows_are_written_while_partitions_are_made(own_database: Database) -> None:
    """Also those that are the first of their conversation."""
    async with connected(own_database) as connection:
        await make_ahead(connection)
    rows = [row_at(datetime.now(UTC), conversation_id=f"c{number}") for number in range(30)]

    async def make() -> None:
        async with connected(own_database) as connection:
            for year in (2000, 2001):
                await make_for(connection, [id_at(moment(year, month, 1)) for month in range(1, 13)])

    making = asyncio.create_task(make())
    for row in rows:
        await write(own_database, [row])
    await making
    assert set(await stored(own_database)) == {row.id for row in rows}


async def test_a_partition_is_made_while_a_reader_has_all_tables_open(own_database: Database) -> None:
    row = row_at(moment(2026, 1, 31))
    await write(own_database, [row])
    async with connected(own_database) as reader, connected(own_database) as maker, reader.transaction():
        await reader.execute("SELECT FROM message_full; SELECT FROM conversation")
        assert await make_for(maker, [id_at(moment(2026, 2, 1))]) == [
            "message_2026_02",
            "message_content_2026_02_01",
        ]
        assert await reader.fetchval("SELECT id FROM message_full") == row.id


async def test_a_partition_is_made_while_a_writer_has_not_committed(own_database: Database) -> None:
    await write(own_database, [row_at(moment(2026, 1, 31))])
    async with connected(own_database) as writer, connected(own_database) as maker, writer.transaction():
        await writer.execute("UPDATE message SET feedback_score = 5")
        await writer.execute("UPDATE message_content SET response = ''")
        assert len(await make_for(maker, [id_at(moment(2026, 2, 1))])) == 2


async def test_making_one_gives_up_rather_than_wait_for_a_table_that_is_locked(
    own_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT", "10ms")
    async with connected(own_database) as other, connected(own_database) as maker:
        async with other.transaction():
            await other.execute("LOCK TABLE message IN SHARE UPDATE EXCLUSIVE MODE")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await make_for(maker, [id_at(moment(2026, 2, 1))])
        assert await partition_names(own_database) == set()
        assert len(await make_for(maker, [id_at(moment(2026, 2, 1))])) == 2


async def test_a_row_at_a_bound_is_in_the_partition_of_its_day(own_database: Database) -> None:
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    first, last = least_id(midnight), UUID(int=least_id(midnight).int - 1)
    rows = [row_at(midnight), row_at(midnight - timedelta(milliseconds=1))]
    for row, id_ in zip(rows, (first, last), strict=True):
        row.id = id_
    await write(own_database, rows)
    async with connected(own_database) as connection:
        for table, names in {
            "message": ("message_2026_03", "message_2026_02"),
            "message_content": ("message_content_2026_03_01", "message_content_2026_02_28"),
        }.items():
            found = await connection.fetch(f"SELECT id, tableoid::regclass::text AS name FROM {table}")
            assert {row["id"]: row["name"] for row in found} == dict(zip((first, last), names, strict=True))


async def test_a_partition_has_what_its_table_has_and_settings_for_autovacuum(own_database: Database) -> None:
    await write(own_database, [row_at(moment(2026, 1, 31))])
    async with connected(own_database) as connection:
        for name in await partition_names(own_database):
            options = await connection.fetchval("SELECT reloptions FROM pg_class WHERE relname = $1", name)
            assert ", ".join(option.replace("=", " = ") for option in options) == partitions.STORAGE
            assert await connection.fetchval(
                "SELECT count(*) FROM pg_index WHERE indrelid = $1::text::regclass", name
            ) == (1 if name.startswith("message_content") else 4)
        assert await connection.fetchval("""
            SELECT bool_and(defaults.n = 1) FROM (
                SELECT count(DISTINCT column_default) AS n FROM information_schema.columns
                WHERE table_name LIKE 'message_20%' AND column_name = 'meta_data') AS defaults
        """)
