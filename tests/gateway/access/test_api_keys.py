from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from gateway.access import api_keys as module
from gateway.access.api_keys import KEEP_SECONDS, UNKNOWN_KEYS, ApiKeys, is_key, new_key, prefix_of
from gateway.errors import RateLimitExceeded
from persistence import api_keys as stored
from persistence.api_keys import ApiKey
from persistence.database import Database, DatabaseUnavailable
from tests.gateway.access.test_sessions import Clock

SECONDS = 1.5
HERE = "192.0.2.1"


def made(key: str) -> ApiKey:
    return ApiKey(uuid4(), uuid4(), "n", "", prefix_of(key), stored.hash_of(key), ("inference",))


class Rows:
    """What PostgreSQL knows of keys, what it was asked, and whether it is away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: dict[bytes, ApiKey] = {}
        self.asked: list[set[bytes]] = []
        self.at_once = self.most_at_once = 0
        self.away = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        monkeypatch.setattr(stored, "find", self.find)

    def add(self, key: str) -> str:
        one = made(key)
        self.keys[one.key_hash] = one
        return key

    def revoke(self, key: str) -> None:
        key_hash = stored.hash_of(key)
        self.keys[key_hash] = replace(self.keys[key_hash], revoke_time=datetime.now(UTC))

    async def find(
        self, database: Database, hashes: Collection[bytes], timeout_seconds: float
    ) -> dict[bytes, ApiKey]:
        assert timeout_seconds == SECONDS
        self.asked.append(set(hashes))
        found = {key_hash: self.keys[key_hash] for key_hash in hashes if key_hash in self.keys}
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.may_answer.wait()
        self.at_once -= 1
        if self.away:
            raise DatabaseUnavailable("PostgreSQL: gone")
        return found


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    # They are refreshed when a test says so.
    monkeypatch.setattr(module, "REFRESH_SECONDS", 3600.0)
    return Rows(monkeypatch)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def keys(rows: Rows, clock: Clock) -> AsyncIterator[ApiKeys]:
    # The throttle's time stands still.
    keys = ApiKeys(Database(None, Path()), SECONDS, lambda: False, clock, lambda: 0)
    yield keys
    keys.close()


async def status(keys: ApiKeys, key: str) -> str | None:
    found = await keys.find(key, HERE)
    return None if found is None else found.status(datetime.now(UTC))


async def asked_again(rows: Rows) -> None:
    """Until there has been one more question."""
    count = len(rows.asked)
    while len(rows.asked) == count:
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)


def test_no_two_keys_are_the_same_and_all_look_like_keys() -> None:
    many = {new_key() for _ in range(1000)}
    assert len(many) == 1000
    for key in many:
        assert is_key(key)
        assert len(key) == 55
        assert key.isascii()
        assert key[4:].isalnum()
        assert prefix_of(key) == key[:12]
    key = new_key()
    for wrong in ("", key[:-1], key + "x", key.upper(), f" {key}", key + "\n", f"sk-{key}", key[:-1] + "é"):
        assert not is_key(wrong)


async def test_what_is_no_key_asks_nobody(keys: ApiKeys, rows: Rows) -> None:
    for text in ("", "EMPTY", "sk-" + "x" * 48, uuid4().hex, new_key() + "x"):
        assert await keys.find(text, HERE) is None
    assert rows.asked == []


async def test_a_key_is_asked_for_once_in_a_while(keys: ApiKeys, rows: Rows, clock: Clock) -> None:
    key = rows.add(new_key())
    for _ in range(100):
        assert await status(keys, key) == "active"
    assert len(rows.asked) == 1
    rows.revoke(key)
    clock.now += KEEP_SECONDS - 0.001
    assert await status(keys, key) == "active"
    clock.now += 0.002
    assert await status(keys, key) == "revoked"
    assert len(rows.asked) == 2


async def test_keys_in_use_are_asked_for_together_and_nobody_waits(
    keys: ApiKeys, rows: Rows, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REFRESH_SECONDS", 0.0)
    many = [rows.add(new_key()) for _ in range(20)]
    for key in many:
        assert await status(keys, key) == "active"
    rows.revoke(many[0])
    clock.now += 1.0
    await asked_again(rows)
    assert rows.asked[-1] == {stored.hash_of(key) for key in many}
    # Without the refresh this would be too late for all.
    clock.now += KEEP_SECONDS - 0.1
    rows.may_answer.clear()
    async with asyncio.timeout(30):
        assert [await status(keys, key) for key in many[:2]] == ["revoked", "active"]


async def test_whoever_uses_no_key_any_more_is_not_asked_for(
    keys: ApiKeys, rows: Rows, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REFRESH_SECONDS", 0.0)
    key = rows.add(new_key())
    assert await status(keys, key) == "active"
    clock.now += module.IN_USE_SECONDS + 1
    assert keys._asking is not None
    async with asyncio.timeout(30):
        await keys._asking
    count = len(rows.asked)
    rows.revoke(key)
    assert await status(keys, key) == "revoked"
    assert len(rows.asked) > count


async def test_a_change_made_here_counts_at_once_whatever_was_on_its_way(keys: ApiKeys, rows: Rows) -> None:
    key = rows.add(new_key())
    assert await status(keys, key) == "active"
    keys.forget(lambda one: True)
    rows.may_answer.clear()
    early = asyncio.create_task(status(keys, key))
    await asked_again(rows)
    rows.revoke(key)
    keys.forget(lambda one: True)
    late = asyncio.create_task(status(keys, key))
    rows.may_answer.set()
    assert (await early, await late) == ("active", "revoked")
    assert await status(keys, key) == "revoked"


async def test_a_flood_of_unknown_keys_is_one_question_at_a_time_and_bounded(
    keys: ApiKeys, rows: Rows, clock: Clock
) -> None:
    good = rows.add(new_key())
    assert await status(keys, good) == "active"
    rows.may_answer.clear()
    flood = [asyncio.create_task(keys.find(new_key(), HERE)) for _ in range(500)]
    for _ in range(5):
        await asyncio.sleep(0)
    rows.may_answer.set()
    results = await asyncio.gather(*flood, return_exceptions=True)
    assert results.count(None) == UNKNOWN_KEYS.at_once
    refused = [error for error in results if isinstance(error, RateLimitExceeded)]
    assert len(refused) == 500 - UNKNOWN_KEYS.at_once
    assert refused[0].headers["retry-after"] == "1"
    assert rows.most_at_once == 1
    assert len(rows.asked) <= 4
    # Who is known is not concerned, nor who comes from elsewhere.
    assert await status(keys, good) == "active"
    assert await keys.find(new_key(), "192.0.2.2") is None


async def test_a_key_that_is_not_there_is_remembered_for_a_while(
    keys: ApiKeys, rows: Rows, clock: Clock
) -> None:
    key = new_key()
    for _ in range(UNKNOWN_KEYS.at_once * 3):
        assert await keys.find(key, HERE) is None
    assert len(rows.asked) == 1
    rows.add(key)
    clock.now += module.KEEP_UNKNOWN_SECONDS + 1
    assert await status(keys, key) == "active"


async def test_no_more_is_kept_than_may_be(
    keys: ApiKeys, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 10)
    first = rows.add(new_key())
    for number in range(50):
        assert await status(keys, first) == "active"
        assert await status(keys, rows.add(new_key())) == "active"
        assert await keys.find(new_key(), f"192.0.2.{number}") is None
    assert (len(keys._known), len(keys._unknown)) == (10, 10)
    count = len(rows.asked)
    assert await status(keys, first) == "active"
    assert len(rows.asked) == count


async def test_while_postgresql_is_away_known_keys_go_on_until_they_expire(
    keys: ApiKeys, rows: Rows, clock: Clock
) -> None:
    key, unknown = rows.add(new_key()), rows.add(new_key())
    assert await status(keys, key) == "active"
    rows.away = True
    clock.now += 3600
    assert await status(keys, key) == "active"
    for _ in range(UNKNOWN_KEYS.at_once * 2):
        with pytest.raises(DatabaseUnavailable):
            await keys.find(unknown, HERE)
    # Nobody waits for what is known to fail.
    rows.may_answer.clear()
    async with asyncio.timeout(30):
        assert await status(keys, key) == "active"
    known = keys._known[stored.hash_of(key)]
    known.key = replace(known.key, expire_time=datetime.now(UTC))
    assert await status(keys, key) == "expired"
    rows.may_answer.set()
    rows.away = False
    rows.revoke(key)
    assert await status(keys, unknown) == "active"
    assert await status(keys, key) == "revoked"


async def test_where_postgresql_is_known_to_be_away_nobody_waits(rows: Rows, clock: Clock) -> None:
    keys = ApiKeys(Database(None, Path()), SECONDS, lambda: True, clock)
    with pytest.raises(DatabaseUnavailable):
        await keys.find(new_key(), HERE)
    assert rows.asked == []


async def test_whoever_leaves_takes_nobodys_answer_with_him(keys: ApiKeys, rows: Rows) -> None:
    key = rows.add(new_key())
    rows.may_answer.clear()
    one, two = (asyncio.create_task(status(keys, key)) for _ in range(2))
    await asked_again(rows)
    one.cancel()
    rows.may_answer.set()
    assert await two == "active"
    assert len(rows.asked) == 1
    assert one.cancelled()


async def test_at_its_end_nobody_waits_for_ever(keys: ApiKeys, rows: Rows) -> None:
    rows.may_answer.clear()
    asking = asyncio.create_task(keys.find(new_key(), HERE))
    await asked_again(rows)
    later = asyncio.create_task(keys.find(new_key(), HERE))
    await asyncio.sleep(0)
    keys.close()
    for one in (asking, later):
        with pytest.raises(DatabaseUnavailable):
            await one


async def test_a_row_with_another_hash_is_nobodys_key(
    keys: ApiKeys, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key()
    rows.keys[stored.hash_of(key)] = made(new_key())
    assert await keys.find(key, HERE) is None
