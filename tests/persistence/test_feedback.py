from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from persistence.backlog import Backlog
from persistence.content_policy import FULL, ContentPolicy
from persistence.database import Database, DatabaseUnavailable
from persistence.exact_text import from_column
from persistence.feedback import (
    GIVE,
    MOST_PER_MESSAGE,
    Feedback,
    FeedbackConflict,
    FeedbackRefused,
    TooManyFeedbacks,
    UnknownMessage,
    give,
)
from persistence.message_row import MessageRow
from persistence.recorder import Recorder
from tests.persistence.past import connected, moment, partition_names, row_at, write
from tests.persistence.rows import closed, new_row, stored
from tests.strategies import texts

SECONDS = 30.0


def said(message_id: UUID, score: int = 80, **fields: Any) -> Feedback:
    given_: dict[str, Any] = {"id": uuid4().hex, "score": score} | fields
    return Feedback(message_id, **given_)


async def taken(
    database: Database, feedback: Feedback, owner: UUID | None = None, policy: ContentPolicy = FULL
) -> Feedback:
    return await give(database, feedback, owner, policy, SECONDS)


async def all_given(database: Database) -> list[Feedback]:
    """What is stored, in the order in which it came."""
    names = "message_id, id, score, reason, correction, user_id, create_time"
    async with connected(database) as connection:
        rows = await connection.fetch(f"SELECT {names} FROM feedback ORDER BY create_time")
    found = [Feedback(**dict(row)) for row in rows]
    return [
        replace(
            one,
            id=from_column(one.id),
            reason=from_column(one.reason),
            correction=None if one.correction is None else from_column(one.correction),
        )
        for one in found
    ]


async def score_of(database: Database, message_id: UUID) -> tuple[int, str]:
    """What the message's own row says."""
    row = (await stored(database, [message_id]))[message_id]
    return row["feedback_score"], row["feedback_reason"]


@pytest.fixture
async def row(database: Database) -> MessageRow:
    """One that is stored."""
    row = closed(new_row())
    await write(database, [row])
    return row


async def test_it_is_stored_and_stands_in_the_messages_row(database: Database, row: MessageRow) -> None:
    other = closed(new_row())
    await write(database, [other])
    user = uuid4()
    first = await taken(database, said(row.id, 20, reason="wrong", correction="right", user_id=user))
    last = await taken(database, said(row.id, 100))
    assert (first.reason, first.correction, first.user_id, last.correction) == ("wrong", "right", user, None)
    assert await all_given(database) == [first, last]
    assert await score_of(database, row.id) == (100, "")
    assert await score_of(database, other.id) == (-1, "")
    assert first.create_time is not None
    assert abs(first.create_time - datetime.now(UTC)) < timedelta(minutes=1)


async def test_minus_1_takes_it_back_and_leaves_what_was_said(database: Database, row: MessageRow) -> None:
    first = await taken(database, said(row.id, 20, reason="wrong"))
    last = await taken(database, said(row.id, -1))
    assert await score_of(database, row.id) == (-1, "")
    assert await all_given(database) == [first, last]


async def test_a_message_that_is_not_there_takes_none(database: Database, row: MessageRow) -> None:
    with pytest.raises(UnknownMessage):
        await taken(database, said(uuid7()))
    assert await all_given(database) == []


async def test_somebody_elses_message_is_as_unknown(database: Database) -> None:
    mine, theirs, nobodys = (closed(new_row(user_id=user)) for user in (uuid4(), uuid4(), None))
    await write(database, [mine, theirs, nobodys])
    for row in (theirs, nobodys):
        feedback = said(row.id, id="f")
        with pytest.raises(UnknownMessage):
            await taken(database, feedback, mine.user_id)
        # Also where its owner has said the same.
        await taken(database, feedback)
        with pytest.raises(UnknownMessage):
            await taken(database, feedback, mine.user_id)
    await taken(database, said(mine.id), mine.user_id)
    assert await score_of(database, mine.id) == (80, "")


async def test_the_same_again_changes_nothing_also_after_a_later_one(
    database: Database, row: MessageRow
) -> None:
    feedback = said(row.id, 20, id="mine", reason="a", correction="b")
    first = await taken(database, feedback)
    assert await taken(database, feedback) == first
    later = await taken(database, said(row.id, 90, reason="later"))
    assert await taken(database, feedback) == first
    assert await score_of(database, row.id) == (90, "later")
    assert await all_given(database) == [first, later]


