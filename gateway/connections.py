"""How many connections there are, altogether and from one address, and which one has to make room."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal, Protocol

Full = Literal["all", "address"]


class Connection(Protocol):
    """What ``Connections`` needs of one."""

    address: str

    def make_room(self) -> None:
        """Close it: it waits for a request."""


@dataclass(slots=True)
class _Address:
    """The connections of one address; those that wait in the order in which they began to."""

    count: int = 0
    waiting: dict[Connection, None] = field(default_factory=dict)


class Connections:
    """At most ``most`` altogether, and ``most_per_address`` from one address (None: no bound).

    A connection waits until the head of its next request is whole. Where there is no room, the one that has
    waited longest is closed for a new one; where none waits, the new one is refused.
    """

    def __init__(self, most: int, most_per_address: int | None) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._count = 0
        self._waiting: dict[Connection, None] = {}
        self._addresses: dict[str, _Address] = defaultdict(_Address)

    def __len__(self) -> int:
        return self._count

    def enter(self, connection: Connection) -> Full | None:
        """Take it in, as one that waits; or say which bound refuses it."""
        own = self._addresses.get(connection.address) or _Address()
        if self._most_per_address is not None and own.count >= self._most_per_address:
            if not own.waiting:
                return "address"
            self._close_longest(own.waiting)
        if self._count >= self._most:
            if not self._waiting:
                return "all"
            self._close_longest(self._waiting)
        self._count += 1
        self._addresses[connection.address].count += 1
        self.waits(connection)
        return None

    def _close_longest(self, waiting: dict[Connection, None]) -> None:
        longest = next(iter(waiting))
        self.leave(longest)
        longest.make_room()

    def waits(self, connection: Connection) -> None:
        """It has no whole request now."""
        self._waiting[connection] = None
        self._addresses[connection.address].waiting[connection] = None

    def works(self, connection: Connection) -> None:
        """It has one."""
        self._waiting.pop(connection, None)
        self._addresses[connection.address].waiting.pop(connection, None)

    def leave(self, connection: Connection) -> None:
        """It is closed."""
        self.works(connection)
        self._count -= 1
        own = self._addresses[connection.address]
        own.count -= 1
        if own.count == 0:
            del self._addresses[connection.address]
