"""What a start is doing, for whoever waits for it."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from types import TracebackType
from typing import Self, TextIO

from gateway import logs
from gateway.logs.formats import without_secrets
from gateway.service_manager import ServiceManager

log = logging.getLogger("gateway.start")

TICK_SECONDS = 5.0


def say(text: str = "", level: int = logging.INFO) -> None:
    """One line to standard output, at once, for whoever sits there; nothing when nobody reads it any more.
    Where nobody sits there and the log is JSON it is a record of ``level``: what is collected is all JSON
    then."""
    if logs.are_json() and not is_terminal(sys.stdout):
        if text:
            log.log(level, text.strip())
        return
    try:
        print(without_secrets(text), file=sys.stdout, flush=True)
    except (BrokenPipeError, ValueError):
        return


def is_terminal(file: TextIO | None) -> bool:
    """Whether somebody may be sitting there."""
    return file is not None and not file.closed and file.isatty()


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
