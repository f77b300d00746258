"""API keys of callers with limits, as an operator makes them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID, uuid4

from gateway.access.api_keys import new_key, prefix_of
from persistence import api_keys, users
from persistence.caller_limits import UNLIMITED, Limits
from persistence.database import Database
from tests.faults.postgres import Postgres

TIMEOUT_SECONDS = 30.0

T = TypeVar("T")


@dataclass(frozen=True)
class Key:
    """A key of a user who has no other."""

    id: UUID
    secret: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.secret}"}

    @property
    def account(self) -> str:
        """What its use is counted under."""
        return f"key:{self.id.hex}"


def make_key(server: Postgres, limits: Limits = UNLIMITED) -> Key:
    async def make(database: Database) -> Key:
        user = await users.register(database, f"u-{uuid4().hex}", users.NO_PASSWORD, TIMEOUT_SECONDS)
        assert user is not None
        secret = new_key()
        id_ = await api_keys.create(
            database, secret, prefix_of(secret), user, TIMEOUT_SECONDS, scopes=["inference"], limits=limits
        )
        assert id_ is not None
        return Key(id_, secret)

    return _done(server, make)


def revoke(server: Postgres, key: Key) -> None:
    async def end(database: Database) -> int:
        return await api_keys.revoke(database, TIMEOUT_SECONDS, ids=[key.id])

    assert _done(server, end) == 1


def _done(server: Postgres, work: Callable[[Database], Awaitable[T]]) -> T:
    async def run() -> T:
        database = Database(server.url, server.folder)
        await database.connect()
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())
