"""How often somebody may try to log in, or to register: in memory, for this process.

Each attempt counts when it begins, for the name at the address it comes from, for the name, and for the
address; each count goes down with time. An attempt beyond a bound is refused, and does not count::

    name at an address    5 at once, then one every 30 s    who guesses one password
    name                  100 at once, then one every 2 s   who guesses it from many addresses
    address               100 at once, then one every 2 s   who tries many names

Whoever gets in takes his attempt back, and the counts of his name with it. He is known at his address from
then on: only the first bound holds for him there, so nobody else can keep him out by guessing.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address

from gateway.errors import RateLimitExceeded

SECOND = 1_000_000_000
MOST_KEYS = 50_000

Clock = Callable[[], int]
"""Nanoseconds since any moment; never goes back."""


@dataclass(frozen=True, slots=True)
class Bound:
    """So many ``at_once``, and one more whenever ``every`` seconds have passed."""

    at_once: int
    every: int


NAME_AT_ADDRESS = Bound(5, 30)
NAME = Bound(100, 2)
ADDRESS = Bound(100, 2)
REGISTRATIONS = Bound(30, 10)


class Counts:
    """What has been counted for each of at most MOST_KEYS keys; who has not come for the longest time is
    forgotten first.

    Kept is the moment when nothing is left of a count (GCRA's theoretical arrival time).
    """

    def __init__(self, bound: Bound, clock: Clock) -> None:
        self._every, self._at_once, self._clock = bound.every * SECOND, bound.at_once, clock
        self._empty_at: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._empty_at)

    def wait(self, key: bytes) -> int:
        """Nanoseconds until one more fits; 0: now."""
        now = self._clock()
        return max(0, self._empty_at.get(key, now) - now - (self._at_once - 1) * self._every)

    def add(self, key: bytes) -> None:
        """Count one more."""
        now = self._clock()
        self._empty_at[key] = max(self._empty_at.pop(key, now), now) + self._every
        if len(self._empty_at) > MOST_KEYS:
            self._empty_at.popitem(last=False)

    def take_back(self, key: bytes) -> None:
        """Count one less."""
        if key in self._empty_at:
            self._empty_at[key] -= self._every

    def clear(self, key: bytes) -> None:
        """Count none."""
        self._empty_at.pop(key, None)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One that has begun."""

    name: bytes
    address: bytes
    name_at_address: bytes
    counted: Sequence[tuple[Counts, bytes]]


class LoginThrottle:
    """Nothing here waits, so however many attempts come at once, no more begin than may."""

    def __init__(self, clock: Clock = time.monotonic_ns) -> None:
        self._names_at_addresses = Counts(NAME_AT_ADDRESS, clock)
        self._names = Counts(NAME, clock)
        self._addresses = Counts(ADDRESS, clock)
        self._registrations = Counts(REGISTRATIONS, clock)
        # Who got in at which address.
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def begin(self, name: str, address: str) -> Attempt:
        """Count an attempt to log in. Raises RateLimitExceeded where it may not begin, and counts nothing."""
        both = key(name, network(address))
        counts = [(self._names_at_addresses, both)]
        if both not in self._known:
            counts += [(self._names, key(name)), (self._addresses, key(network(address)))]
        _count(counts, "attempts to log in")
        return Attempt(key(name), key(network(address)), both, counts)

    def succeeded(self, attempt: Attempt) -> None:
        """It has led to a session."""
        self.take_back(attempt)
        self._names_at_addresses.clear(attempt.name_at_address)
        self._names.clear(attempt.name)
        self._known[attempt.name_at_address] = None
        self._known.move_to_end(attempt.name_at_address)
        if len(self._known) > MOST_KEYS:
            self._known.popitem(last=False)

    def take_back(self, attempt: Attempt) -> None:
        """It has told nothing about the password."""
        for counts, key_ in attempt.counted:
            counts.take_back(key_)

    def begin_registration(self, address: str) -> None:
        """Count a registration. Raises RateLimitExceeded where there are too many from that address."""
        _count([(self._registrations, key(network(address)))], "registrations")


def _count(counts: Sequence[tuple[Counts, bytes]], what: str) -> None:
    wait = max(one.wait(key_) for one, key_ in counts)
    if wait:
        seconds = wait / SECOND
        raise RateLimitExceeded(f"Too many {what}: try again in {-(-wait // SECOND)} seconds.", seconds)
    for one, key_ in counts:
        one.add(key_)


def key(*parts: str) -> bytes:
    """Of the same size for all, so that long names take no more memory."""
    hashed = blake2b(digest_size=16)
    for part in parts:
        encoded = part.encode(errors="surrogatepass")
        hashed.update(b"%d:%b" % (len(encoded), encoded))
    return hashed.digest()


def network(address: str) -> str:
    """Whom an address belongs to: of IPv6 each has the lower half for himself."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(IPv6Address(int(parsed) >> 64 << 64))
    return str(parsed)
