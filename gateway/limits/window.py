"""What was let in during the last minute, to the nanosecond.

A log of all that was let in, each with its moment, and not a bucket that fills up again: that would let in
its whole content and a minute's worth besides. What comes within COARSE of each other is kept as one, which
counts as if all of it had come with the last: a log has at most 241 entries, no entry counts for less than
a minute, and at most COARSE longer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
COARSE = SECOND // 4


@dataclass(slots=True)
class Entry:
    """What came between two moments, in nanoseconds. ``counts`` until it is a minute old."""

    first: int
    last: int
    requests: int = 0
    tokens: int = 0
    counts: bool = True


class Window:
    """Requests and tokens of the last minute. Moments never go back from one call to the next."""

    __slots__ = ("_entries", "requests", "tokens")

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self.requests = 0
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._entries)

    def forget(self, now: int) -> None:
        """Count no more what is a minute old. To be called before anything is read."""
        entries = self._entries
        while entries and entries[0].last <= now - MINUTE:
            entry = entries.popleft()
            entry.counts = False
            self.requests -= entry.requests
            self.tokens -= entry.tokens

    def add(self, requests: int, tokens: int, now: int) -> Entry:
        """Count; the entry is where it may be given back."""
        if not self._entries or now - self._entries[-1].first >= COARSE:
            self._entries.append(Entry(now, now))
        entry = self._entries[-1]
        entry.last = now
        self.change(entry, requests, tokens)
        return entry

    def change(self, entry: Entry, requests: int, tokens: int) -> None:
        """Count so much more in an entry, or less; nothing changes where it counts no more."""
        entry.requests += requests
        entry.tokens += tokens
        if entry.counts:
            self.requests += requests
            self.tokens += tokens

    def leaving(self) -> Iterator[tuple[int, int, int]]:
        """When which requests and tokens will be a minute old, the first first."""
        return ((entry.last + MINUTE, entry.requests, entry.tokens) for entry in self._entries)

    @property
    def empty_at(self) -> int:
        """When all that counts now will be a minute old; 0 where nothing counts."""
        return self._entries[-1].last + MINUTE if self._entries else 0
