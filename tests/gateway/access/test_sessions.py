from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from gateway.access import sessions as module
from gateway.access.sessions import KEEP_SECONDS, Sessions, cookie
from persistence import sessions as stored
from persistence.database import Database, DatabaseUnavailable
from persistence.sessions import Session
from tests.gateway.access.requests import request_with

DAYS = 30.0
SECONDS = 1.5


class Rows:
    """What PostgreSQL knows of sessions, how often it was asked, and whether it is away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sessions: dict[str, Session] = {}
        self.asked = 0
        self.away = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        for name in ("create", "find", "delete"):
            monkeypatch.setattr(stored, name, getattr(self, name))

    async def create(
        self, database: Database, token: str, user_id: UUID, duration: timedelta, timeout_seconds: float
    ) -> Session:
        self._answer(timeout_seconds)
        session = self.sessions[token] = Session(user_id, datetime.now(UTC) + duration)
        return session

    async def find(
        self, database: Database, token: str, duration: timedelta, timeout_seconds: float
    ) -> Session | None:
        self.asked += 1
        self._answer(timeout_seconds)
        found = self.sessions.get(token)
        await self.may_answer.wait()
        return found

    async def delete(self, database: Database, token: str, timeout_seconds: float) -> None:
        self._answer(timeout_seconds)
        self.sessions.pop(token, None)

    def _answer(self, timeout_seconds: float) -> None:
        assert timeout_seconds == SECONDS
        if self.away:
            raise DatabaseUnavailable("PostgreSQL: gone")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    return Rows(monkeypatch)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def known_away() -> list[bool]:
    """The recorder's word on PostgreSQL: away where there is anything in it."""
    return []


@pytest.fixture
def sessions(rows: Rows, clock: Clock, known_away: list[bool]) -> Sessions:
    return Sessions(Database(None, Path()), DAYS, SECONDS, lambda: bool(known_away), clock)


async def user_of(sessions: Sessions, token: str) -> UUID | None:
    found = await sessions.find(token)
    return None if found is None else found.user_id


async def test_postgresql_is_asked_now_and_then(sessions: Sessions, rows: Rows, clock: Clock) -> None:
    user = uuid4()
    token = await sessions.start(user)
    for _ in range(100):
        assert await user_of(sessions, token) == user
    assert rows.asked == 1
    clock.now += KEEP_SECONDS - 0.01
    assert await user_of(sessions, token) == user
    assert rows.asked == 1
    clock.now += 0.01
    # Ended by another gateway meanwhile.
    rows.sessions.clear()
    assert await user_of(sessions, token) is None
    assert await user_of(sessions, token) is None


async def test_tokens_are_random_and_of_one_form(sessions: Sessions, rows: Rows) -> None:
    tokens = {await sessions.start(uuid4()) for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) == 43 for token in tokens)
    for token in ("", "x", next(iter(tokens))[:-1], next(iter(tokens)) + "0", "é" * 43, "\ud800" * 43):
        assert await sessions.find(token) is None
        await sessions.end(token)
    assert rows.asked == 0


async def test_one_that_was_ended_here_has_ended(sessions: Sessions, rows: Rows) -> None:
    user = uuid4()
    token, other = await sessions.start(user), await sessions.start(user)
    assert await user_of(sessions, token) == await user_of(sessions, other) == user
    await sessions.end(token)
    assert await user_of(sessions, token) is None
    assert await user_of(sessions, other) == user


async def test_what_was_asked_before_the_end_is_not_believed_after_it(sessions: Sessions, rows: Rows) -> None:
    token = await sessions.start(uuid4())
    rows.may_answer.clear()
    asking = asyncio.create_task(sessions.find(token))
    while not rows.asked:
        await asyncio.sleep(0)
    await sessions.end(token)
    rows.may_answer.set()
    await asking
    assert await sessions.find(token) is None


async def test_while_postgresql_is_away_those_that_are_known_go_on(
    sessions: Sessions, rows: Rows, clock: Clock, known_away: list[bool]
) -> None:
    user = uuid4()
    token, unknown = await sessions.start(user), await sessions.start(user)
    assert await user_of(sessions, token) == user
    rows.away = True
    clock.now += 3600
    assert await user_of(sessions, token) == user
    with pytest.raises(DatabaseUnavailable):
        await sessions.find(unknown)
    asked = rows.asked
    known_away.append(True)
    assert await user_of(sessions, token) == user
    assert rows.asked == asked
    # Until they expire.
    rows.sessions[token] = Session(user, datetime.now(UTC) - timedelta(seconds=1))
    rows.away = False
    known_away.clear()
    await sessions.find(token)
    rows.away = True
    known_away.append(True)
    assert await sessions.find(token) is None


async def test_one_that_could_not_be_ended_goes_on(sessions: Sessions, rows: Rows) -> None:
    user = uuid4()
    token = await sessions.start(user)
    rows.away = True
    with pytest.raises(DatabaseUnavailable):
        await sessions.end(token)
    rows.away = False
    assert await user_of(sessions, token) == user


async def test_a_session_slides_once_for_each_answer_of_postgresql(sessions: Sessions, rows: Rows) -> None:
    token = await sessions.start(uuid4())
    rows.sessions[token] = Session(uuid4(), datetime.now(UTC) + timedelta(days=DAYS), slid=True)
    slid = [(await sessions.find(token)) for _ in range(3)]
    assert [one.slid for one in slid if one] == [True, False, False]


async def test_no_more_are_kept_than_may_be(
    sessions: Sessions, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 3)
    tokens = [await sessions.start(uuid4()) for _ in range(5)]
    for token in tokens:
        await sessions.find(token)
    asked = rows.asked
    for token in tokens[2:]:
        await sessions.find(token)
    assert rows.asked == asked
    for token in tokens[:2]:
        await sessions.find(token)
    assert rows.asked == asked + 2
    for _ in range(20):
        await sessions.find(secrets.token_urlsafe(32))
    assert len(sessions._known) == 3


@pytest.mark.parametrize(
    ("scheme", "headers", "secure"),
    [
        ("http", {}, False),
        ("https", {}, True),
        ("http", {"x-forwarded-proto": "https"}, True),
        ("http", {"x-forwarded-proto": "HTTPS, http"}, True),
        ("http", {"x-forwarded-proto": "http, https"}, False),
    ],
)
def test_a_cookie_is_for_the_browser_alone_and_over_tls_where_it_came_so(
    scheme: str, headers: dict[str, str], secure: bool
) -> None:
    given = cookie(request_with(scheme=scheme, **headers), "t0ken", 60)
    assert given.split("; ") == [
        "gateway_session=t0ken",
        "HttpOnly",
        "Max-Age=60",
        "Path=/",
        "SameSite=Lax",
        *(["Secure"] if secure else []),
    ]
