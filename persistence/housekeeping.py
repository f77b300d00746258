"""Housekeeping: what the tables need from time to time, done by one task in each gateway.

::

    partitions  every hour   those of the time to come are there
    lost rows   every 15 s   what dead gateways left running is closed as lost
    retention   every hour   what is older than it may be is dropped
    sessions    every hour   those that have expired are deleted
    limits      every hour   what was used on days that have passed is deleted

Several gateways do the same at the same time: each of these can stand that. None of it is in the way of a
request, so a failure is logged when it begins, changes or ends, and tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

from persistence import limit_days, liveness, partitions, retention, sessions
from persistence.database import Database, first_line

log = logging.getLogger("gateway.housekeeping")

HOUR = 3600.0
LOST_SECONDS = 15.0
RETRY_SECONDS = 60.0
# A run that takes longer is cut off. Retention sums months of many rows.
RUN_SECONDS, RETENTION_RUN_SECONDS = 60.0, 600.0
CLOSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """``run`` gives what it did in a few words, or nothing. It is cut off after ``timeout_seconds``."""

    name: str
    every_seconds: float
    timeout_seconds: float
    run: Callable[[asyncpg.Connection], Awaitable[str]]


class Housekeeping:
    """Does all of it once at ``start``, then each in its time, until ``stop``.

    ``retain_content_days`` and ``retain_rows_days`` as in ``retention.drop_expired``; ``closed_as_lost`` is
    told how many rows of dead gateways were closed.
    """

    def __init__(
        self,
        database: Database,
        retain_content_days: int | None,
        retain_rows_days: int | None,
        closed_as_lost: Callable[[int], None] | None = None,
    ) -> None:
        self._database = database
        self._retain_content_days = retain_content_days
        self._retain_rows_days = retain_rows_days
        self._closed_as_lost = closed_as_lost
        self._jobs = [
            Job("making partitions", HOUR, RUN_SECONDS, self._make_partitions),
            Job("closing lost rows", LOST_SECONDS, RUN_SECONDS, self._close_lost),
            Job("retention", HOUR, RETENTION_RUN_SECONDS, self._drop_expired),
            Job("ending sessions", HOUR, RUN_SECONDS, self._end_sessions),
            Job("forgetting past limits", HOUR, RUN_SECONDS, self._forget_limits),
        ]
        self._problems: dict[str, str] = {}
        self._connection: asyncpg.Connection | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Needs a running event loop and a connected database."""
        self._task = asyncio.create_task(self._run(), name="housekeeping")

    async def stop(self) -> None:
        """End, without waiting for PostgreSQL. Safe to call twice."""
        task, self._task = self._task, None
        if task is None:
            return
        if self._connection is not None:
            self._connection.terminate()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = dict.fromkeys(self._jobs, loop.time())
        while True:
            for job in self._jobs:
                if due[job] <= loop.time():
                    pause = job.every_seconds
                    if not await self._do(job):
                        pause = min(pause, RETRY_SECONDS)
                    due[job] = loop.time() + pause
            await asyncio.sleep(max(min(due.values()) - loop.time(), 0.0))

    async def _do(self, job: Job) -> bool:
        """Whether it went well."""
        try:
            did = await self._run_connected(job)
        except Exception as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # What the connection says when it is cut off in the middle.
                raise asyncio.CancelledError from error
            problem = first_line(error)
            if self._problems.get(job.name) != problem:
                log.warning("%s failed and is tried again: %s", job.name, problem)
            self._problems[job.name] = problem
            return False
        if self._problems.pop(job.name, None) is not None:
            log.info("%s works again", job.name)
        if did:
            log.info("%s: %s", job.name, did)
        return True

    async def _run_connected(self, job: Job) -> str:
        """On a connection of its own: a run takes milliseconds, and is seldom."""
        connection = self._connection = await self._database.connection()
        loop = asyncio.get_running_loop()
        # Cut off from outside: on a server that hangs even a rollback never ends.
        cut = loop.call_later(job.timeout_seconds, connection.terminate)
        try:
            await connection.execute(f"SET statement_timeout = '{job.timeout_seconds}s'")
            did = await job.run(connection)
            await connection.close(timeout=CLOSE_SECONDS)
        except Exception as error:
            if loop.time() >= cut.when():
                raise TimeoutError(f"no end within {job.timeout_seconds:g} s") from error
            raise
        finally:
            connection.terminate()
            cut.cancel()
            self._connection = None
        return did

    async def _make_partitions(self, connection: asyncpg.Connection) -> str:
        return ", ".join(await partitions.make_ahead(connection))

    async def _close_lost(self, connection: asyncpg.Connection) -> str:
        closed = await liveness.close_lost(connection, counted=self._closed_as_lost)
        return f"{closed} rows of gateways that are gone" if closed else ""

    async def _drop_expired(self, connection: asyncpg.Connection) -> str:
        dropped = await retention.drop_expired(
            connection, datetime.now(UTC), self._retain_content_days, self._retain_rows_days
        )
        return f"dropped {', '.join(dropped)}" if dropped else ""

    async def _end_sessions(self, connection: asyncpg.Connection) -> str:
        deleted = await sessions.delete_expired(connection, datetime.now(UTC))
        return f"{deleted} have expired" if deleted else ""

    async def _forget_limits(self, connection: asyncpg.Connection) -> str:
        # The day before is still today where a gateway's clock is behind.
        await limit_days.forget(connection, datetime.now(UTC).date() - timedelta(days=1))
        return ""
