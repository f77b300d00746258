"""A whole gateway in this process, which asks who comes, and callers of every kind."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
from fastapi import FastAPI

from gateway.access.api_keys import new_key, prefix_of
from gateway.access.sessions import COOKIE
from gateway.app import create_app
from gateway.lifecycle import Lifecycle
from gateway.settings import load
from persistence import api_keys, users

SECONDS = 30.0
PASSWORD = "Zauberwort 1"


@dataclass
class House:
    """``keys`` are all that were made, ``answers`` all that was answered."""

    lifecycle: Lifecycle
    app: FastAPI
    keys: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    async def new_user(self, *, is_admin: bool = False) -> UUID:
        id_ = await users.register(
            self.lifecycle.database, uuid4().hex, users.NO_PASSWORD, SECONDS, is_admin=is_admin
        )
        assert id_ is not None
        return id_

    async def new_key(self, user: UUID, *scopes: str, expired: bool = False, revoked: bool = False) -> str:
        key, database = new_key(), self.lifecycle.database
        self.keys.append(key)
        end = datetime.now(UTC) - timedelta(seconds=1) if expired else None
        id_ = await api_keys.create(
            database, key, prefix_of(key), user, SECONDS, scopes=scopes, expire_time=end
        )
        assert id_ is not None
        if revoked:
            assert await api_keys.revoke(database, SECONDS, ids=[id_]) == 1
        return key

    async def new_session(self, user: UUID) -> dict[str, str]:
        return {"cookie": f"{COOKIE}={await self.lifecycle.sessions.start(user)}"}

    async def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: Any = None
    ) -> httpx.Response:
        """From another machine."""
        transport = httpx.ASGITransport(self.app, client=("203.0.113.9", 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            answer = await client.request(method, path, headers=headers, json=body)
        self.answers.append(f"{answer.headers} {answer.text}")
        return answer


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@asynccontextmanager
async def open_house(**settings: Any) -> AsyncIterator[House]:
    """A started one, with the simulated engine and a database of its own."""
    with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
        chosen = {"engine": "simulated", "data_dir": Path(folder), "authentication": True}
        lifecycle = Lifecycle(load(chosen | settings))
        try:
            await lifecycle.start()
            yield House(lifecycle, create_app(lifecycle.settings, lifecycle))
        finally:
            await lifecycle.stop()
