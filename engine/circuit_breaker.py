"""Whether a server that fails is asked at all.

::

    closed      every request is let through
     | FAILURES in a row, or half of the last WINDOW
    open        none is, for a pause that doubles each time, up to MOST_PAUSE_SECONDS
     | the pause is over
    half-open   one is, and decides: closed where it is answered, else open again
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "half-open", "open"]

FAILURES = 5
WINDOW = 20
FAILING_SHARE = 0.5
FIRST_PAUSE_SECONDS = 1.0
MOST_PAUSE_SECONDS = 60.0


class CircuitBreaker:
    """Counts how requests to one server end; ``failures`` are all so far, ``openings`` how often it opened.

    Each request that ``begin`` lets through ends with one of ``succeeded``, ``failed`` and ``released``,
    which take what ``begin`` gave. ``clock`` gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._outcomes: deque[bool] = deque(maxlen=WINDOW)
        self._in_a_row = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._open_until: float | None = None
        self._probe: int | None = None
        self._begun = 0
        # What began earlier tells of a time that is over.
        self._first_that_counts = 0
        self.failures = 0
        self.openings = 0

    @property
    def state(self) -> State:
        """Whether requests are let through now."""
        if self._open_until is None:
            return "closed"
        return "open" if self._clock() < self._open_until else "half-open"

    @property
    def lets_through(self) -> bool:
        """Whether ``begin`` would let a request through."""
        state = self.state
        return state == "closed" or (state == "half-open" and self._probe is None)

    @property
    def pause_seconds(self) -> float:
        """How long until it may be tried again; 0 where it may be now."""
        return max(0.0, self._open_until - self._clock()) if self._open_until is not None else 0.0

    def begin(self) -> int | None:
        """Let a request through: its number; None where it has to stay away."""
        if not self.lets_through:
            return None
        self._begun += 1
        if self._open_until is not None:
            self._probe = self._begun
        return self._begun

    def answers(self, number: int) -> None:
        """The server has begun to answer: enough for others to try it again."""
        if number == self._probe:
            self._close(number)

    def succeeded(self, number: int) -> None:
        """The request got its whole answer."""
        self.answers(number)
        if number >= self._first_that_counts:
            self._pause = FIRST_PAUSE_SECONDS
            self._in_a_row = 0
            self._outcomes.append(True)

    def failed(self, number: int) -> None:
        """The server is at fault."""
        self.failures += 1
        if number == self._probe:
            self._open()
        elif number >= self._first_that_counts and self._open_until is None:
            self._in_a_row += 1
            self._outcomes.append(False)
            failing = self._outcomes.count(False) >= WINDOW * FAILING_SHARE
            if self._in_a_row >= FAILURES or (failing and len(self._outcomes) == WINDOW):
                self._open()

    def released(self, number: int) -> None:
        """The request ended without telling anything of the server; another one may be the one that tries."""
        if number == self._probe:
            self._probe = None

    def _open(self) -> None:
        self.openings += 1
        self._open_until = self._clock() + self._pause
        self._pause = min(2 * self._pause, MOST_PAUSE_SECONDS)
        self._probe = None
        self._first_that_counts = self._begun + 1

    def _close(self, number: int) -> None:
        self._open_until = self._probe = None
        self._in_a_row = 0
        self._outcomes.clear()
        self._first_that_counts = number
