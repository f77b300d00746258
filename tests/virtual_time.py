"""Event loops whose time passes as fast as it can."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualTime(selectors.DefaultSelector):
    """Whoever would sleep until a timer is due finds it due."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        ready = super().select(0)
        if not ready and timeout > 0:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its ``time`` stands still while anything is to be done, and then jumps to the next timer. What runs in
    it must not wait for other threads or processes."""

    def __init__(self) -> None:
        self._virtual = VirtualTime()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def run_virtually(test: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of ``test``, in an event loop of virtual time that begins at 0 seconds."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(test())