@pytest.mark.parametrize("other", [{"score": 21}, {"reason": "c"}, {"correction": "c"}, {"correction": None}])
async def test_the_same_id_for_something_else_is_a_conflict(
    database: Database, row: MessageRow, other: dict[str, Any]
) -> None:
    feedback = said(row.id, 20, id="mine", reason="a", correction="b")
    first = await taken(database, feedback)
    with pytest.raises(FeedbackConflict):
        await taken(database, replace(feedback, **other))
    assert await all_given(database) == [first]
    assert await score_of(database, row.id) == (20, "a")


async def test_an_id_is_the_messages_own(database: Database, row: MessageRow) -> None:
    other = closed(new_row())
    await write(database, [other])
    given_ = [await taken(database, said(one.id, score, id="f")) for one, score in ((row, 1), (other, 2))]
    assert await all_given(database) == given_


async def test_a_message_has_so_many_and_no_more(database: Database, row: MessageRow) -> None:
    given_ = [await taken(database, said(row.id, score)) for score in range(MOST_PER_MESSAGE)]
    with pytest.raises(TooManyFeedbacks):
        await taken(database, said(row.id))
    assert await taken(database, replace(given_[0], create_time=None)) == given_[0]
    assert await score_of(database, row.id) == (MOST_PER_MESSAGE - 1, "")
    assert await all_given(database) == given_


@pytest.mark.parametrize("durability", ["commit", "async"])
async def test_a_row_that_has_only_begun_can_be_had_at_once_and_its_end_leaves_the_score(
    database: Database, backlog: Backlog, monkeypatch: pytest.MonkeyPatch, durability: Any
) -> None:
    monkeypatch.setattr("persistence.row_queue.BEGIN_LINGER_SECONDS", 3600.0)
    monkeypatch.setattr("persistence.recorder.ASYNC_SECONDS", 3600.0)
    recorder = Recorder(database, backlog, durability)
    await recorder.start()
    row, other = new_row(), new_row()
    recorder.begin(row)
    recorder.begin(other)
    with pytest.raises(UnknownMessage):
        await taken(database, said(row.id))
    assert await recorder.arrived(row.id, SECONDS)
    assert (await stored(database)).keys() == {row.id}
    first = await taken(database, said(row.id, 70, reason="so far"))
    closing = asyncio.create_task(recorder.close(closed(row), SECONDS))
    await asyncio.sleep(0)
    assert await recorder.arrived(row.id, SECONDS)
    assert await closing
    assert (await stored(database))[row.id]["status"] == "completed"
    assert await score_of(database, row.id) == (70, "so far")
    assert await all_given(database) == [first]
    await recorder.stop(SECONDS)


async def test_of_an_id_that_nobody_knows_nothing_is_waited_for(recorder: Recorder) -> None:
    recorder.begin(new_row())
    assert await recorder.arrived(uuid7(), SECONDS)
    assert recorder.rows_written == 0


async def test_a_row_of_the_journal_can_not_be_denied(tmp_path: Path, database: Database) -> None:
    recorder = Recorder(database, Backlog(tmp_path / "journal", 2**30))
    await recorder.start()
    recorder._away = "gone"
    assert not await recorder.arrived(uuid7(), SECONDS)
    await recorder.stop(0)


async def test_a_row_in_a_full_batch_that_ends_is_written_with_its_end(
    database: Database, recorder: Recorder
) -> None:
    rows = [new_row(f"question {number}") for number in range(1200)]
    for row in rows:
        recorder.begin(row)
    shown = [asyncio.create_task(recorder.arrived(row.id, SECONDS)) for row in rows[:600]]
    await asyncio.sleep(0)
    assert all(await asyncio.gather(*(recorder.close(closed(row), SECONDS) for row in rows)))
    assert all(await asyncio.gather(*shown))
    assert {row["status"] for row in (await stored(database)).values()} == {"completed"}
    assert recorder.depth == recorder.rows_lost == 0


