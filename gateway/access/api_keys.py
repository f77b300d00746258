"""API keys: how one is made, and who comes with one.

A key is ``cgw_``, eight characters that may be shown, and forty-three that may not: 256 random bits. What
PostgreSQL says of a key holds for KEEP_SECONDS. Those that are in use are asked for again together before
that is over, so no request with such a key waits, and a revocation, an end or a limit counts everywhere soon.
One question is under way at a time, for all keys that somebody waits for: however many keys are tried,
PostgreSQL has no more to do at once. While it is away keys that are known go on until they expire.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
import secrets
import string
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from uuid import UUID

from gateway.access.login_throttle import SECOND, Bound, Clock, Counts, network
from gateway.access.login_throttle import key as throttle_key
from gateway.errors import RateLimitExceeded
from persistence import api_keys
from persistence.api_keys import ApiKey
from persistence.database import Database, DatabaseUnavailable

log = logging.getLogger("gateway.access")

PREFIX = "cgw_"
PREFIX_CHARACTERS = len(PREFIX) + 8
# Letters and digits only: 62 ** 43 > 2 ** 256, and a double click marks all of it.
SECRET_CHARACTERS = 43

KEEP_SECONDS = 2.0
REFRESH_SECONDS = 0.8
# A key that was not used for so long is asked for again only when it is.
IN_USE_SECONDS = 60.0
# A key that is not there: it can't be, later.
KEEP_UNKNOWN_SECONDS = 60.0
MOST_KEPT = 10_000
MOST_WAITING = 1_000

# Keys that are not known, from one address: so many at once, then one every second.
UNKNOWN_KEYS = Bound(100, 1)

_ALPHABET = string.ascii_letters + string.digits
_KEY = re.compile(rf"{PREFIX}[A-Za-z0-9]{{{PREFIX_CHARACTERS - len(PREFIX) + SECRET_CHARACTERS}}}")


def new_key() -> str:
    """A key that nobody has; it is shown to whoever has it made, and never again."""
    count = PREFIX_CHARACTERS - len(PREFIX) + SECRET_CHARACTERS
    return PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(count))


def prefix_of(key: str) -> str:
    """What may be shown of a key, to tell it from others."""
    return key[:PREFIX_CHARACTERS]


def is_key(text: str) -> bool:
    """Whether it could be one of ours."""
    return _KEY.fullmatch(text) is not None


@dataclass(slots=True)
class Known:
    """A key, when PostgreSQL told of it, and when somebody came with it, as ``clock`` has it."""

    key: ApiKey
    since: float
    used: float


class ApiKeys:
    """Of one gateway; ``close`` when it is needed no more. ``away``: whether PostgreSQL is known to be away,
    so that nobody waits for it."""

    def __init__(
        self,
        database: Database,
        timeout_seconds: float,
        away: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        throttle_clock: Clock = time.monotonic_ns,
    ) -> None:
        self._database = database
        self._timeout_seconds = timeout_seconds
        self._away = away
        self._clock = clock
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        # When it was that a key was not there.
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._waiting: dict[bytes, asyncio.Future[ApiKey | None]] = {}
        self._asked_for = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None
        self._failing = False
        # Of changes made here: what was asked before may be answered after.
        self._changes = 0
        self._throttle = Counts(UNKNOWN_KEYS, throttle_clock)

    async def find(self, key: str, address: str) -> ApiKey | None:
        """The key, which may have expired or been revoked; None where there is none. ``address``: who asks.
        Raises DatabaseUnavailable where that is not known now, RateLimitExceeded where too many keys that
        there are not came from there."""
        if not is_key(key):
            return None
        key_hash, now = api_keys.hash_of(key), self._clock()
        known = self._known.get(key_hash)
        if known is not None:
            known.used = now
            self._known.move_to_end(key_hash)
            if self._failing or self._away() or now < known.since + KEEP_SECONDS:
                return known.key
            try:
                return await self._asked(key_hash)
            except DatabaseUnavailable:
                if key_hash in self._known:
                    return known.key
                raise
        if now < self._unknown.get(key_hash, -KEEP_UNKNOWN_SECONDS) + KEEP_UNKNOWN_SECONDS:
            return None
        return await self._first_asked(key_hash, throttle_key(network(address)))

    def forget(self, is_meant: Callable[[ApiKey], bool]) -> None:
        """These have been changed: PostgreSQL is asked before they are used again."""
        self._changes += 1
        for key_hash in [key_hash for key_hash, known in self._known.items() if is_meant(known.key)]:
            del self._known[key_hash]

    def forget_user(self, user_id: UUID) -> None:
        """As ``forget``, for the keys of a user who has been changed."""
        self.forget(lambda key: key.user_id == user_id)

    def close(self) -> None:
        """Ask nothing more."""
        if self._asking is not None:
            self._asking.cancel()

    async def _first_asked(self, key_hash: bytes, whose: bytes) -> ApiKey | None:
        if wait := self._throttle.wait(whose):
            raise RateLimitExceeded(
                f"Too many unknown API keys: try again in {-(-wait // SECOND)} seconds.", wait / SECOND
            )
        self._throttle.add(whose)
        try:
            found = await self._asked(key_hash)
        except DatabaseUnavailable:
            self._throttle.take_back(whose)
            raise
        if found is not None:
            self._throttle.take_back(whose)
        return found

    async def _asked(self, key_hash: bytes) -> ApiKey | None:
        """As PostgreSQL tells it. Raises DatabaseUnavailable."""
        if self._away():
            raise DatabaseUnavailable("PostgreSQL is away")
        waiting = self._waiting.get(key_hash)
        if waiting is None:
            if len(self._waiting) >= MOST_WAITING:
                raise DatabaseUnavailable("too many API keys are asked for at once")
            waiting = self._waiting[key_hash] = asyncio.get_running_loop().create_future()
            self._asked_for.set()
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask())
        # Others may wait for the same.
        return await asyncio.shield(waiting)

    async def _ask(self) -> None:
        """Ask for all that somebody waits for, and from time to time for all that are in use, until none
        is."""
        while True:
            waiting, self._waiting = self._waiting, {}
            self._asked_for.clear()
            in_use = self._in_use()
            if not waiting and not in_use:
                # Whoever comes next asks again.
                self._failing = False
                return
            try:
                await self._ask_for(waiting, in_use)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REFRESH_SECONDS):
                        await self._asked_for.wait()
            except BaseException:
                waiting |= self._waiting
                self._waiting = {}
                _fail(waiting.values(), DatabaseUnavailable("the question was given up"))
                raise

    def _in_use(self) -> set[bytes]:
        since = self._clock() - IN_USE_SECONDS
        return {key_hash for key_hash, known in self._known.items() if known.used > since}

    async def _ask_for(self, waiting: dict[bytes, asyncio.Future[ApiKey | None]], in_use: set[bytes]) -> None:
        asked, changes = self._clock(), self._changes
        try:
            found = await api_keys.find(self._database, waiting.keys() | in_use, self._timeout_seconds)
        except DatabaseUnavailable as error:
            if not self._failing:
                log.warning("API keys can't be looked up: %s", error)
            self._failing = True
            _fail(waiting.values(), error)
            return
        self._failing = False
        for key_hash in waiting.keys() | in_use:
            key = found.get(key_hash)
            # The index has compared it already; that this one does not tell how much of it was right.
            if key is not None and not hmac.compare_digest(key.key_hash, key_hash):
                key = None
            if changes == self._changes:
                self._keep(key_hash, key, asked)
            if key_hash in waiting and not waiting[key_hash].done():
                waiting[key_hash].set_result(key)

    def _keep(self, key_hash: bytes, key: ApiKey | None, asked: float) -> None:
        known = self._known.get(key_hash)
        if key is None:
            self._known.pop(key_hash, None)
            self._unknown[key_hash] = asked
            if len(self._unknown) > MOST_KEPT:
                self._unknown.popitem(last=False)
        elif known is not None:
            known.key, known.since = key, asked
        else:
            self._known[key_hash] = Known(key, asked, asked)
            if len(self._known) > MOST_KEPT:
                self._known.popitem(last=False)


def _fail(waiting: Iterable[asyncio.Future[ApiKey | None]], error: DatabaseUnavailable) -> None:
    for one in waiting:
        if not one.done():
            one.set_exception(error)
            # Whoever waited may have gone.
            one.exception()
