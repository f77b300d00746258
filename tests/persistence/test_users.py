from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from persistence import users
from persistence.database import Database, DatabaseUnavailable
from persistence.users import User

SECONDS = 30.0


async def test_a_user_is_found_by_the_name_as_it_is_written(database: Database) -> None:
    id_ = await users.register(database, "小明 O'Brien", "hash", SECONDS)
    assert id_ is not None
    assert await users.find(database, "小明 O'Brien", SECONDS) == User(id_, "小明 O'Brien", "hash")
    for other in ("小明 o'brien", "小明", "", "' OR ''='"):
        assert await users.find(database, other, SECONDS) is None
    assert await users.user_exists(database, id_, SECONDS)
    assert not await users.user_exists(database, uuid4(), SECONDS)


async def test_of_many_that_want_a_name_one_has_it(database: Database) -> None:
    ids = await asyncio.gather(*(users.register(database, "n", str(n), SECONDS) for n in range(20)))
    (taken,) = [place for place, id_ in enumerate(ids) if id_ is not None]
    found = await users.find(database, "n", SECONDS)
    assert found is not None
    assert (found.id, found.password_hash) == (ids[taken], str(taken))


async def test_a_hash_is_replaced_only_by_who_knows_it(database: Database) -> None:
    await users.register(database, "n", "first", SECONDS)
    user = await users.find(database, "n", SECONDS)
    assert user is not None
    await users.rehash(database, user, "second", SECONDS)
    await users.rehash(database, user, "third", SECONDS)
    found = await users.find(database, "n", SECONDS)
    assert found is not None
    assert found.password_hash == "second"
    assert "second" not in repr(found)


async def test_nobody_is_waited_for_longer_than_is_said(database: Database) -> None:
    async with database.engine.begin() as blocking:
        await blocking.exec_driver_sql('LOCK TABLE "user" IN ACCESS EXCLUSIVE MODE')
        for ask in (
            users.register(database, "n", "hash", 0.1),
            users.find(database, "n", 0.1),
            users.user_exists(database, uuid4(), 0.1),
        ):
            with pytest.raises(DatabaseUnavailable):
                await ask
    assert await users.find(database, "n", SECONDS) is None
