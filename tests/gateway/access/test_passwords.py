from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Literal

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.profiles import RFC_9106_LOW_MEMORY

from gateway.access import passwords as module
from gateway.access.passwords import HASHES_AT_ONCE, NOBODYS, Passwords
from gateway.errors import Unavailable


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    passwords = Passwords()
    yield passwords
    passwords.close()


class Slow(PasswordHasher):
    """Hashes when it may, and knows how many did at once."""

    def __init__(self) -> None:
        super().__init__()
        self.may = threading.Event()
        self.at_once = self.most_at_once = self.begun = 0
        self._lock = threading.Lock()

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        with self._lock:
            self.begun += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.may.wait(20)
        with self._lock:
            self.at_once -= 1
        return "hash"


@pytest.fixture
def slow(passwords: Passwords) -> Iterator[Slow]:
    slow = passwords._hasher = Slow()
    yield slow
    slow.may.set()


async def test_a_password_is_right_and_all_others_are_wrong(passwords: Passwords) -> None:
    hashed = await passwords.hash("pass wörd\0 1")
    assert hashed.startswith("$argon2id$")
    assert "rd" not in hashed.split("$")[-1]
    assert await passwords.check("pass wörd\0 1", hashed)
    for other in ("pass wörd\0 2", "pass wörd", "", "PASS WÖRD\0 1"):
        assert not await passwords.check(other, hashed)
    # However a keyboard composes it.
    assert await passwords.check("pass wo\u0308rd\0 1", hashed)
    assert await passwords.hash("pass wörd\0 1") != hashed
    assert not passwords.is_outdated(hashed)
    assert not await passwords.check("x", "no hash at all")


async def test_whoever_is_not_known_is_refused_after_the_same_work(passwords: Passwords) -> None:
    assert extract_parameters(NOBODYS) == RFC_9106_LOW_MEMORY
    asked: list[object] = []

    class Noting(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002
            asked.append(hash)
            return super().verify(hash, password)

    passwords._hasher = Noting.from_parameters(RFC_9106_LOW_MEMORY)
    # Also for the password that it was made of.
    for password in ("anything", "abc"):
        assert not await passwords.check(password, None)
    # And whoever is known, and has none.
    assert not await passwords.check("abc", "")
    assert asked == [NOBODYS] * 3


async def test_a_hash_of_other_parameters_is_checked_and_outdated(passwords: Passwords) -> None:
    hashed = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("password")
    assert await passwords.check("password", hashed)
    assert passwords.is_outdated(hashed)


async def test_few_hash_at_once_and_the_loop_goes_on(passwords: Passwords, slow: Slow) -> None:
    tasks = [asyncio.create_task(passwords.hash("p")) for _ in range(10)]
    while slow.begun < HASHES_AT_ONCE:
        await asyncio.sleep(0)
    slow.may.set()
    assert await asyncio.gather(*tasks) == ["hash"] * 10
    assert slow.most_at_once == HASHES_AT_ONCE


async def test_whoever_leaves_does_not_let_more_hash_at_once(passwords: Passwords, slow: Slow) -> None:
    for _ in range(3):
        tasks = [asyncio.create_task(passwords.hash("p")) for _ in range(4)]
        while slow.begun < HASHES_AT_ONCE:
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    last = asyncio.create_task(passwords.hash("p"))
    slow.may.set()
    assert await last == "hash"
    assert (slow.most_at_once, slow.begun) == (HASHES_AT_ONCE, HASHES_AT_ONCE + 1)


async def test_where_too_many_wait_no_more_are_taken(
    passwords: Passwords, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    tasks = [asyncio.create_task(passwords.hash("p")) for _ in range(HASHES_AT_ONCE + 3)]
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(Unavailable, match="try again") as refused:
            await passwords.check("p", None)
    assert int(refused.value.headers["retry-after"]) > 0
    slow.may.set()
    await asyncio.gather(*tasks)
    assert await passwords.hash("p") == "hash"