async def test_its_partition_is_made_when_it_is_needed(own_database: Database) -> None:
    rows = [row_at(moment(2025, 3, day)) for day in (1, 2)]
    await write(own_database, rows)
    before = await partition_names(own_database)
    with pytest.raises(UnknownMessage):
        await taken(own_database, said(row_at(moment(2025, 3, 1)).id))
    assert await partition_names(own_database) == before
    await asyncio.gather(*(taken(own_database, said(row.id)) for row in rows * 5))
    assert await partition_names(own_database) - before == {"feedback_2025_03_01", "feedback_2025_03_02"}
    assert len(await all_given(own_database)) == 10


async def test_only_its_own_partitions_are_touched(own_database: Database) -> None:
    rows = [row_at(moment(2025, month, 1)) for month in range(1, 7)]
    await write(own_database, rows)
    for row in rows:
        await taken(own_database, said(row.id))
    async with connected(own_database) as connection:
        values = (rows[2].id, "new", None, 1, "", None, None, 100)
        for mode in ("force_custom_plan", "force_generic_plan"):
            await connection.execute(f"SET plan_cache_mode = {mode}")
            plan = await connection.fetch(f"EXPLAIN (ANALYZE, COSTS off) {GIVE}", *values)
            text = "\n".join(line for (line,) in plan if "never executed" not in line)
            for month in (1, 2, 4, 5, 6):
                assert f"_2025_0{month}" not in text, text
            assert "feedback_2025_03_01" in text
            assert "message_2025_03" in text
            await connection.execute("DELETE FROM feedback WHERE id = 'new'")


async def test_at_the_same_time_each_id_counts_once_and_the_last_score_stands(
    database: Database, row: MessageRow
) -> None:
    async def one(number: int) -> Feedback | None:
        try:
            return await taken(database, said(row.id, number, id=f"id {number // 3}"))
        except FeedbackConflict:
            return None

    found = [one_ for one_ in await asyncio.gather(*map(one, range(60))) if one_ is not None]
    given_ = await all_given(database)
    assert sorted(one_.id for one_ in given_) == sorted(f"id {number}" for number in range(20))
    assert sorted(found, key=lambda one_: one_.id) == sorted(given_, key=lambda one_: one_.id)
    assert await score_of(database, row.id) == (given_[-1].score, "")


async def test_the_same_at_the_same_time_is_one(database: Database, row: MessageRow) -> None:
    feedback = said(row.id, 50)
    found = await asyncio.gather(*(taken(database, feedback) for _ in range(20)))
    assert await all_given(database) == [found[0]]
    assert found == [found[0]] * 20


@settings(max_examples=30)
@given(texts, texts, st.none() | texts)
def test_any_text_comes_back_as_it_was(
    migrated_url: str, id_: str, reason: str, correction: str | None
) -> None:
    async def live() -> None:
        database = Database(migrated_url, Path())
        await database.connect()
        row = closed(new_row())
        await write(database, [row])
        feedback = said(row.id, id=id_[:255], reason=reason, correction=correction)
        found = await taken(database, feedback)
        assert replace(found, create_time=None) == feedback
        assert await taken(database, feedback) == found
        assert await score_of(database, row.id) == (80, reason)
        await database.close()

    asyncio.run(live())


async def test_half_of_a_surrogate_pair_is_replaced(database: Database, row: MessageRow) -> None:
    given_ = await taken(database, said(row.id, id="\ud800", reason="\udc00", correction="a\ud800"))
    assert (given_.id, given_.reason, given_.correction) == ("\ufffd", "\ufffd", "a\ufffd")
    assert await all_given(database) == [given_]


@pytest.mark.parametrize("store", ["full", "last"])
async def test_a_text_that_is_too_long_is_cut_and_marked(
    database: Database, row: MessageRow, store: Any
) -> None:
    policy = ContentPolicy(store, 4)
    feedback = said(row.id, reason="abcde", correction="abcd")
    given_ = await taken(database, feedback, policy=policy)
    assert (given_.reason, given_.correction) == ("abcd […cut, 5 characters]", "abcd")
    assert await all_given(database) == [given_]
    assert await taken(database, feedback, policy=policy) == given_


