from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from persistence import api_keys, sessions, users
from persistence.api_keys import hash_of
from persistence.caller_limits import Limits
from persistence.database import Database
from tests.persistence.users import new_user

SECONDS = 30.0
LIMITS = Limits(requests_per_minute=5, tokens_per_day=2**53 - 1)


async def test_a_key_is_found_by_its_hash_and_is_stored_nowhere(database: Database) -> None:
    user = await new_user(database)
    end = datetime.now(UTC) + timedelta(days=1)
    id_ = await api_keys.create(
        database,
        "cgw_secret",
        "cgw_s",
        user,
        SECONDS,
        name="名",
        scopes={"read", "inference"},
        limits=LIMITS,
        weight=2.5,
        expire_time=end,
    )
    assert id_ is not None
    assert await api_keys.find(database, [hash_of("other")], SECONDS) == {}
    found = await api_keys.find(database, [hash_of("other"), hash_of("cgw_secret")], SECONDS)
    key = found[hash_of("cgw_secret")]
    assert (key.id, key.user_id, key.name, key.prefix) == (id_, user, "名", "cgw_s")
    assert (key.scopes, key.limits, key.weight) == (("inference", "read"), LIMITS, 2.5)
    assert (key.expire_time, key.revoke_time, key.status(datetime.now(UTC))) == (end, None, "active")
    assert (key.status(end), key.user_is_admin, key.user_limits) == ("expired", False, Limits())
    async with database.engine.connect() as connection:
        rows = await connection.exec_driver_sql("SELECT row_to_json(api_key)::text FROM api_key")
        assert "secret" not in repr(rows.all())
    assert "secret" not in repr(key)


async def test_nobody_has_a_key_who_is_not_there(database: Database) -> None:
    assert await api_keys.create(database, "k", "k", uuid4(), SECONDS, scopes={"read"}) is None
    assert not await api_keys.any_usable(database, SECONDS)


async def test_what_is_changed_of_a_key_and_its_user_is_seen_with_it(database: Database) -> None:
    user = await new_user(database)
    id_ = await api_keys.create(database, "k", "k", user, SECONDS, scopes={"read"}, limits=LIMITS)
    assert id_ is not None
    changed = await api_keys.change(
        database, id_, lambda key: replace(key, limits=Limits(), scopes=["admin"], weight=3.0), SECONDS
    )
    assert changed is not None
    await users.change(database, user, lambda one: replace(one, is_admin=True, limits=LIMITS), SECONDS)
    (key,) = await api_keys.named(database, id_, None, SECONDS)
    assert (key.limits, key.scopes, key.weight) == (Limits(), ("admin",), 3.0)
    assert (key.user_is_admin, key.user_limits) == (True, LIMITS)
    assert await api_keys.named(database, None, "k", SECONDS) == [key]
    assert await api_keys.change(database, uuid4(), lambda key: key, SECONDS) is None
    assert await users.change(database, uuid4(), lambda one: one, SECONDS) is None


async def test_keys_are_revoked_one_by_one_for_a_user_and_all(database: Database) -> None:
    one, two = await new_user(database), await new_user(database)
    ids = []
    for number, user in enumerate((one, one, one, two, two)):
        id_ = await api_keys.create(database, f"k{number}", "k", user, SECONDS, scopes={"read"})
        assert id_ is not None
        ids.append(id_)
    assert await api_keys.revoke(database, SECONDS, ids=[]) == 0
    assert await api_keys.revoke(database, SECONDS, ids=ids[:1]) == 1
    assert await api_keys.revoke(database, SECONDS, ids=ids[:1]) == 0
    assert await api_keys.revoke(database, SECONDS, user_id=one) == 2
    assert await api_keys.any_usable(database, SECONDS)
    assert await api_keys.revoke(database, SECONDS) == 2
    assert not await api_keys.any_usable(database, SECONDS)
    listed, _ = await api_keys.listed(database, None, None, 10, SECONDS)
    assert {key.status(datetime.now(UTC)) for key in listed} == {"revoked"}


async def test_a_list_goes_on_where_the_last_one_has_ended(database: Database) -> None:
    user = await new_user(database)
    ids = [
        await api_keys.create(database, f"k{number}", "k", user, SECONDS, scopes={"read"})
        for number in range(5)
    ]
    first, more = await api_keys.listed(database, user, None, 3, SECONDS)
    rest, no_more = await api_keys.listed(database, user, first[-1].id, 3, SECONDS)
    assert [key.id for key in (*first, *rest)] == ids[::-1]
    assert (more, no_more) == (True, False)
    assert await api_keys.listed(database, uuid4(), None, 3, SECONDS) == ([], False)


@pytest.mark.parametrize("shut_out", [True, False])
async def test_with_another_password_and_shut_out_nobody_is_logged_in(
    database: Database, shut_out: bool
) -> None:
    user = await new_user(database)
    await sessions.create(database, "t", user, timedelta(days=1), SECONDS)
    await api_keys.create(database, "k", "k", user, SECONDS, scopes={"read"})
    await users.change(database, user, lambda one: replace(one, is_admin=True, limits=LIMITS), SECONDS)
    session = await sessions.find(database, "t", timedelta(days=1), SECONDS)
    assert session is not None
    assert (session.is_admin, session.limits) == (True, LIMITS)
    if shut_out:
        gone = await users.shut_out(database, user, SECONDS)
        assert gone is not None
        assert (gone.password_hash, gone.is_admin) == (users.NO_PASSWORD, False)
    else:
        await users.change(database, user, lambda one: replace(one, password_hash="other"), SECONDS)
    assert await sessions.find(database, "t", timedelta(days=1), SECONDS) is None
    assert await api_keys.any_usable(database, SECONDS) is not shut_out


async def test_users_are_listed_newest_first(database: Database) -> None:
    ids = [await new_user(database) for _ in range(3)]
    first, more = await users.listed(database, None, 2, SECONDS)
    rest, no_more = await users.listed(database, first[-1].id, 2, SECONDS)
    assert [user.id for user in (*first, *rest)] == ids[::-1]
    assert (more, no_more) == (True, False)
