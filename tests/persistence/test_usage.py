from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from persistence.database import Database
from persistence.message_row import MessageRow
from persistence.partitions import least_id
from persistence.usage import Usage, table, usage_between
from tests.persistence.past import connected, moment, row_at, write

FIRST, LAST = date(2026, 2, 27), date(2026, 3, 2)

times = st.datetimes(datetime(2026, 2, 26), datetime(2026, 3, 3, 23), timezones=st.just(UTC))
counts = st.integers(0, 2**31 - 1)
kinds = st.tuples(
    st.sampled_from(["m", "模型"]), st.sampled_from(["/a", "/b"]), st.sampled_from(["running", "lost"])
)


@given(st.lists(st.tuples(times, kinds, counts, counts, counts), max_size=12))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_sums_are_those_of_the_rows(
    database: Database,
    made: list[tuple[datetime, tuple[str, str, str], int, int, int]],
) -> None:
    async with connected(database) as connection:
        await connection.execute("TRUNCATE message, message_content, usage_by_day")
    rows: list[MessageRow] = []
    expected: dict[tuple[date, str, str, str], list[int]] = {}
    for when, (model, endpoint, status), *tokens in made:
        row = row_at(when)
        row.model, row.endpoint, row.status = model, endpoint, status
        row.prompt_tokens, row.completion_tokens, row.cached_tokens = tokens
        rows.append(row)
        if FIRST <= when.date() <= LAST:
            sums = expected.setdefault((when.date(), model, endpoint, status), [0, 0, 0, 0])
            for place, count in enumerate([1, *tokens]):
                sums[place] += count
    if rows:
        await write(database, rows)
    found = await usage_between(database, FIRST, LAST)
    assert {(u.day, u.model, u.endpoint, u.status): [u.requests, *_tokens(u)] for u in found} == expected
    assert [u.day for u in found] == sorted(u.day for u in found)


def _tokens(usage: Usage) -> list[int]:
    return [usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens]


async def test_what_was_kept_of_a_day_is_added_to_its_rows(own_database: Database) -> None:
    await write(own_database, [row_at(moment(2026, 3, 1))])
    async with connected(own_database) as connection:
        await connection.execute("""
            INSERT INTO usage_by_day VALUES
                ('2026-03-01', 'm', '/v1/chat/completions', 'completed', 3000000000, 4000000000, 5, 6),
                ('2026-03-02', 'm', '/v1/chat/completions', 'error', 1, 2, 3, 4),
                ('2026-03-03', 'm', '/v1/chat/completions', 'error', 1, 2, 3, 4)
        """)
    assert await usage_between(own_database, FIRST, LAST) == [
        Usage(
            date(2026, 3, 1), "m", "/v1/chat/completions", "completed", 3_000_000_001, 4_000_000_008, 11, 6
        ),
        Usage(date(2026, 3, 2), "m", "/v1/chat/completions", "error", 1, 2, 3, 4),
    ]


async def test_the_first_and_the_last_moment_of_a_day_belong_to_it(own_database: Database) -> None:
    start = datetime(2026, 3, 1, tzinfo=UTC)
    rows = [row_at(start), row_at(start + timedelta(days=1) - timedelta(milliseconds=1))]
    rows += [row_at(start - timedelta(milliseconds=1)), row_at(start + timedelta(days=1))]
    rows[0].id = least_id(start)
    await write(own_database, rows)
    found = await usage_between(own_database, start.date(), start.date())
    assert [(usage.day, usage.requests) for usage in found] == [(start.date(), 2)]


async def test_a_sum_opens_the_partitions_of_its_months_only_and_none_of_the_texts(
    own_database: Database,
) -> None:
    await write(own_database, [row_at(moment(2026, month, 1)) for month in range(1, 13)])
    engine = own_database.engine.sync_engine
    asked: list[tuple[str, Any]] = []
    event.listen(engine, "before_cursor_execute", lambda *call: asked.append((call[2], call[3])))
    await usage_between(own_database, FIRST, LAST)
    (statement, parameters) = asked.pop()
    async with own_database.engine.connect() as connection:
        plan = "\n".join((await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)).scalars())
    assert set(re.findall(r"\bmessage\w*20\d\d_\w+?(?=_pkey|\b)", plan)) == {
        "message_2026_02",
        "message_2026_03",
    }


async def test_no_rows_have_no_sums(own_database: Database) -> None:
    assert await usage_between(own_database, FIRST, LAST) == []
    assert table([]).splitlines()[-1].split() == ["total", "0", "0", "0", "0"]


def test_the_table_has_a_line_for_each_and_their_total() -> None:
    sums = [
        Usage(date(2026, 3, 1), "glm", "/v1/chat/completions", "completed", 1_000, 20_000, 3, 4),
        Usage(date(2026, 3, 2), "m", "/v1/completions", "lost", 1, 2, 3, 4),
    ]
    assert table(sums).splitlines() == [
        "day         model  endpoint              status     requests"
        "  prompt_tokens  completion_tokens  cached_tokens",
        "2026-03-01  glm    /v1/chat/completions  completed     1,000"
        "         20,000                  3              4",
        "2026-03-02  m      /v1/completions       lost              1"
        "              2                  3              4",
        "total                                                  1,001"
        "         20,002                  6              8",
    ]
