from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from persistence import sessions
from persistence.database import Database
from tests.persistence.users import new_user

SECONDS = 30.0
MONTH = timedelta(days=30)


async def stored(database: Database) -> list[dict[str, object]]:
    async with database.engine.connect() as connection:
        found = await connection.exec_driver_sql("SELECT * FROM session ORDER BY create_time")
        return [dict(row) for row in found.mappings()]


async def expire_in(database: Database, token: str, left: timedelta) -> None:
    async with database.engine.begin() as connection:
        await connection.exec_driver_sql(
            "UPDATE session SET expire_time = $1 WHERE token_hash = $2",
            (datetime.now(UTC) + left, sha256(token.encode()).digest()),
        )


async def test_a_session_is_found_by_its_token_which_is_stored_nowhere(database: Database) -> None:
    user = await new_user(database)
    made = await sessions.create(database, "Zaubertuer", user, MONTH, SECONDS)
    assert await sessions.find(database, "Zaubertuer", MONTH, SECONDS) == made
    assert made.user_id == user
    assert await sessions.find(database, "other", MONTH, SECONDS) is None
    (row,) = await stored(database)
    assert row["token_hash"] == sha256(b"Zaubertuer").digest()
    assert "Zaubertuer" not in repr(row)


async def test_it_ends_when_it_has_expired_or_was_ended(database: Database) -> None:
    user = await new_user(database)
    for token in ("a", "b", "c"):
        await sessions.create(database, token, user, MONTH, SECONDS)
    await sessions.delete(database, "a", SECONDS)
    await expire_in(database, "b", timedelta(seconds=-1))
    found = [await sessions.find(database, token, MONTH, SECONDS) is not None for token in ("a", "b", "c")]
    assert found == [False, False, True]
    # That has not brought it back.
    assert await sessions.find(database, "b", MONTH, SECONDS) is None
    connection = await database.connection()
    assert await sessions.delete_expired(connection, datetime.now(UTC)) == 1
    assert await sessions.delete_expired(connection, datetime.now(UTC)) == 0
    await connection.close()
    assert len(await stored(database)) == 1


@pytest.mark.parametrize(
    ("duration", "unused", "slides"),
    [
        (MONTH, timedelta(hours=23), False),
        (MONTH, timedelta(hours=25), True),
        (MONTH, timedelta(days=29, hours=23), True),
        (timedelta(hours=1), timedelta(minutes=1), False),
        (timedelta(hours=1), timedelta(minutes=3), True),
    ],
)
async def test_a_session_that_is_used_does_not_end_and_is_seldom_written(
    database: Database, duration: timedelta, unused: timedelta, slides: bool
) -> None:
    await sessions.create(database, "t", await new_user(database), duration, SECONDS)
    await expire_in(database, "t", duration - unused)
    used = await sessions.find(database, "t", duration, SECONDS)
    assert used is not None
    assert used.slid is slides
    left = used.expire_time - datetime.now(UTC)
    expected = duration if slides else duration - unused
    assert expected - timedelta(seconds=20) < left <= expected
    again = await sessions.find(database, "t", duration, SECONDS)
    assert again is not None
    assert (again.expire_time, again.slid) == (used.expire_time, False)


async def test_of_one_user_the_latest_sessions_stay(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MOST_PER_USER", 3)
    user, other = await new_user(database), await new_user(database)
    await sessions.create(database, "other", other, MONTH, SECONDS)
    for number in range(5):
        await sessions.create(database, str(number), user, MONTH, SECONDS)
    left = [n for n in range(5) if await sessions.find(database, str(n), MONTH, SECONDS)]
    assert left == [2, 3, 4]
    assert await sessions.find(database, "other", MONTH, SECONDS)
    await asyncio.gather(*(sessions.create(database, f"t{n}", user, MONTH, SECONDS) for n in range(20)))
    await sessions.create(database, "last", user, MONTH, SECONDS)
    assert len(await stored(database)) == 3 + 1


async def test_many_that_have_expired_are_deleted_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MOST_EXPIRED", 4)
    user = await new_user(database)
    for number in range(10):
        await sessions.create(database, str(number), user, timedelta(0), SECONDS)
    await sessions.create(database, "t", user, MONTH, SECONDS)
    connection = await database.connection()
    assert await sessions.delete_expired(connection, datetime.now(UTC)) == 10
    await connection.close()
    assert len(await stored(database)) == 1