async def test_where_no_text_is_stored_the_score_is(database: Database, row: MessageRow) -> None:
    policy = ContentPolicy("none")
    feedback = said(row.id, reason="secretive", correction="secretive")
    given_ = await taken(database, feedback, policy=policy)
    assert (given_.reason, given_.correction) == ("", None)
    assert await all_given(database) == [given_]
    assert await score_of(database, row.id) == (80, "")
    assert await taken(database, feedback, policy=policy) == given_


@pytest.mark.parametrize("table", ["message", "feedback"])
async def test_a_server_that_hangs_is_unavailable_in_time_and_nothing_is_taken(
    database: Database, row: MessageRow, table: str
) -> None:
    first = await taken(database, said(row.id, 1))
    async with database.engine.begin() as blocking:
        await blocking.exec_driver_sql(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        begun = time.monotonic()
        for _ in range(6):
            with pytest.raises(DatabaseUnavailable):
                await give(database, said(row.id, 99), None, FULL, 0.1)
        assert time.monotonic() - begun < SECONDS
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1"
        async with connected(database) as connection, asyncio.timeout(SECONDS):
            # The server, too, has given them up.
            while await connection.fetchval(waiting, f"{GIVE[:20]}%"):
                await asyncio.sleep(0.01)
    assert await all_given(database) == [first]
    assert await taken(database, said(row.id, 2))


async def test_a_server_that_is_away_is_unavailable(database: Database, row: MessageRow) -> None:
    await database.close()
    with pytest.raises(DatabaseUnavailable):
        await taken(database, said(row.id))


Step = tuple[str, int, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["begin", "close", "show", "give", "give", "again"]),
        st.integers(0, 2),
        st.integers(0, 5),
        st.integers(-1, 100),
    ),
    max_size=20,
)


@settings(max_examples=40)
@given(steps, st.booleans())
def test_any_order_of_begin_close_and_feedback_leaves_the_last_new_score_and_each_id_once(
    migrated_url: str, tmp_path_factory: pytest.TempPathFactory, order: list[Step], lingers: bool
) -> None:
    """Three requests, with feedbacks under six ids. Each step waits for the one before."""

    async def live() -> None:
        database = Database(migrated_url, Path())
        await database.connect()
        async with connected(database) as connection:
            await connection.execute("TRUNCATE message, message_content, feedback, conversation CASCADE")
        recorder = Recorder(database, Backlog(tmp_path_factory.mktemp("journal"), 2**30))
        await recorder.start()
        rows = [new_row() for _ in range(3)]
        begun: set[int] = set()
        expected: dict[tuple[int, str], int] = {}
        scores = [-1, -1, -1]
        for kind, place, id_, score in order:
            row, key = rows[place], (place, f"id {id_}")
            match kind:
                case "begin" if place not in begun:
                    begun.add(place)
                    recorder.begin(row)
                case "close" if place in begun and row.status == "running":
                    assert await recorder.close(closed(row), SECONDS)
                case "show":
                    assert await recorder.arrived(row.id, SECONDS)
                case "give" | "again":
                    score = expected.get(key, score) if kind == "again" else score
                    assert await recorder.arrived(row.id, SECONDS)
                    outcome: Feedback | FeedbackRefused
                    try:
                        outcome = await taken(database, said(row.id, score, id=key[1]))
                    except FeedbackRefused as refused:
                        outcome = refused
                    if place not in begun:
                        assert isinstance(outcome, UnknownMessage)
                    elif expected.setdefault(key, score) != score:
                        assert isinstance(outcome, FeedbackConflict)
                    else:
                        assert isinstance(outcome, Feedback)
                        latest = (await all_given(database))[-1]
                        if (outcome.message_id, outcome.id) == (latest.message_id, latest.id):
                            scores[place] = score
        await recorder.stop(SECONDS)
        found = await stored(database)
        assert found.keys() == {rows[place].id for place in begun}
        for place in begun:
            assert found[rows[place].id]["feedback_score"] == scores[place]
            assert found[rows[place].id]["status"] == rows[place].status
        given_ = {(one.message_id, one.id): one.score for one in await all_given(database)}
        assert given_ == {(rows[place].id, id_): score for (place, id_), score in expected.items()}
        await database.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("persistence.row_queue.BEGIN_LINGER_SECONDS", 3600.0 if lingers else 0.0)
        asyncio.run(live())
