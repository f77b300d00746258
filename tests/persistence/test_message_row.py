from __future__ import annotations

import asyncio
import copy
import json
import re
from collections.abc import Iterable
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from persistence import partitions
from persistence.content_policy import ContentPolicy
from persistence.exact_text import from_column, json_from_column
from persistence.message_row import (
    COLUMNS,
    SESSION,
    WRITE,
    MessageRow,
    Record,
    arrays,
    encoded,
    from_line,
    last_of_each,
    reduced,
    to_line,
)
from persistence.storable import storable
from tests.persistence.rows import closed, new_row
from tests.persistence.wild import wild_records, wild_rows, wild_texts

FULL = ContentPolicy()
# Waits for no one: what is being written now is not lost.
SWEEP = """
UPDATE message SET status = 'lost', finish_reason = 'lost'
WHERE id IN (SELECT id FROM message WHERE status = 'running' FOR UPDATE SKIP LOCKED)
"""


async def connected(url: str) -> asyncpg.Connection:
    connection = await asyncpg.connect(url)
    await connection.execute(SESSION)
    await partitions.make_ahead(connection)
    return connection


async def write(connection: asyncpg.Connection, records: Iterable[Record]) -> None:
    await connection.execute(WRITE, *arrays(records))


async def stored(connection: asyncpg.Connection, ids: Iterable[UUID]) -> dict[UUID, dict[str, Any]]:
    """The rows with their text, as PostgreSQL gives them."""
    found = await connection.fetch("SELECT * FROM message_full WHERE id = ANY($1)", list(ids))
    assert len({row["id"] for row in found}) == len(found)
    return {row["id"]: {name: row[name] for name in COLUMNS} for row in found}


def fields(record: Record) -> dict[str, Any]:
    """What PostgreSQL should give."""
    return dict(zip(COLUMNS, record.values, strict=True))


