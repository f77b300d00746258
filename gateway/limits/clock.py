"""The two clocks that limits go by."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from gateway.limits.window import SECOND

DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Clock:
    """``monotonic``: nanoseconds since any moment, which never go back. ``utc``: seconds since 1970."""

    monotonic: Callable[[], int] = time.monotonic_ns
    utc: Callable[[], float] = time.time

    @property
    def day(self) -> int:
        """The day of UTC, counted from 1970."""
        return int(self.utc() // DAY_SECONDS)

    @property
    def day_left(self) -> int:
        """Nanoseconds until midnight of UTC."""
        return max(1, round((DAY_SECONDS - self.utc() % DAY_SECONDS) * SECOND))
