from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from argon2 import PasswordHasher

from gateway.access.accounts import Accounts
from gateway.access.login_throttle import NAME_AT_ADDRESS, REGISTRATIONS
from gateway.errors import RateLimitExceeded
from persistence import users
from persistence.database import Database, DatabaseUnavailable
from persistence.users import User

SECONDS = 1.5
HERE = "192.0.2.1"

# Cheap, and not as they are to be.
OLD = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class Rows:
    """The users, and whether PostgreSQL is away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.users: dict[str, User] = {}
        self.away = False
        for name in ("register", "find", "rehash"):
            monkeypatch.setattr(users, name, getattr(self, name))

    async def register(
        self, database: Database, username: str, password_hash: str, timeout_seconds: float
    ) -> UUID | None:
        if username in self.users:
            return None
        self.users[username] = User(uuid4(), username, password_hash)
        return self.users[username].id

    async def find(self, database: Database, username: str, timeout_seconds: float) -> User | None:
        assert timeout_seconds == SECONDS
        if self.away:
            raise DatabaseUnavailable("PostgreSQL: gone")
        return self.users.get(username)

    async def rehash(
        self, database: Database, user: User, password_hash: str, timeout_seconds: float
    ) -> None:
        if self.away:
            raise DatabaseUnavailable("PostgreSQL: gone")
        self.users[user.username] = User(user.id, user.username, password_hash)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    return Rows(monkeypatch)


@pytest.fixture
def accounts(rows: Rows) -> Iterator[Accounts]:
    accounts = Accounts(Database(None, Path()), SECONDS)
    yield accounts
    accounts.close()


async def test_whoever_has_registered_can_log_in(accounts: Accounts, rows: Rows) -> None:
    id_ = await accounts.register("n", "password", HERE)
    assert id_ is not None
    assert "password" not in repr(rows.users)
    assert "password" not in rows.users["n"].password_hash
    assert await accounts.register("n", "other one", HERE) is None
    assert await accounts.log_in("n", "password", HERE) == id_
    assert await accounts.log_in("n", "other one", HERE) is None
    assert await accounts.log_in("nobody", "password", HERE) is None


async def test_a_hash_of_old_parameters_is_replaced_at_a_login(accounts: Accounts, rows: Rows) -> None:
    old = OLD.hash("password")
    rows.users["n"] = User(uuid4(), "n", old)
    assert await accounts.log_in("n", "wrong", HERE) is None
    assert rows.users["n"].password_hash == old
    assert await accounts.log_in("n", "password", HERE)
    new = rows.users["n"].password_hash
    assert new != old
    assert await accounts.log_in("n", "password", HERE)
    assert rows.users["n"].password_hash == new


async def test_a_login_does_not_need_that(
    accounts: Accounts, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.users["n"] = User(uuid4(), "n", OLD.hash("password"))

    async def gone(*given: object) -> None:
        raise DatabaseUnavailable("PostgreSQL: gone")

    monkeypatch.setattr(users, "rehash", gone)
    assert await accounts.log_in("n", "password", HERE)


async def test_guesses_are_bounded_and_what_could_not_be_checked_is_none(
    accounts: Accounts, rows: Rows
) -> None:
    rows.users["n"] = User(uuid4(), "n", OLD.hash("password"))
    rows.away = True
    for _ in range(3 * NAME_AT_ADDRESS.at_once):
        with pytest.raises(DatabaseUnavailable):
            await accounts.log_in("n", "wrong", HERE)
    rows.away = False
    for _ in range(NAME_AT_ADDRESS.at_once):
        assert await accounts.log_in("n", "wrong", HERE) is None
    for password in ("wrong", "password"):
        with pytest.raises(RateLimitExceeded):
            await accounts.log_in("n", password, HERE)
    assert await accounts.log_in("n", "password", "192.0.2.2")


async def test_registrations_are_bounded_before_anything_is_hashed(
    accounts: Accounts, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = 0

    async def hash_(password: str) -> str:
        nonlocal hashed
        hashed += 1
        return "hash"

    monkeypatch.setattr(accounts._passwords, "hash", hash_)
    for number in range(REGISTRATIONS.at_once):
        assert await accounts.register(str(number), "password", HERE)
    with pytest.raises(RateLimitExceeded):
        await accounts.register("one more", "password", HERE)
    assert hashed == REGISTRATIONS.at_once
