"""What limits cost a request: ``python -m benchmarks.limits``.

One reservation and its settlement, in microseconds, on one core: for a caller without limits, for one whose
key and user have all four, counted in memory, and the same shared by way of PostgreSQL (the embedded one),
for limits with much left, of which a gateway takes a share at once, and for limits that it has to ask about
each time.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from gateway.access.caller import Caller
from gateway.limits.accounts import Accounts
from gateway.limits.memory import MemoryLimiter
from gateway.limits.shared import SharedLimiter
from persistence.caller_limits import UNLIMITED, Limits
from persistence.database import Database
from persistence.limit_windows import LimitWindows

TOKENS, USED = 1000, 300
IN_MEMORY, SHARED = 100_000, 2_000


def callers() -> Iterator[tuple[str, Caller]]:
    """By what is limited."""
    user, key = UUID(int=1), UUID(int=2)
    yield "no limits", Caller(user, key)
    four = Limits(10**8, 10**11, 10**13, 10_000)
    yield "key and user, four limits each", Caller(user, key, key_limits=four, user_limits=four)
    yield "key, requests and tokens", Caller(user, key, key_limits=Limits(10**8, 10**11))


async def microseconds(limiter: MemoryLimiter, caller: Caller, count: int) -> tuple[float, float]:
    """The mean and the 99th percentile."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        (await limiter.reserve(caller, TOKENS)).settle(USED)
        took.append((time.perf_counter() - began) * 1e6)
    took.sort()
    return sum(took) / count, took[int(count * 0.99)]


def accounts() -> Accounts:
    return Accounts(UNLIMITED, UNLIMITED, UNLIMITED)


async def main(data_dir: Path) -> None:
    """Print a line for each."""
    for name, caller in callers():
        mean, tail = await microseconds(MemoryLimiter(accounts(), 1024), caller, IN_MEMORY)
        print(f"memory      {name:32} {mean:8.1f} µs  p99 {tail:8.1f} µs")
    database = Database(None, data_dir)
    await database.connect()
    await database.migrate()
    limiter = SharedLimiter(accounts(), 1024, LimitWindows(database, 1, 5.0), 2)
    await limiter.start()
    for name, caller in callers():
        mean, tail = await microseconds(limiter, caller, SHARED)
        print(f"postgresql  {name:32} {mean:8.1f} µs  p99 {tail:8.1f} µs")
    await limiter.stop()
    await database.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="limits-") as folder:
        asyncio.run(main(Path(folder)))
