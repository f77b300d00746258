"""Accounts: registering, logging in, logging out."""

from __future__ import annotations

import contextlib
from uuid import UUID

from gateway.access.login_throttle import LoginThrottle
from gateway.access.passwords import Passwords
from gateway.errors import Unavailable
from persistence import users
from persistence.database import Database, DatabaseUnavailable


class Accounts:
    """Of one gateway; ``close`` when it is needed no more."""

    def __init__(self, database: Database, timeout_seconds: float) -> None:
        self._database = database
        self._timeout_seconds = timeout_seconds
        self._passwords = Passwords()
        self._throttle = LoginThrottle()

    async def register(self, username: str, password: str, address: str) -> UUID | None:
        """The id of a new user; None where the name is taken. Raises RateLimitExceeded, Unavailable and
        DatabaseUnavailable."""
        self._throttle.begin_registration(address)
        password_hash = await self._passwords.hash(password)
        return await users.register(self._database, username, password_hash, self._timeout_seconds)

    async def log_in(self, username: str, password: str, address: str) -> UUID | None:
        """The id of the user whose name and password these are; None, after the same work, for a wrong
        password and for a name that is not known. Raises RateLimitExceeded, Unavailable and
        DatabaseUnavailable."""
        attempt = self._throttle.begin(username, address)
        try:
            user = await users.find(self._database, username, self._timeout_seconds)
            right = await self._passwords.check(password, None if user is None else user.password_hash)
        except (DatabaseUnavailable, Unavailable):
            self._throttle.take_back(attempt)
            raise
        if user is None or not right:
            return None
        self._throttle.succeeded(attempt)
        if self._passwords.is_outdated(user.password_hash):
            # Where that fails now, the next login does it.
            with contextlib.suppress(DatabaseUnavailable, Unavailable):
                better = await self._passwords.hash(password)
                await users.rehash(self._database, user, better, self._timeout_seconds)
        return user.id

    async def hash(self, password: str) -> str:
        """What is stored of ``password``. Raises Unavailable."""
        return await self._passwords.hash(password)

    def close(self) -> None:
        """End the threads that hash."""
        self._passwords.close()