def alike(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether two rows are the same, their JSON by its value and NaN the same as NaN."""

    def comparable(name: str, value: Any) -> Any:
        # jsonb writes 1e23 as an integer.
        is_json = COLUMNS[name] == "jsonb" and value is not None
        return json.loads(value, parse_int=float) if is_json else repr(value)

    return all(comparable(name, found[name]) == comparable(name, expected[name]) for name in COLUMNS)


@given(wild_rows.map(lambda row: encoded(row, 1, FULL)) | wild_records())
def test_a_line_is_one_line_and_gives_the_record_back(record: Record) -> None:
    line = to_line(record)
    assert line.splitlines() == [line]
    # By their text: NaN is not itself.
    assert repr(from_line(line).values) == repr(record.values)


@given(
    wild_records(), st.sampled_from(["\n", "\r", "\x0b", "\x1c", "\x85", "\u2028", "\u2029", "\0", "\ud800"])
)
def test_what_ends_lines_elsewhere_ends_none_here(record: Record, breaking: str) -> None:
    texts = {name: f"{breaking}a{breaking}" for name, type_ in COLUMNS.items() if type_ == "text"}
    values = tuple((fields(record) | texts).values())
    line = to_line(Record(values, 0))
    assert line.splitlines() == [line]
    assert repr(from_line(line).values) == repr(values)


other_json = st.recursive(st.none() | st.integers() | wild_texts, st.lists)
other_lines = (
    st.binary()
    | other_json.map(lambda value: json.dumps(value).encode())
    | wild_records().map(lambda record: to_line(record)[:-5])
)


@given(other_lines)
@example(b"[" * 100_000)
@example(b'{"id": 5}')
@example(b'{"id": "00", "create_time": 1}')
@example(b"9" * 5000)
def test_any_other_line_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        from_line(line)


def test_a_record_is_closed_when_it_is_not_running() -> None:
    row = new_row()
    assert not encoded(row, 1, FULL).closed
    assert encoded(closed(row), 1, FULL).closed


def test_the_last_of_each_is_the_closed_one() -> None:
    first, second = new_row(), new_row()
    running = [encoded(row, 1, FULL) for row in (first, second)]
    done = encoded(closed(first), 1, FULL)
    assert last_of_each([done, *running, done]) == [done, running[1]]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(wild_rows, min_size=1, max_size=8), st.sampled_from(["full", "last", "none"]))
def test_postgresql_takes_any_row(migrated_url: str, rows: list[MessageRow], store: Any) -> None:
    policy = ContentPolicy(store)

    async def run() -> None:
        connection = await connected(migrated_url)
        records = [encoded(row, 1, policy) for row in rows]
        await write(connection, records)
        found = await stored(connection, [row.id for row in rows])
        assert all(alike(found[record.id], fields(record)) for record in records)
        for row in rows if store == "full" else ():
            kept = storable(row)
            assert from_column(found[row.id]["query"]) == kept.query
            assert from_column(found[row.id]["response"]) == kept.response
        await connection.close()

    asyncio.run(run())


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(wild_records(), wild_texts), min_size=1, max_size=8))
def test_postgresql_takes_what_is_left_of_any_record(
    migrated_url: str, refused: list[tuple[Record, str]]
) -> None:
    async def run() -> None:
        connection = await connected(migrated_url)
        left = [reduced(record, reason) for record, reason in refused]
        await write(connection, left)
        found = await stored(connection, [record.id for record in left])
        assert all(alike(found[record.id], fields(record)) for record in left)
        assert all("reduced" in json_from_column(row["meta_data"]) for row in found.values())
        await connection.close()

    asyncio.run(run())


def test_of_a_refused_record_its_counts_and_texts_are_left() -> None:
    row = closed(new_row("q\ud800", conversation_id="x" * 5000), "a\0")
    row.details["tools"] = [1]
    left = fields(reduced(encoded(row, 7, FULL), "too long"))
    assert (left["query"], left["response"]) == ("q\ufffd", "a\ufdd00")
    assert (left["prompt_tokens"], left["completion_tokens"], left["gateway_id"]) == (2, 2, 7)
    assert (left["status"], left["finish_reason"], left["conversation_id"]) == ("completed", "stop", None)
    assert (left["meta_data"], left["details"]) == ('{"reduced":"too long"}', "{}")
    assert left["id"] == row.id


async def conversations(connection: asyncpg.Connection, name: str) -> list[tuple[Any, ...]]:
    found = await connection.fetch("SELECT chat_type, create_time FROM conversation WHERE id = $1", name)
    return [tuple(row) for row in found]


async def test_an_end_that_was_told_is_never_told_otherwise(migrated_url: str) -> None:
    connection = await connected(migrated_url)
    row = new_row("q")
    first = encoded(closed(copy.copy(row), "first"), 1, FULL)
    await write(connection, [first])
    await write(connection, [encoded(closed(copy.copy(row), "second"), 2, ContentPolicy("last"))])
    await write(connection, [encoded(row, 1, FULL)])
    await connection.execute(SWEEP)
    assert alike((await stored(connection, [row.id]))[row.id], fields(first))
    await connection.close()


async def test_an_end_that_comes_after_all_is_told_by_a_row_that_was_lost(migrated_url: str) -> None:
    connection = await connected(migrated_url)
    row = new_row("q")
    await write(connection, [encoded(row, 1, FULL)])
    await connection.execute(SWEEP)
    await write(connection, [encoded(row, 1, FULL)])
    assert (await stored(connection, [row.id]))[row.id]["status"] == "lost"
    ended = encoded(closed(row), 1, FULL)
    await write(connection, [ended])
    assert alike((await stored(connection, [row.id]))[row.id], fields(ended))
    await connection.close()


async def test_a_conversation_that_is_not_known_is_made_and_one_that_was_deleted_stays_deleted(
    migrated_url: str,
) -> None:
    connection = await connected(migrated_url)
    row = new_row("q", conversation_id="talk")
    await write(connection, [encoded(row, 1, FULL)])
    assert await conversations(connection, "talk") == [(row.chat_type, row.create_time)]
    await connection.execute("DELETE FROM conversation WHERE id = 'talk'")
    ended = encoded(closed(row), 1, FULL)
    await write(connection, [ended])
    await write(connection, [ended])
    assert await conversations(connection, "talk") == []
    assert (await stored(connection, [row.id]))[row.id]["conversation_id"] is None
    # Until someone speaks in it again.
    again = new_row("q", conversation_id="talk")
    await write(connection, [ended, encoded(again, 1, FULL)])
    assert await conversations(connection, "talk") == [(again.chat_type, again.create_time)]
    await connection.close()


async def test_the_plan_that_is_kept_reads_no_table_as_a_whole(migrated_url: str) -> None:
    """Also where it is made while the tables are small, and PostgreSQL knows it."""
    connection = await connected(migrated_url)
    await write(connection, [encoded(new_row(conversation_id=str(n)), 1, FULL) for n in range(20)])
    await connection.execute("ANALYZE message, conversation, message_content")
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    await connection.execute(f"PREPARE written AS {WRITE}")
    plan = await connection.fetch(f"EXPLAIN EXECUTE written ({', '.join(['NULL'] * len(COLUMNS))})")
    lines = [line.strip() for (line,) in plan]
    scans = [
        number for number, line in enumerate(lines) if re.search(r"Scan.* on (message|conversation)", line)
    ]
    assert len(scans) >= 4
    for number in scans:
        assert "Seq Scan" not in lines[number]
        assert lines[number + 1].startswith("Index Cond: (id = ")
    await connection.close()


class Lives:
    """Some rows with the records that tell of them, to be written in any order."""

    def __init__(self, seed: int, count: int) -> None:
        random = Random(seed)
        conversations = [None, *(f"{random.random()}" for _ in range(3))]
        self._random = random
        self.conversations = [name for name in conversations if name is not None]
        self.running: dict[UUID, Record] = {}
        self.ended: dict[UUID, Record] = {}
        self.batches: list[list[Record]] = []
        records: list[Record] = []
        for number in range(count):
            row = new_row(
                f"question {number}\0",
                conversation_id=random.choice(conversations),
                messages=[{"role": "user", "content": str(number)}] if random.random() < 0.5 else None,
            )
            running = encoded(row, 1, FULL)
            row = closed(copy.copy(row), f"answer {number}\u2028")
            row.status = random.choice(["completed", "cancelled", "timeout", "error", "shutdown"])
            row.details = {"tool_calls": [{"name": "f", "arguments": str(number)}]}
            ended = encoded(row, 1, FULL)
            told = random.choice([[running], [ended], [running, ended]]) * random.randint(1, 2)
            records += told
            if running in told:
                self.running[row.id] = running
            if ended in told:
                self.ended[row.id] = ended
        random.shuffle(records)
        while records:
            size = random.randint(1, 30)
            self.batches.append(last_of_each(records[:size]))
            del records[:size]

    def check(self, found: dict[UUID, dict[str, Any]], deleted: bool) -> None:
        """Each row is there once, as its end tells, or running, or lost."""
        assert found.keys() == self.running.keys() | self.ended.keys()
        for id_, row in found.items():
            expected = fields(self.ended.get(id_) or self.running[id_])
            if id_ not in self.ended and row["status"] == "lost":
                expected |= {"status": "lost", "finish_reason": "lost"}
            if deleted and row["conversation_id"] is None:
                expected["conversation_id"] = None
            assert alike(row, expected)

    async def sweep_and_delete(self, connection: asyncpg.Connection) -> None:
        """What others do meanwhile."""
        if self._random.random() < 0.5:
            await connection.execute(SWEEP)
        else:
            name = self._random.choice(self.conversations)
            await connection.execute("DELETE FROM conversation WHERE id = $1", name)


lives = st.builds(Lives, st.integers(0, 2**32), st.integers(1, 120))


@settings(max_examples=30)
@given(lives)
def test_any_order_and_repetition_leaves_each_row_once_in_its_last_state(
    migrated_url: str, lives: Lives
) -> None:
    async def run() -> None:
        connection = await connected(migrated_url)
        for batch in lives.batches:
            await write(connection, batch)
            await lives.sweep_and_delete(connection)
        lives.check(await stored(connection, lives.running.keys() | lives.ended.keys()), deleted=True)
        await connection.close()

    asyncio.run(run())


@settings(max_examples=30)
@given(lives, st.booleans())
def test_also_from_two_gateways_at_once_with_others_that_sweep_and_delete(
    migrated_url: str, lives: Lives, others: bool
) -> None:
    async def run() -> None:
        one, two, other = [await connected(migrated_url) for _ in range(3)]

        async def write_all(connection: asyncpg.Connection, batches: list[list[Record]]) -> None:
            for batch in batches:
                await write(connection, batch)

        async def disturb() -> None:
            for _ in range(len(lives.batches) if others else 0):
                await lives.sweep_and_delete(other)

        # Both write all, in two orders.
        await asyncio.gather(write_all(one, lives.batches), write_all(two, lives.batches[::-1]), disturb())
        lives.check(await stored(one, lives.running.keys() | lives.ended.keys()), deleted=others)
        for connection in (one, two, other):
            await connection.close()

    asyncio.run(run())
