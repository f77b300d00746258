"""What was counted for the day, written to PostgreSQL a moment later, and read when a gateway starts."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from gateway.limits.accounts import Accounts
from gateway.limits.clock import Clock
from persistence import limit_days
from persistence.database import Database, DatabaseUnavailable

log = logging.getLogger("gateway.limits")

WRITE_SECONDS = 1.0
# While PostgreSQL is away.
RETRY_SECONDS = 5.0


class DayUse:
    """Between ``start`` and ``stop`` what is ``counted`` is in PostgreSQL about WRITE_SECONDS later. That is
    what requests have reserved, and less when they have ended: after a crash the day has lost nothing but the
    last second, and what was running then counts in full."""

    def __init__(self, database: Database, timeout_seconds: float, clock: Clock | None = None) -> None:
        self._database = database
        self._timeout_seconds = timeout_seconds
        self._clock = clock or Clock()
        self._pending: dict[tuple[str, int], int] = {}
        self._something = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def counted(self, account: str, day: int, tokens: int) -> None:
        """So many tokens more, or less."""
        key = account, day
        self._pending[key] = self._pending.get(key, 0) + tokens
        self._something.set()

    async def start(self, accounts: Accounts) -> None:
        """Let the accounts go on where the day's last gateway has ended. Raises DatabaseUnavailable."""
        day = self._clock.day
        tokens = await limit_days.read(self._database, day, self._timeout_seconds)
        for name, used in tokens.items():
            accounts.find(name, self._clock.monotonic(), day).day_tokens += used
        self._task = asyncio.create_task(self._run(), name="limits per day")

    async def stop(self) -> None:
        """Write what is left. Safe to call twice."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        try:
            await self._write()
        except DatabaseUnavailable as error:
            log.error("what was used today is not all written: %s", error)

    async def _run(self) -> None:
        away = False
        while True:
            await self._something.wait()
            await asyncio.sleep(RETRY_SECONDS if away else WRITE_SECONDS)
            try:
                await self._write()
            except DatabaseUnavailable as error:
                if not away:
                    log.warning("what is used today can't be written and is kept: %s", error)
                away = True
            else:
                away = False

    async def _write(self) -> None:
        """Raises DatabaseUnavailable; nothing is forgotten then, and what was written may count twice."""
        self._something.clear()
        pending, self._pending = self._pending, {}
        try:
            # One statement changes an account once.
            for day in sorted({day for _, day in pending}):
                told = {key: tokens for key, tokens in pending.items() if key[1] == day and tokens}
                if told:
                    await limit_days.add(self._database, told, self._timeout_seconds)
                for key in [key for key in pending if key[1] == day]:
                    del pending[key]
        finally:
            # Where it failed, or was cut off.
            for (account, day), tokens in pending.items():
                self.counted(account, day, tokens)
