from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import pytest

from persistence import liveness
from persistence.backlog import Backlog
from persistence.database import Database, DatabaseUnavailable
from persistence.embedded import EmbeddedPostgres
from persistence.message_row import MessageRow, Record, encoded
from persistence.recorder import MOST_ROWS, Recorder
from persistence.row_writer import DatabaseAway
from tests.persistence.rows import closed, expected, new_row, stored

SECONDS = 30.0


class Unsteady(Database):
    """Cuts the connections that write, and gives out no more of them, while it is away."""

    is_away = False

    async def connection(self) -> asyncpg.Connection:
        if self.is_away:
            raise DatabaseUnavailable("gone")
        return await super().connection()

    async def leave(self) -> None:
        self.is_away = True
        async with self.engine.connect() as connection:
            await connection.exec_driver_sql(
                f"SELECT pg_terminate_backend(pid) FROM pg_locks WHERE classid = {liveness.LOCK_CLASS}"
            )

    def come_back(self) -> None:
        self.is_away = False


@pytest.fixture
async def unsteady(migrated_url: str, database: Database) -> Any:
    unsteady = Unsteady(migrated_url, Path())
    await unsteady.connect()
    yield unsteady
    await unsteady.close()


async def transactions(database: Database) -> int:
    """How many transactions wrote the rows."""
    async with database.engine.connect() as connection:
        found = await connection.exec_driver_sql("SELECT count(DISTINCT xmin::text) FROM message")
        return int(found.scalar_one())


async def until(recorder: Recorder, away: bool) -> None:
    """PostgreSQL is known to be away, or to have everything."""
    async with asyncio.timeout(SECONDS):
        while (recorder.away is not None) != away or (not away and recorder.backlog.rows):
            await asyncio.sleep(0.01)


async def test_a_closed_row_is_there_when_close_returns(database: Database, recorder: Recorder) -> None:
    row = new_row()
    recorder.begin(row)
    assert await recorder.close(closed(row), SECONDS)
    assert await stored(database) == {row.id: expected(row)}
    assert recorder.depth == recorder.rows_lost == recorder.backlog.rows == 0


