"""Passwords: hashed with argon2id, in threads of their own, few at once.

The parameters are the second recommendation of RFC 9106 (section 4): 64 MiB, 3 passes, 4 lanes. A hash takes
about 0.1 s of a core or more, and its memory for as long; so HASHES_AT_ONCE bounds both, and MOST_WAITING
how long anyone may wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from unicodedata import normalize

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY

from gateway.errors import Unavailable

T = TypeVar("T")

HASHES_AT_ONCE = 2
MOST_WAITING = 50

# Of nobody's password, with these parameters: whoever is not known is refused after the same work.
NOBODYS = "$argon2id$v=19$m=65536,t=3,p=4$XhLTJ93NexzPo/euncPomw$mCAiV0D1qY3jVGTZ38cqnzveTQLTNQxkKgwU8Lc4jpk"


class Passwords:
    """Hashes and checks passwords; ``close`` when it is needed no more."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)
        self._threads = ThreadPoolExecutor(HASHES_AT_ONCE, thread_name_prefix="passwords")
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """What is stored of ``password``. Raises Unavailable where too many wait."""
        return await self._in_a_thread(lambda: self._hasher.hash(_bytes(password)))

    async def check(self, password: str, password_hash: str | None) -> bool:
        """Whether ``password`` is what was hashed; with None or an empty hash, whoever was named is not known
        or has no password, it takes as long and is wrong. Raises Unavailable where too many wait."""

        def right() -> bool:
            try:
                return self._hasher.verify(password_hash or NOBODYS, _bytes(password))
            except (VerificationError, InvalidHashError):
                return False

        return await self._in_a_thread(right) and bool(password_hash)

    def is_outdated(self, password_hash: str) -> bool:
        """Whether it was made with other parameters than these."""
        return self._hasher.check_needs_rehash(password_hash)

    def close(self) -> None:
        """Begin nothing more; does not wait."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_a_thread(self, work: Callable[[], T]) -> T:
        """Whoever is cancelled does not free the thread before its work is done."""
        if self._waiting >= HASHES_AT_ONCE + MOST_WAITING:
            raise Unavailable("Too many log in at this moment; try again soon.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1


def _bytes(password: str) -> bytes:
    """As it is hashed: one sequence of bytes, however a keyboard composes its characters (as RFC 8265 has
    it)."""
    return normalize("NFC", password).encode()
