"""What a start is doing, for whoever waits for it."""

from __future__ import annotations

import asyncio
import sys
import time
from types import TracebackType
from typing import Self

from gateway.service_manager import ServiceManager

TICK_SECONDS = 5.0


def say(text: str = "") -> None:
    """One line to standard output, at once; nothing when nobody reads it any more."""
    try:
        print(text, file=sys.stdout, flush=True)
    except (BrokenPipeError, ValueError):
        return


class Step:
    """A step of a start: says what it does, every few seconds how long so far, and how long it took."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._began = time.monotonic()
        self._ticker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        say(f"{self._doing} ...")
        ServiceManager().tell(STATUS=self._doing)
        self._ticker = asyncio.create_task(self._tick())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._ticker is not None
        self._ticker.cancel()
        say(f"    {'done in' if error is None else 'failed after'} {self._seconds:.1f} s")

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            say(f"    {self._seconds:.0f} s so far")