@pytest.fixture
def nobody_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request runs so long that it is seen running, however slow the machine."""
    monkeypatch.setattr("persistence.row_queue.BEGIN_LINGER_SECONDS", 60.0)


@pytest.mark.usefixtures("nobody_is_slow")
async def test_a_short_request_costs_one_write(recorder: Recorder) -> None:
    row = new_row()
    recorder.begin(row)
    await recorder.close(closed(row), SECONDS)
    assert recorder.rows_written == 1


@pytest.mark.usefixtures("nobody_is_slow")
async def test_requests_that_close_together_are_committed_together(
    database: Database, recorder: Recorder
) -> None:
    rows = [new_row(f"question {number}") for number in range(700)]
    for row in rows:
        recorder.begin(row)
    assert all(await asyncio.gather(*(recorder.close(closed(row), SECONDS) for row in rows)))
    assert recorder.rows_written == 700
    assert await transactions(database) <= 4
    assert await stored(database) == {row.id: expected(row) for row in rows}


async def test_a_request_that_goes_on_is_seen_running(
    database: Database, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence.row_queue.BEGIN_LINGER_SECONDS", 0.0)
    long, short = new_row("long"), new_row("short")
    recorder.begin(long)
    await recorder.close(closed(short), SECONDS)
    assert (await stored(database))[long.id]["status"] == "running"
    await recorder.close(closed(long), SECONDS)
    assert (await stored(database))[long.id] == expected(long)


async def test_a_begun_row_is_written_without_any_close(database: Database, recorder: Recorder) -> None:
    row = new_row()
    recorder.begin(row)
    await recorder.stop(SECONDS)
    assert await stored(database) == {row.id: expected(row)}
    assert row.status == "running"


async def test_a_stop_writes_what_is_left(database: Database, recorder: Recorder) -> None:
    rows = [new_row() for _ in range(20)]
    for row in rows:
        recorder.begin(row)
    closing = [asyncio.create_task(recorder.close(closed(row), SECONDS)) for row in rows[:10]]
    await asyncio.sleep(0)
    await recorder.stop(SECONDS)
    assert all(await asyncio.gather(*closing))
    assert await stored(database) == {row.id: expected(row) for row in rows}
    await recorder.stop(SECONDS)


@pytest.mark.parametrize(
    "refused",
    [
        {"prompt_tokens": 2**31},
        {"meta_data": {"value": float("nan")}},
        {"response": "\ud800"},
        # More than an entry of an index can be, also compressed.
        {"conversation_id": "".join(map(chr, Random(0).choices(range(0x4E00, 0x9FA5), k=5000)))},
    ],
    ids=lambda refused: next(iter(refused)),
)
async def test_a_row_with_a_value_that_postgresql_refuses_is_kept_without_it(
    database: Database, recorder: Recorder, refused: dict[str, Any]
) -> None:
    good = [closed(new_row()) for _ in range(5)]
    bad = closed(new_row())
    for name, value in refused.items():
        setattr(bad, name, value)
    assert all(await asyncio.gather(*(recorder.close(row, 5) for row in [*good[:2], bad, *good[2:]])))
    found = await stored(database)
    kept = found.pop(bad.id)
    assert found == {row.id: expected(row) for row in good}
    assert (kept["status"], kept["query"], kept["completion_tokens"]) == (
        "completed",
        bad.query,
        bad.completion_tokens,
    )
    assert (recorder.rows_lost, recorder.depth) == (0, 0)


@pytest.mark.parametrize("durability", ["commit", "strict"])
async def test_rows_go_to_the_journal_while_postgresql_is_away_and_then_to_it(
    unsteady: Unsteady, backlog: Backlog, database: Database, durability: Any
) -> None:
    recorder = Recorder(unsteady, backlog, durability)
    await recorder.start()
    rows = [new_row(f"question {number}") for number in range(40)]
    assert await recorder.close(closed(rows[0]), SECONDS)
    running = rows.pop()
    await unsteady.leave()
    recorder.begin(running)
    assert all(await asyncio.gather(*(recorder.close(closed(row), SECONDS) for row in rows[1:])))
    async with asyncio.timeout(SECONDS):
        while recorder.away != "gone":
            await asyncio.sleep(0.01)
    assert backlog.rows >= 38
    assert recorder.lag_seconds > 0
    assert recorder.problems == [f"PostgreSQL: gone; {backlog.rows} rows in the journal"]
    assert recorder.refusing == ("The database is away." if durability == "strict" else None)
    assert await stored(database) == {rows[0].id: expected(rows[0])}
    assert not await recorder.caught_up(SECONDS)
    unsteady.come_back()
    await until(recorder, away=False)
    assert await recorder.caught_up(SECONDS)
    assert await stored(database) == {row.id: expected(row) for row in [*rows, running]}
    assert (recorder.problems, recorder.refusing, recorder.rows_lost, backlog.rows) == ([], None, 0, 0)
    await recorder.stop(SECONDS)


async def test_an_idle_gateway_notices_that_postgresql_is_away(unsteady: Unsteady, backlog: Backlog) -> None:
    recorder = Recorder(unsteady, backlog)
    await recorder.start()
    await until(recorder, away=False)
    await unsteady.leave()
    await until(recorder, away=True)
    unsteady.come_back()
    await until(recorder, away=False)
    await recorder.stop(SECONDS)


async def test_what_a_life_left_in_the_journal_is_written_by_the_next(
    unsteady: Unsteady, backlog: Backlog, database: Database, tmp_path: Path
) -> None:
    recorder = Recorder(unsteady, backlog)
    await recorder.start()
    await unsteady.leave()
    rows = [closed(new_row()) for _ in range(5)]
    assert all(await asyncio.gather(*(recorder.close(row, SECONDS) for row in rows)))
    await recorder.stop(SECONDS)
    assert recorder.rows_lost == 0
    assert await stored(database) == {}
    after = Recorder(database, Backlog(tmp_path / "journal", 2**30))
    await after.start()
    assert await after.caught_up(SECONDS)
    assert await stored(database) == {row.id: expected(row) for row in rows}
    await after.stop(SECONDS)


async def test_cut_connections_lose_nothing(server_url: str, database: Database, recorder: Recorder) -> None:
    killer = await asyncpg.connect(server_url)
    rows: list[MessageRow] = []
    for _ in range(10):
        some = [closed(new_row()) for _ in range(20)]
        rows += some
        closing = asyncio.gather(*(recorder.close(row, SECONDS) for row in some))
        await killer.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'chatglm-gateway'"
        )
        assert all(await closing)
    await killer.close()
    await until(recorder, away=False)
    assert await stored(database) == {row.id: expected(row) for row in rows}
    assert recorder.rows_lost == 0


async def test_a_server_that_is_stopped_is_written_to_when_it_is_started_again(
    data_dir: Path, backlog: Backlog
) -> None:
    server = EmbeddedPostgres(data_dir)
    database = Database(server.start(), data_dir)
    await database.connect()
    await database.migrate()
    recorder = Recorder(database, backlog)
    await recorder.start()
    rows = [new_row("before"), new_row("while away"), new_row("running")]
    assert await recorder.close(closed(rows[0]), SECONDS)
    server.stop()
    recorder.begin(rows[2])
    assert await recorder.close(closed(rows[1]), SECONDS)
    assert recorder.away is not None
    server.start()
    await until(recorder, away=False)
    await recorder.stop(SECONDS)
    assert await stored(database) == {row.id: expected(row) for row in rows}
    await database.close()
    server.stop()


async def test_a_write_that_hangs_counts_as_away(database: Database, backlog: Backlog) -> None:
    recorder = Recorder(database, backlog, timeout_seconds=0.5)
    await recorder.start()
    before, after = closed(new_row()), closed(new_row())
    assert await recorder.close(before, SECONDS)
    # A busy machine may have taken as long.
    await until(recorder, away=False)
    async with database.engine.begin() as connection:
        await connection.exec_driver_sql("LOCK TABLE message IN ACCESS EXCLUSIVE MODE")
        assert await recorder.close(after, SECONDS)
        assert recorder.away == "no answer within 0.5 s"
        assert backlog.rows == 1
    await until(recorder, away=False)
    assert await stored(database) == {row.id: expected(row) for row in (before, after)}
    await recorder.stop(SECONDS)


async def test_without_postgresql_and_journal_rows_wait_and_none_is_admitted(
    unsteady: Unsteady, tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence.recorder.FIRST_RETRY_SECONDS", 0.01)
    (tmp_path / "journal").write_text("in the way")
    recorder = Recorder(unsteady, Backlog(tmp_path / "journal", 2**30))
    await recorder.start()
    await unsteady.leave()
    row = closed(new_row())
    assert not await recorder.close(row, 0.1)
    assert recorder.refusing == "The database is away, and the local journal can't be written."
    assert [problem.partition(":")[0] for problem in recorder.problems] == ["PostgreSQL", "The journal"]
    assert recorder.depth == 1
    os.unlink(tmp_path / "journal")
    async with asyncio.timeout(SECONDS):
        while recorder.depth:
            await asyncio.sleep(0.01)
    assert recorder.refusing is None
    unsteady.come_back()
    await until(recorder, away=False)
    assert await stored(database) == {row.id: expected(row)}
    await recorder.stop(SECONDS)


async def test_a_stop_that_can_keep_rows_nowhere_says_what_is_lost(
    unsteady: Unsteady, tmp_path: Path
) -> None:
    (tmp_path / "journal").write_text("in the way")
    recorder = Recorder(unsteady, Backlog(tmp_path / "journal", 2**30))
    await recorder.start()
    await unsteady.leave()
    recorder.begin(new_row())
    assert not await recorder.close(closed(new_row()), 0)
    await recorder.stop(0)
    assert recorder.rows_lost == 2


async def test_a_full_journal_takes_the_rows_of_running_requests_and_no_new_ones(
    unsteady: Unsteady, tmp_path: Path
) -> None:
    recorder = Recorder(unsteady, Backlog(tmp_path / "journal", most_bytes=2000))
    await recorder.start()
    await unsteady.leave()
    assert await recorder.close(closed(new_row()), SECONDS)
    assert recorder.refusing is None
    assert await recorder.close(closed(new_row(), "long " * 1000), SECONDS)
    assert recorder.refusing == "The database is away, and the local journal is full."
    assert await recorder.close(closed(new_row()), SECONDS)
    unsteady.come_back()
    await until(recorder, away=False)
    assert recorder.refusing is None
    await recorder.stop(SECONDS)


async def test_so_many_waiting_rows_are_enough(recorder: Recorder) -> None:
    for _ in range(MOST_ROWS - 1):
        recorder.begin(new_row())
    assert recorder.refusing is None
    recorder.begin(new_row())
    assert recorder.refusing == "Too many rows wait for the database."
    await recorder.stop(SECONDS)


async def test_a_row_that_is_closed_while_it_is_written_as_begun_has_its_end(
    database: Database, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding, may_go_on = threading.Event(), threading.Event()

    def slowly(row: MessageRow, *rest: Any) -> Record:
        """The response is read early, the rest of the row late."""
        response = row.response
        encoding.set()
        may_go_on.wait(SECONDS)
        return encoded(replace(row, response=response), *rest)

    monkeypatch.setattr("persistence.recorder.THREAD_CHARACTERS", 0)
    monkeypatch.setattr("persistence.recorder.encoded", slowly)
    row = new_row()
    recorder.begin(row)
    assert await asyncio.to_thread(encoding.wait, SECONDS)
    row.meta_data["late"] = True
    closing = asyncio.create_task(recorder.close(closed(row), SECONDS))
    await asyncio.sleep(0)
    may_go_on.set()
    assert await closing
    assert recorder.rows_written == 2
    assert await stored(database) == {row.id: expected(row)}


async def test_a_row_that_is_too_large_for_the_journal_is_kept_in_part(
    unsteady: Unsteady, backlog: Backlog, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence.backlog.MOST_RECORD_BYTES", 2000)
    recorder = Recorder(unsteady, backlog)
    await recorder.start()
    await unsteady.leave()
    small, large = closed(new_row()), closed(new_row(details={"tools": ["x" * 3000]}))
    assert all(await asyncio.gather(*(recorder.close(row, SECONDS) for row in (small, large))))
    unsteady.come_back()
    await until(recorder, away=False)
    found = await stored(database)
    assert found[small.id] == expected(small)
    reason = {"reduced": "larger than the journal takes"}
    assert found[large.id] == expected(large) | {"details": {}, "meta_data": reason}
    assert recorder.rows_lost == 0
    await recorder.stop(SECONDS)


async def test_async_answers_do_not_wait_and_their_rows_come_soon(
    database: Database, backlog: Backlog
) -> None:
    recorder = Recorder(database, backlog, "async")
    await recorder.start()
    rows = [closed(new_row()) for _ in range(10)]
    for row in rows:
        assert await recorder.close(row, 0)
    assert recorder.depth == 10
    assert await recorder.caught_up(SECONDS)
    assert await stored(database) == {row.id: expected(row) for row in rows}
    late = closed(new_row())
    assert await recorder.close(late, 0)
    async with asyncio.timeout(SECONDS):
        while recorder.depth:
            await asyncio.sleep(0.01)
    assert late.id in await stored(database)
    assert recorder.rows_written == 11
    await recorder.stop(SECONDS)


async def test_a_start_without_postgresql_fails_and_holds_nothing(
    unsteady: Unsteady, backlog: Backlog, tmp_path: Path
) -> None:
    unsteady.is_away = True
    with pytest.raises(DatabaseAway, match="gone"):
        await Recorder(unsteady, backlog).start()
    unsteady.come_back()
    again = Recorder(unsteady, Backlog(tmp_path / "journal", 2**30))
    await again.start()
    assert [path.name for path in (tmp_path / "journal").iterdir()] == ["1"]
    await again.stop(SECONDS)


async def test_a_failure_of_our_own_does_not_keep_postgresql_away(
    unsteady: Unsteady, backlog: Backlog, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay, failures = backlog.replay, [ZeroDivisionError("a bug of ours")]

    async def fails_once(write: Any) -> bool:
        if backlog.rows and failures:
            raise failures.pop()
        return await replay(write)

    monkeypatch.setattr(backlog, "replay", fails_once)
    recorder = Recorder(unsteady, backlog)
    await recorder.start()
    await unsteady.leave()
    row = closed(new_row())
    assert await recorder.close(row, SECONDS)
    unsteady.come_back()
    await until(recorder, away=False)
    assert failures == []
    assert await stored(database) == {row.id: expected(row)}
    await recorder.stop(SECONDS)
